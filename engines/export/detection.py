"""A finished detector run to a bundle: every trained image size a point, nothing skipped."""

from __future__ import annotations

from collections.abc import Sequence
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
from engines.core import static_point
from engines.detection.architecture import Detector, detector_macs
from engines.detection.read import read_scenes
from engines.evaluation.detection import check_labels, detection_records, judge
from engines.export.drafts import NO_HASH, serving_engine
from engines.export.pictures import Say
from engines.runs import Run


def export_detector(
    run: Run,
    detector: Detector,
    provenance: Provenance,
    weights: Weights,
    versions: dict[str, str],
    out: Path,
    *,
    data: Path,
    say: Say,
) -> Bundle:
    """Write the bundle of a run to `out` and read it back.

    Average precision is measured on the validation split of `data`, with the rounded weights that
    ship, on the engine that serves them.
    """
    scenes = read_scenes(data, "validation")
    check_labels(scenes, run.labels)
    points = [static_point(request.name, request.image_size, 0) for request in run.points]
    first = detector_macs(run.architecture, detector, MapSize(*[points[0].image_size] * 2))
    draft = PointRecord(point=points[0], activation=(), macs=first.dense, macs_ratio=1.0)

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
    say("measuring average precision on the weights that ship")
    with serving_engine(bundle, "fp32", say) as engine:
        results = [judge(engine, point, scenes.scenes, run.labels, say=say) for point in points]
    records = detection_records(results, "validation")
    write_bundle(out, manifest(records), weights)
    return read_bundle(out)
