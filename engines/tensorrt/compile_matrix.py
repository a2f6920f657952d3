"""What every kernel takes of every device that it is compiled for, without any of them.

    python -m engines.tensorrt.compile_matrix [--sm 86] [--only NAME] [--json FILE]

prints a table and ends with status 1 where a kernel spills on a device with tensor cores, or takes
more shared memory than a program gets without asking. Nothing is run: a table says that kernels
fit, not how fast they are.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from engines.tensorrt.compiling import PTX_VERSIONS, Compiled, compile_kernel
from engines.tensorrt.limits import faults
from engines.tensorrt.spec import (
    WHOLE_MAP,
    ConvSpec,
    DilateSpec,
    KernelSpec,
    PartitionSpec,
)

_SOURCES = ("kernels/convolution.py", "kernels/lists.py", "spec.py", "compiling.py")

CASES: Mapping[str, KernelSpec] = {
    "partition": PartitionSpec(masker=0),
    "dilate, patches of 4": DilateSpec("fp16", patch=4, stride=1),
    "dilate, patches of 4, stride 2": DilateSpec("fp16", patch=4, stride=2),
    "1x1 256 to 64, pixels": ConvSpec("fp16", 256, 64, patch=1),
    "3x3 64, patches of 8": ConvSpec("fp16", 64, 64, kernel=3, patch=8),
    "3x3 128, patches of 4, stride 2": ConvSpec("fp16", 128, 128, kernel=3, stride=2, patch=4),
    "1x1 64 to 256, patches of 8, residual": ConvSpec("fp16", 64, 256, patch=8, add=True),
    "3x3 64, patches of 4, residual, no ReLU": ConvSpec(
        "fp16", 64, 64, kernel=3, patch=4, add=True, relu=False
    ),
    "3x3 64 to 1, pixels, residual, no ReLU": ConvSpec(
        "fp16", 64, 1, kernel=3, patch=1, add=True, relu=False
    ),
    "3x3 512, whole map": ConvSpec("fp16", 512, 512, kernel=3, patch=WHOLE_MAP),
    "1x1 512 to 2048, whole map, residual": ConvSpec("fp16", 512, 2048, patch=WHOLE_MAP, add=True),
    "1x1 1024 to 256 in groups of 64": ConvSpec("fp16", 1024, 256, group=64, written=True),
    "3x3 within groups of 64 of 256": ConvSpec(
        "fp16", 256, 256, kernel=3, group=64, read=True, written=True
    ),
    "1x1 from groups of 8 of 128 to 512, residual": ConvSpec(
        "fp16", 128, 512, group=8, read=True, add=True
    ),
    "3x3 within groups of 8 of 128": ConvSpec(
        "fp16", 128, 128, kernel=3, group=8, read=True, written=True
    ),
    "3x3 within groups of 16 of 128, patches of 4": ConvSpec(
        "fp16", 128, 128, kernel=3, patch=4, group=16, read=True, written=True
    ),
    "3x3 within groups of 2 of 128": ConvSpec(
        "fp16", 128, 128, kernel=3, group=2, read=True, written=True
    ),
    "3x3 within single channels of 64, patches of 4": ConvSpec(
        "fp16", 64, 64, kernel=3, patch=4, group=1, read=True, written=True
    ),
    "1x1 from groups of 12 of 96 to 384, patches of 4, residual": ConvSpec(
        "fp16", 96, 384, patch=4, group=12, read=True, add=True
    ),
    "3x3 20 to 15, patches of 7, stride 2": ConvSpec("fp16", 20, 15, kernel=3, stride=2, patch=7),
    "3x3 64, patches of 8, fp32": ConvSpec("fp32", 64, 64, kernel=3, patch=8),
    "3x3 within groups of 2 of 128, patches of 4, fp32": ConvSpec(
        "fp32", 128, 128, kernel=3, patch=4, group=2, read=True, written=True
    ),
}
"""Layers of ResNets of usual width and of the demo: every kernel and every kind of list."""


@dataclass(frozen=True)
class Row:
    """One kernel on one device; see `compiling.Compiled`."""

    kernel: str
    arch: str
    cc: int
    threads: int
    registers: int
    spilled_bytes: int
    shared_bytes: int
    tensor_cores: bool

    @classmethod
    def of(cls, kernel: str, cc: int, made: Compiled) -> Row:
        """Of a kernel that was compiled for that capability, under a name."""
        return cls(
            kernel=kernel,
            arch=made.arch,
            cc=cc,
            threads=made.threads,
            registers=made.registers,
            spilled_bytes=made.spilled_bytes,
            shared_bytes=made.shared_bytes,
            tensor_cores=made.tensor_cores,
        )

    @property
    def faults(self) -> list[str]:
        """What is too much of it."""
        return faults(self.kernel, self.cc, self)


def matrix(capabilities: Sequence[int], names: Sequence[str]) -> Iterator[Row]:
    """Compile the cases of those names for every capability, one after the other."""
    for name in names:
        for cc in capabilities:
            yield Row.of(name, cc, compile_kernel(CASES[name], cc))


def table(rows: Sequence[Row]) -> str:
    """Markdown: a line for each kernel, a column for each device.

    A cell is registers a thread / KB of shared memory, then bytes spilled if any; `*`: with tensor
    cores.
    """
    archs = list(dict.fromkeys(row.arch for row in rows))
    cells: dict[str, dict[str, str]] = {}
    for row in rows:
        spilled = f" {row.spilled_bytes} B spilled" if row.spilled_bytes else ""
        mark = "*" if row.tensor_cores else ""
        shared = f"{row.shared_bytes / 1024:.3g}"
        cells.setdefault(row.kernel, {})[row.arch] = f"{row.registers} / {shared}{mark}{spilled}"
    lines = [f"| kernel | {' | '.join(archs)} |", f"|---|{'---|' * len(archs)}"]
    for name, found in cells.items():
        lines.append(f"| {name} | {' | '.join(found.get(arch, '') for arch in archs)} |")
    return "\n".join(lines)


def sources() -> str:
    """A hash of everything that a compiled kernel follows from: a table of another is outdated."""
    here = Path(__file__).parent
    digest = hashlib.sha256(repr(CASES).encode())
    for name in _SOURCES:
        digest.update((here / name).read_bytes())
    return digest.hexdigest()


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--sm", type=int, action="append", choices=list(PTX_VERSIONS), metavar="CC",
        help="compute capability, such as 86 (may be repeated) [all]",
    )  # fmt: skip
    parser.add_argument(
        "--only", action="append", choices=list(CASES), metavar="NAME",
        help="kernel, as the table names it (may be repeated) [all]",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures there")
    options = parser.parse_args(arguments)
    rows = list(matrix(options.sm or list(PTX_VERSIONS), options.only or list(CASES)))
    print(table(rows))
    if options.json is not None:
        content = {
            "sources": sources(),
            "versions": {"triton": version("triton")},
            "rows": [asdict(row) for row in rows],
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    found = [fault for row in rows for fault in row.faults]
    for fault in found:
        print(fault, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
