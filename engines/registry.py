"""Which engines there are, each imported only when it is chosen."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from engines.bundle import Bundle
from engines.core import MAX_THREADS, Engine
from engines.errors import EngineError, InvalidInput

DEFAULT_ENGINE = "cpu"

_NATIVE_MODULE = "engines.cpu._native"
_REFERENCE_PRECISION = "fp32"

# From bundle, threads and precision.
Maker = Callable[[Bundle, int | None, str | None], Engine]


def _cpu(bundle: Bundle, threads: int | None, precision: str | None) -> Engine:
    try:
        import_module(_NATIVE_MODULE)
    except ImportError as error:
        raise EngineError(
            f"the cpu engine was not built for this Python ({error}); install laudserve again "
            "where there is a C++ compiler, or take the reference engine"
        ) from None
    if bundle.manifest.detector is not None:
        from engines.cpu.detector import CpuDetector

        return CpuDetector(bundle, threads=threads, precision=precision)
    from engines.cpu.engine import CpuEngine

    return CpuEngine(bundle, threads=threads, precision=precision)


def _reference(bundle: Bundle, threads: int | None, precision: str | None) -> Engine:
    if precision not in (None, _REFERENCE_PRECISION):
        raise InvalidInput(
            f"the reference engine computes in {_REFERENCE_PRECISION} only, got precision "
            f"'{precision}'; the cpu engine has others"
        )
    try:
        if bundle.manifest.detector is not None:
            from engines.reference.detection import ReferenceDetector

            return ReferenceDetector.from_bundle(bundle, threads=threads)
        from engines.reference.engine import ReferenceEngine
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "torchvision"):
            raise
        extra = "reference" if error.name == "torch" else "train"
        raise EngineError(
            f"the reference engine needs {error.name}; install it with: "
            f"pip install 'laudserve[{extra}]'"
        ) from None
    return ReferenceEngine.from_bundle(bundle, threads=threads)


def _tensorrt(bundle: Bundle, threads: int | None, precision: str | None) -> Engine:
    if threads is not None:
        raise InvalidInput("the tensorrt engine runs on a GPU: it takes no threads")
    from engines.tensorrt.loading import load_bundle

    return load_bundle(bundle, precision)


_ENGINES: dict[str, Maker] = {
    DEFAULT_ENGINE: _cpu,
    "reference": _reference,
    "tensorrt": _tensorrt,
}


def engine_names() -> tuple[str, ...]:
    """Names that `load_engine` knows, the default first."""
    return tuple(_ENGINES)


def load_engine(
    bundle: Bundle,
    *,
    kind: str = DEFAULT_ENGINE,
    threads: int | None = None,
    precision: str | None = None,
) -> Engine:
    """Load `bundle` into an engine of that kind.

    threads: None means the engine's own choice. precision: arithmetic of the convolutions, such as
    "fp32"; None means the best that the engine has for this bundle and machine. Raises InvalidInput
    for an unknown kind or a precision that it never has, EngineError when it cannot run here,
    BundleError when it cannot run this bundle.
    """
    try:
        make = _ENGINES[kind]
    except KeyError:
        raise InvalidInput(f"unknown engine '{kind}'; there are: {', '.join(_ENGINES)}") from None
    if threads is not None and not 1 <= threads <= MAX_THREADS:
        raise InvalidInput(f"threads must be 1 to {MAX_THREADS}, got {threads}")
    return make(bundle, threads, precision)
