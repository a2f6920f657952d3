"""Which machine this is, as far as latency depends on it; told without measuring."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Annotated

from pydantic import Field

from engines.core import FrozenModel
from engines.cpu.threads import available_cpus
from engines.errors import EngineError
from engines.manifest import PRECISIONS

MAX_SLUG = 64

_CPUINFO = Path("/proc/cpuinfo")
# What vendors add to a name, and what stands behind it: "(R)", "CPU", "16-Core", "@ 2.70GHz".
_DECORATION = re.compile(r"\((?:r|tm|c)\)|@.*|\b(?:cpu|processor|\d+-core)\b")


class DeviceIdentity(FrozenModel):
    """A machine that the native engine runs on.

    cpu: as the kernel names it. cpus: how many of them this process may use. isa: the instruction
    set of the kernels that run each precision; what cannot run here is not there.
    """

    cpu: Annotated[str, Field(min_length=1)]
    cpus: Annotated[int, Field(ge=1)]
    isa: Annotated[dict[str, str], Field(min_length=1)]

    @property
    def slug(self) -> str:
        """For file names, such as `amd-epyc-2cpu-avx2`: a-z, 0-9 and -, at most MAX_SLUG long."""
        sets = dict.fromkeys(self.isa[p] for p in PRECISIONS if p in self.isa)
        tail = _plain("-".join([f"{self.cpus}cpu", *sets]))
        # The tail tells machines of one name apart, so it is the name that gives way.
        name = _plain(_DECORATION.sub(" ", self.cpu.lower()))[: max(0, MAX_SLUG - len(tail) - 1)]
        return f"{name}-{tail}".strip("-")[:MAX_SLUG]


def this_device() -> DeviceIdentity:
    """The machine that this process runs on.

    The environment's LAUD_CPU_ISA holds, as in the engine. Raises EngineError where the native
    engine was not built or knows no such instruction set.
    """
    try:
        from engines.cpu import _native
        from engines.cpu.loading import ISA_VARIABLE
    except ImportError as error:
        raise EngineError(
            f"the cpu engine was not built for this Python ({error}); install laudserve again "
            "where there is a C++ compiler"
        ) from None
    most = os.environ.get(ISA_VARIABLE, "")
    sets: dict[str, str] = {}
    refusal = ""
    for precision in PRECISIONS:
        try:
            sets[precision] = _native.chosen_isa(precision, most)
        except ValueError as error:
            # One that needs more than there is, or than is allowed; fp32 runs everywhere.
            refusal = str(error)
    if not sets:
        raise EngineError(f"{ISA_VARIABLE}={most}: {refusal}")
    return DeviceIdentity(cpu=cpu_name(), cpus=available_cpus(), isa=sets)


def cpu_name(cpuinfo: Path = _CPUINFO) -> str:
    """The processor's name as the kernel has it; the architecture where it has none."""
    try:
        lines = cpuinfo.read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(filter(None, named), platform.machine())


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
