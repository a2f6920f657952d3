"""TensorRT and TensorRT-RTX, loaded when they are asked for, and what they say while they work.

Both are optional, large, and NVIDIA's; they have one interface, so that one code compiles with
either and runs what either compiled.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any

from engines.errors import EngineError
from engines.tensorrt.plans import TITLES, LibraryName

_BRINGS: dict[LibraryName, str] = {
    "tensorrt": "pip install 'tensorrt-cu13>=10.13,<12' (driver 580 or newer)",
    "tensorrt_rtx": "pip install -c constraints.txt '.[rtx]'",
}
_MOST_SAID = 3


@dataclass
class Said:
    """Faults that the library reported since they were last taken."""

    faults: list[str] = field(default_factory=list)

    def taken(self) -> str:
        """The first of them in one line, which are then forgotten; what follows is consequences."""
        found = [" ".join(fault.split()) for fault in self.faults[:_MOST_SAID]]
        self.faults.clear()
        return "; ".join(found) or "it does not say why"


@dataclass(frozen=True)
class Library:
    """A library that could be loaded. module: all its names. logger: what it takes for one."""

    name: LibraryName
    module: Any
    logger: Any
    said: Said

    @property
    def version(self) -> str:
        """Such as 10.16.1.11."""
        return str(self.module.__version__)

    @property
    def title(self) -> str:
        """As people call it."""
        return TITLES[self.name]


@cache
def library(name: LibraryName) -> Library:
    """Load it, once in a process: it keeps the first logger that it gets.

    Raises EngineError that says how to install it.
    """
    try:
        module = import_module(name)
    except ImportError as error:
        raise EngineError(
            f"{TITLES[name]} cannot be loaded ({error}); install it with: {_BRINGS[name]}"
        ) from None
    said = Said()
    return Library(name, module, _logger(module, said), said)


def start_own_plugins(library: Library) -> None:
    """Register the plugins that the library brings, of which RoiAlign is one. Raises EngineError.

    Whoever compiles or loads a program with such asks before; a second time nothing happens.
    """
    if not library.module.init_libnvinfer_plugins(library.logger, ""):
        raise EngineError(f"{library.title} does not start its own plugins: {library.said.taken()}")


def _logger(module: Any, said: Said) -> Any:
    """A logger that keeps faults and drops the rest."""
    worst = (module.ILogger.Severity.INTERNAL_ERROR, module.ILogger.Severity.ERROR)

    class Logger(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in worst:
                said.faults.append(message)

    return Logger()
