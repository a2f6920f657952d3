"""A finished detector run to a bundle, its points chosen by latency and average precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

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
from engines.closing import Closing
from engines.core import Engine, OperatingPoint, Output, UInt8Array
from engines.detection.architecture import Detector, detector_macs, macs_per_object
from engines.detection.read import read_scenes
from engines.detection.scenes import Scene
from engines.evaluation.detection import check_labels, detection_records, judge, square
from engines.export.calibrate import calibrate
from engines.export.dial import chosen
from engines.export.drafts import NO_HASH, changed, learned_point, serving_engine
from engines.export.pictures import Say
from engines.runs import PointRequest, Run

LEAST_GAIN = 0.02
"""Share of the latency of `full` by which a point has to be faster than a better one. Less than a
classifier's: what a call takes beside its work is little of a detector's."""

_PICTURES = 24
"""Pictures that thresholds are calibrated on and latency is measured on, evenly from all: a search
runs them a dozen times."""


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
    all_points: bool = False,
    say: Say,
) -> Bundle:
    """Write the bundle of a run to `out` and read it back.

    thresholds: of each budget, as trained; they are calibrated, and average precision is measured,
    on the validation split of `data`, with the rounded weights that ship, on the engine that serves
    them. Of the run's points those are shipped that are worth their latency, see
    `engines.export.dial`: the greater AP50 is the better; all_points: every one.
    """
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
    bundle = chosen(
        changed(bundle, points=records), budgets, squares, say,
        least_gain=LEAST_GAIN, keep_all=all_points,
    )  # fmt: skip
    write_bundle(out, bundle.manifest, weights)
    return read_bundle(out)


class Squares:
    """Some pictures as a network sees them, evenly from all; decoded once per image size."""

    def __init__(self, scenes: Sequence[Scene], say: Say) -> None:
        some = np.linspace(0, len(scenes) - 1, min(_PICTURES, len(scenes))).astype(int)
        self._scenes = [scenes[i] for i in some.tolist()]
        self._say = say
        self._found: dict[int, UInt8Array] = {}

    def at(self, size: int) -> UInt8Array:
        """uint8 (N, size, size, 3)."""
        if size not in self._found:
            self._say(f"preparing {len(self._scenes)} validation images at {size} px")
            self._found[size] = np.stack([square(scene, size) for scene in self._scenes])
        return self._found[size]


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
    dense = _Dense(engine, macs_per_object(detector))
    found = calibrate(dense, point, request.budget * static, squares.at(size))
    if not found.reached:
        say(
            f"'{request.name}' cannot reach {request.budget:g} of the MACs by its thresholds: "
            f"kept at {found.macs / static:.3f}, the nearest"
        )
    return found.point


class _Dense(Closing):
    """An engine that counts no mask head: what a budget is of. Whoever loaded it closes it."""

    def __init__(self, engine: Engine, per_object: int) -> None:
        self.engine, self.per_object = engine, per_object
        self.name, self.precision = engine.name, engine.precision

    def infer(self, images: UInt8Array, points: Sequence[OperatingPoint]) -> Output:
        """See `engines.core.Engine`."""
        output = self.engine.infer(images, points)
        counts = np.asarray(output.arrays["counts"], np.float64)
        macs = output.macs - self.per_object * counts
        return replace(output, macs=macs)

    def close(self) -> None:
        """Nothing of its own."""
