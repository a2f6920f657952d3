"""Made-up reports of a detector."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from engines.bundle import Bundle
from engines.core import static_point
from engines.detection.intervals import RESAMPLES, Bounded, Intervals
from engines.detection.scores import DetectionScores
from engines.evaluation.detection import DetectionPlan, DetectionReport, DetectionResult
from engines.evaluation.report import timing_of
from engines.evaluation.timing import Latency
from tests.engines.detection.manifests import detector_manifest
from tests.engines.detection.networks import DETECTOR


def detection_report(
    *,
    masks: bool = True,
    timed: bool = True,
    skips: float | None = None,
    fixed: float | None = None,
) -> DetectionReport:
    """Points `full` (40 ms) and `size-320` (15 ms); AP of masks .5 and .4, of boxes .1 more.

    skips: milliseconds of a third point `skip-512-50`, AP .45. fixed: of its fixed mask, AP .42.
    """
    times = {"full": 40.0, "size-320": 15.0} if timed else {}
    if skips is not None:
        times["skip-512-50"] = skips
    if fixed is not None:
        times["skip-512-50 (fixed mask)"] = fixed
    latencies = {name: Latency(ms, 1.2 * ms, 20, 0.05, ms) for name, ms in times.items()}
    manifest = detector_manifest(DETECTOR.model_copy(update={"masks": masks}))
    return DetectionReport(
        bundle=Bundle(Path("things.laud"), manifest, "0" * 64, {}),
        plan=DetectionPlan(fixed_masks=fixed is not None),
        folder=Path("test"),
        precision="fp32",
        isa=None,
        threads=2,
        timing=timing_of(1.0 if timed else None, latencies),
        results=(
            _result("full", 512, 0.5, masks),
            *([] if skips is None else [_result("skip-512-50", 512, 0.45, masks)]),
            *([] if fixed is None else [_fixed("skip-512-50", 512, 0.42, masks)]),
            _result("size-320", 320, 0.4, masks),
        ),
        latencies=latencies,
    )


def _result(name: str, size: int, value: float, masks: bool) -> DetectionResult:
    scores = DetectionScores(images=81, objects=3508, box_ap=value + 0.1, box_ap50=value + 0.4)
    return DetectionResult(
        point=static_point(name, size, 1).model_copy(
            update={"thresholds": (0.0 if name.startswith("skip") else None,)}
        ),
        scores=scores,
        boxes=_intervals(value + 0.1),
        masks=_intervals(value) if masks else None,
        activation=(),
        macs=1e9,
        dense_macs=9e8,
        cost_area_correlation=None,
        padding=0.1,
    )


def _fixed(of: str, size: int, value: float, masks: bool) -> DetectionResult:
    return replace(_result("static", size, value, masks), point=static_point(of, size, 1), of=of)


def _intervals(value: float) -> Intervals:
    ap, ap50, ap75 = (Bounded(v, v - 0.04, v + 0.03) for v in (value, value + 0.3, value + 0.2))
    rng = np.random.default_rng(round(1000 * value))
    drawn = rng.normal((ap.value, ap50.value, ap75.value), 0.02, (RESAMPLES, 3))
    return Intervals(ap, ap50, ap75, drawn)
