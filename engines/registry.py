"""Which engines there are, each imported only when it is chosen."""

from __future__ import annotations

from collections.abc import Callable

from engines.bundle import Bundle
from engines.core import Engine
from engines.errors import EngineError, InvalidInput


def _reference(bundle: Bundle, threads: int | None) -> Engine:
    try:
        from engines.reference.engine import ReferenceEngine
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise EngineError(
            "the reference engine needs torch; install it with: pip install 'laudserve[reference]'"
        ) from None
    return ReferenceEngine.from_bundle(bundle, threads=threads)


_ENGINES: dict[str, Callable[[Bundle, int | None], Engine]] = {"reference": _reference}


def engine_names() -> tuple[str, ...]:
    """Names that `load_engine` knows."""
    return tuple(_ENGINES)


def load_engine(bundle: Bundle, *, kind: str = "reference", threads: int | None = None) -> Engine:
    """Load `bundle` into an engine of that kind; threads None means the engine's own choice.

    Raises InvalidInput for an unknown kind, EngineError when it cannot run here.
    """
    try:
        make = _ENGINES[kind]
    except KeyError:
        raise InvalidInput(f"unknown engine '{kind}'; there are: {', '.join(_ENGINES)}") from None
    if threads is not None and threads < 1:
        raise InvalidInput(f"threads must be at least 1, got {threads}")
    return make(bundle, threads)
