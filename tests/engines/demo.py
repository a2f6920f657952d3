"""The demo with a point that skips inside the network, whether its own dial has one or not."""

from __future__ import annotations

from pathlib import Path

from engines.bundle import Bundle, read_bundle, write_bundle
from engines.export.drafts import changed
from engines.manifest import PointRecord, Quantisation

DEMO = "zoo:clothing"
SKIP, SKIP_OF, RATE = "skip-64-65", "size-64", 0.6

THRESHOLDS = (
    *(-0.03, 3.41, 2.56, -0.89, 0.25, -0.09, -0.36),
    *(-1.09, -0.41, -0.76, -1.05, -0.84, -0.78, -0.37, -0.38, -1.0),
)
"""About the medians of logits of its maskers, at which pictures decide differently."""


def skipping_demo() -> Bundle:
    """Not on disk. Every masker is asked; what is recorded of the point is made up: a share RATE of
    all units."""
    bundle = read_bundle(DEMO)
    scales = bundle.manifest.quantisation
    assert scales is not None
    content = {name: getattr(scales, name) for name in Quantisation.model_fields}
    content["points"] = _with_skip(scales.points)
    agreement = {
        record.point.name: share
        for record, share in zip(scales.points, scales.calibration.agreement, strict=True)
    }
    content["calibration"] = scales.calibration.model_copy(
        update={
            "agreement": tuple(
                agreement.get(record.point.name, agreement[SKIP_OF]) for record in content["points"]
            )
        }
    )
    return changed(
        bundle,
        points=_with_skip(bundle.manifest.points),
        quantisation=Quantisation.model_validate(content),
        dial=None,
    )


def write_skipping_demo(path: Path) -> Path:
    """The same on disk, at that path."""
    bundle = skipping_demo()
    write_bundle(path, bundle.manifest, bundle.weights)
    return path


def _with_skip(records: tuple[PointRecord, ...]) -> tuple[PointRecord, ...]:
    own = [record for record in records if record.point.name != SKIP]
    like = next(record for record in own if record.point.name == SKIP_OF)
    maskers = len(like.activation)
    point = like.point.model_copy(update={"name": SKIP, "thresholds": THRESHOLDS})
    work = {"macs": like.macs * RATE, "macs_ratio": like.macs_ratio * RATE}
    return (*own, like.model_copy(update={"point": point, "activation": (RATE,) * maskers, **work}))
