"""Bundles that are not written yet: changing them, running them, and what was measured of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from engines.architecture import RegNet, ResNet
from engines.bundle import Bundle, Manifest, PointRecord
from engines.caps import macs_bound
from engines.core import Engine, OperatingPoint, static_point
from engines.errors import BundleError, ConfigError, EngineError
from engines.evaluation import PointResult, point_records
from engines.export.pictures import Say
from engines.registry import load_engine
from engines.runs import PointRequest

NO_HASH = "0" * 64


def learned_point(
    request: PointRequest, thresholds: Mapping[float, tuple[float | None, ...]], maskers: int
) -> OperatingPoint:
    """A point as training left it; thresholds: per budget, one a masker. ConfigError where the run
    trained none for it."""
    static = static_point(request.name, request.image_size, maskers)
    if request.budget is None:
        return static
    if request.budget not in thresholds:
        raise ConfigError(f"the run trained no budget {request.budget:g} for '{request.name}'")
    return static.model_copy(update={"thresholds": tuple(thresholds[request.budget])})


def changed(bundle: Bundle, **fields: Any) -> Bundle:
    """The bundle with fields of its manifest replaced, and the manifest validated as a whole."""
    content = {name: getattr(bundle.manifest, name) for name in Manifest.model_fields}
    manifest = Manifest.model_validate({**content, **fields})
    return Bundle(bundle.path, manifest, bundle.hash, bundle.weights)


def serving_engine(bundle: Bundle, precision: Literal["fp32", "int8"], say: Say) -> Engine:
    """The native engine in that precision, since thresholds hold for the engine that serves them.

    Where it cannot run the network, or not here, the reference does; `say` hears of it.
    """
    try:
        return load_engine(bundle, kind="cpu", precision=precision)
    except (EngineError, BundleError) as error:
        if precision == "int8":
            if isinstance(error, BundleError):
                raise
            say(f"{error}; the integer reference gives the same answers, slowly")
            return _integer_reference(bundle)
        say(f"{error}; the reference engine answers instead, slowly")
        return load_engine(bundle, kind="reference")


def _integer_reference(bundle: Bundle) -> Engine:
    if bundle.manifest.detector is not None:
        from engines.reference.integer_detection import IntegerDetector

        return IntegerDetector(bundle)
    from engines.reference.integer import IntegerReference

    return IntegerReference(bundle)


def checked_floats(bundle: Bundle) -> dict[str, npt.NDArray[np.float32]]:
    """The weights, widened. BundleError names those that are no numbers."""
    broken = [name for name, value in bundle.weights.items() if not np.isfinite(value).all()]
    if broken:
        raise BundleError(f"'{bundle.path}' has weights that are no numbers: {', '.join(broken)}")
    return {name: np.asarray(value, np.float32) for name, value in bundle.weights.items()}


def measured_records(
    net: ResNet | RegNet,
    results: Sequence[PointResult],
    labels: npt.NDArray[np.int64],
    split: str,
) -> tuple[PointRecord, ...]:
    """What manifests keep of results, losses and bounds included; the first is `full`."""
    return tuple(
        record.model_copy(
            update={
                "log_loss": float(result.losses.mean()),
                "macs_bound": macs_bound(net, result.point),
            }
        )
        for record, result in zip(point_records(results, labels, split), results, strict=True)
    )
