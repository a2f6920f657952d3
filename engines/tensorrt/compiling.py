"""Kernels to PTX for a device that need not be here, with what they take of it.

The assembler that comes with Triton is asked for registers, spills and shared memory; nothing
runs. Not to be used in a process where Triton interprets (TRITON_INTERPRET).
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from engines.errors import EngineError, InvalidInput
from engines.tensorrt.kernels.convolution import sparse_conv
from engines.tensorrt.kernels.lists import dilate, partition
from engines.tensorrt.spec import KernelSpec, Signature

# The oldest PTX that has what the device needs: a driver compiles no newer one than itself.
PTX_VERSIONS = {75: 80, 80: 80, 86: 80, 89: 80, 90: 83, 100: 86, 120: 87}
"""By compute capability, which are those that kernels are compiled for."""

_KERNELS = {kernel.__name__: kernel for kernel in (partition, dilate, sparse_conv)}
_WARP = 32
# What a thread can have.
_MOST_REGISTERS = 255
_ALIGNMENT = 16
# From this capability on Triton brings another assembler.
_NEW_ASSEMBLER_FROM = 90
_ENTRY = re.compile(r"\.visible \.entry (\w+)\((.*?)\)", re.DOTALL)
_SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")
_TENSOR_CORES = re.compile(r"\b(mma\.sync|wgmma\.mma_async|tcgen05\.mma)")


@dataclass(frozen=True)
class Compiled:
    """A kernel's entry, its PTX, and what one program takes.

    arch: what it runs on, such as sm_86. registers, spilled_bytes: a thread's; shared_bytes: a
    program's. tensor_cores: whether it multiplies with them.
    """

    entry: str
    ptx: str
    arch: str
    threads: int
    registers: int
    spilled_bytes: int
    shared_bytes: int
    tensor_cores: bool


def compile_kernel(spec: KernelSpec, cc: int) -> Compiled:
    """Compile for a compute capability of PTX_VERSIONS; InvalidInput for another.

    The entry's parameters are exactly the arguments of the specification's signature. Raises
    EngineError where Triton needs memory of its own for it, or the assembler refuses it.
    """
    if cc not in PTX_VERSIONS:
        raise InvalidInput(
            f"kernels are not compiled for compute capability {cc}; there are: "
            f"{', '.join(map(str, PTX_VERSIONS))}"
        )
    signature = spec.signature(cc)
    made = _compiled(signature, cc, {})
    if made.spilled_bytes:
        # Left to itself the assembler may spill a little to have more programs at once.
        made = _compiled(signature, cc, {"maxnreg": _MOST_REGISTERS})
    return made


def _compiled(signature: Signature, cc: int, options: dict[str, int]) -> Compiled:
    kernel = _KERNELS[signature.kernel]
    names: list[str] = list(kernel.arg_names)
    source = ASTSource(
        fn=kernel,
        signature={name: signature.arguments.get(name, "constexpr") for name in names},
        constexprs=signature.constants,
        attrs={
            (names.index(name),): [["tt.divisibility", _ALIGNMENT]]
            for name, kind in signature.arguments.items()
            if kind.startswith("*")
        },
    )
    made = triton.compile(
        source,
        target=GPUTarget("cuda", cc, _WARP),
        options={
            "num_warps": signature.warps,
            "num_stages": signature.stages,
            "ptx_version": PTX_VERSIONS[cc],
            "enable_fp_fusion": True,
            **options,
        },
    )
    scratch = made.metadata.global_scratch_size + made.metadata.profile_scratch_size
    if scratch:
        raise EngineError(f"{signature.kernel}: Triton wants {scratch} bytes of memory of its own")
    ptx, entry = _own_parameters(made.asm["ptx"], signature)
    arch = _found(re.search(r"\.target (\w+)", ptx), "target").group(1)
    report = _assembled(ptx, arch, cc)
    spills = _SPILLS.findall(report)
    return Compiled(
        entry=entry,
        ptx=ptx,
        arch=arch,
        threads=signature.warps * _WARP,
        registers=int(_found(_REGISTERS.search(report), "registers").group(1)),
        spilled_bytes=sum(int(stores) + int(loads) for stores, loads in spills),
        shared_bytes=int(made.metadata.shared),
        tensor_cores=_TENSOR_CORES.search(ptx) is not None,
    )


def _own_parameters(ptx: str, signature: Signature) -> tuple[str, str]:
    """PTX without the parameters that Triton adds at the end, and the entry's name.

    They are for scratch memory, which nobody has here: whoever launches gives our arguments alone.
    """
    entry = _found(_ENTRY.search(ptx), "entry")
    parameters = [each.strip() for each in entry.group(2).split(",\n")]
    kept = parameters[: len(signature.arguments)]
    if len(kept) < len(signature.arguments):
        raise EngineError(f"{signature.kernel}: PTX has {len(kept)} parameters")
    for each in parameters[len(kept) :]:
        name = each.split()[-1]
        if len(re.findall(rf"\b{re.escape(name)}\b", ptx)) != 1:
            raise EngineError(f"{signature.kernel}: PTX reads the parameter {name} of Triton's own")
    listed = "\n\t" + ",\n\t".join(kept) + "\n"
    return ptx[: entry.start(2)] + listed + ptx[entry.end(2) :], entry.group(1)


def _assembled(ptx: str, arch: str, cc: int) -> str:
    """What the assembler reports of it."""
    name = "ptxas-blackwell" if cc >= _NEW_ASSEMBLER_FROM else "ptxas"
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx, encoding="utf-8")
        command = [str(tool), "-v", f"-arch={arch}", "-o", os.devnull, str(path)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise EngineError(f"cannot run Triton's assembler '{name}': {error.strerror}") from None
    if done.returncode:
        raise EngineError(f"the assembler refuses a kernel for {arch}: {done.stderr.strip()}")
    return done.stderr


def _found(match: re.Match[str] | None, what: str) -> re.Match[str]:
    if match is None:
        raise EngineError(f"Triton or its assembler answers without {what}: another version?")
    return match
