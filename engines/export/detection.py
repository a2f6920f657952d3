"""A finished detector run to a bundle, its points chosen by latency and average precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from engines.architecture import MapSize
from engines.bundle import (
    Bundle,
    Manifest,
    PointRecord,
    Provenance,
    Weights,
    WeightsFile,
    read_bundle,
    write_bundle,
)
from engines.core import Engine, OperatingPoint
from engines.detection.architecture import Detector, detector_macs, macs_per_object
from engines.detection.read import read_folder, read_scenes
from engines.evaluation.detection import check_labels, detection_records, judge
from engines.export.calibrate import calibrate
from engines.export.dense import Dense, Squares
from engines.export.detector_int8 import quantised_detector
from engines.export.dial import chosen
from engines.export.drafts import NO_HASH, changed, learned_point, serving_engine
from engines.export.pictures import Say
from engines.runs import PointRequest, Run

LEAST_GAIN = 0.02
"""Share of the latency of `full` by which a point has to be faster than a better one. Less than a
classifier's: what a call takes beside its work is little of a detector's."""


def export_detector(
    run: Run,
    detector: Detector,
    thresholds: Mapping[float, tuple[float | None, ...]],
    provenance: Provenance,
    weights: Weights,
    versions: dict[str, str],
    out: Path,
    *,
    data: Path,
    calibration: Path | None = None,
    all_points: bool = False,
    say: Say,
) -> Bundle:
    """Write the bundle of a run to `out` and read it back.

    thresholds: of each budget, as trained; they are calibrated, and average precision is measured,
    on the validation split of `data`, with the rounded weights that ship, on the engine that serves
    them. Of the run's points those are shipped that are worth their latency, see
    `engines.export.dial`: the greater AP50 is the better; all_points: every one. calibration: an
    annotated split whose pictures give int8 scales.
    """
    shown = None if calibration is None else read_folder(calibration)
    scenes = read_scenes(data, "validation")
    check_labels(scenes, run.labels)
    maskers = len(run.architecture.maskers) + detector.num_maskers
    points = [learned_point(request, thresholds, maskers) for request in run.points]
    first = detector_macs(run.architecture, detector, MapSize(*[points[0].image_size] * 2))
    draft = PointRecord(
        point=points[0], activation=(1.0,) * maskers, macs=first.dense, macs_ratio=1.0
    )

    def manifest(records: Sequence[PointRecord]) -> Manifest:
        return Manifest(
            name=run.name,
            task=run.task,
            labels=run.labels,
            preprocessing=run.preprocessing,
            architecture=run.architecture,
            detector=detector,
            points=tuple(records),
            weights=WeightsFile(dtype="fp16", sha256=NO_HASH),
            provenance=provenance,
            versions=versions,
        )

    bundle = Bundle(out, manifest((draft,)), NO_HASH, weights)
    each = macs_per_object(detector)
    squares = Squares(scenes.scenes, say)
    with serving_engine(bundle, "fp32", say) as engine:
        settled = [
            _calibrated(engine, run, detector, request, point, squares, say)
            for request, point in zip(run.points, points, strict=True)
        ]
        say("measuring average precision on the weights that ship")
        results = [
            judge(engine, point, scenes.scenes, run.labels, per_object=each, say=say)
            for point in settled
        ]
    records = detection_records(results, "validation")
    budgets = {request.name: request.budget for request in run.points}
    bundle = changed(bundle, points=records)
    if shown is not None:
        bundle = quantised_detector(bundle, shown, scenes, say, results)
    bundle = chosen(
        bundle, budgets, squares, say,
        least_gain=LEAST_GAIN, keep_all=all_points,
    )  # fmt: skip
    write_bundle(out, bundle.manifest, weights)
    return read_bundle(out)


def _calibrated(
    engine: Engine,
    run: Run,
    detector: Detector,
    request: PointRequest,
    point: OperatingPoint,
    squares: Squares,
    say: Say,
) -> OperatingPoint:
    """Shift thresholds until pictures take the budget, of backbone, pyramid and dense heads."""
    if request.budget is None:
        return point
    size = request.image_size
    say(f"calibrating '{request.name}' to {request.budget:g} of the MACs at {size} px")
    static = detector_macs(run.architecture, detector, MapSize(size, size)).dense
    dense = Dense(engine, macs_per_object(detector))
    found = calibrate(dense, point, request.budget * static, squares.at(size))
    if not found.reached:
        say(
            f"'{request.name}' cannot reach {request.budget:g} of the MACs by its thresholds: "
            f"kept at {found.macs / static:.3f}, the nearest"
        )
    return found.point
