"""`laud export --int8` of detectors: scales from pictures, points measured again in int8."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engines.architecture import only_resnet
from engines.bundle import Bundle, Calibration, Quantisation, read_bundle, write_bundle
from engines.core import Engine, OperatingPoint, UInt8Array
from engines.detection.agreement import agreement
from engines.detection.architecture import Detector, macs_per_object
from engines.detection.letterbox import detections_of
from engines.detection.read import read_folder, read_scenes
from engines.detection.scenes import Detections, Scene, SceneSet
from engines.errors import BundleError
from engines.evaluation.detection import (
    DetectionResult,
    check_labels,
    detection_records,
    judge,
    square,
)
from engines.export.calibrate import calibrate, mean_macs
from engines.export.dense import Dense, Squares, some_scenes
from engines.export.detector_ranges import detector_scales, observe_detector
from engines.export.drafts import changed, checked_floats, serving_engine
from engines.export.pictures import Say
from engines.export.ranges import METHODS, Method
from engines.models.checkpoints import load_strictly
from engines.models.detection import LaudDetector


def quantise_detector_bundle(
    bundle: Bundle, out: Path, *, calibration: Path, data: Path | None, say: Say
) -> Bundle:
    """As `engines.export.int8.quantise_bundle`, of a bundle that finds objects.

    calibration: an annotated split, of which only the pictures count. Raises ConfigError for one
    that is not, and for other labels where average precision is measured.
    """
    chosen = read_folder(calibration)
    scenes = chosen if data is None else read_scenes(data, "validation")
    check_labels(scenes, bundle.manifest.labels)
    found = quantised_detector(bundle, chosen, scenes, say)
    write_bundle(out, found.manifest, found.weights)
    return read_bundle(out)


def quantised_detector(
    bundle: Bundle,
    calibration: SceneSet,
    scenes: SceneSet,
    say: Say,
    floats: Sequence[DetectionResult] | None = None,
) -> Bundle:
    """The bundle with scales and int8 points; nothing is written.

    calibration: the pictures that give the scales. scenes: what points are calibrated and measured
    on. floats: what the float form found on these, if that is known.
    """
    manifest = bundle.manifest
    detector = _detector(bundle)
    points = [record.point for record in manifest.points]
    with serving_engine(bundle, "fp32", say) as engine:
        if floats is None:
            say("measuring the float form")
            floats = _judged(bundle, engine, points, scenes, say)
        dense = Dense(engine, macs_per_object(detector))
        squares = Squares(scenes.scenes, say)
        wanted = [mean_macs(dense, point, squares.at(point.image_size)) for point in points]
    candidates = _candidates(bundle, calibration, say)
    best = candidates[_best(candidates, floats, scenes.scenes, say)]
    with serving_engine(best, "int8", say) as engine:
        again = [
            _calibrated(engine, detector, point, macs, squares, say)
            for point, macs in zip(points, wanted, strict=True)
        ]
        say("measuring average precision in int8")
        results = _judged(bundle, engine, again, scenes, say)
    alike = tuple(
        agreement(one.found, other.found) for one, other in zip(results, floats, strict=True)
    )
    for result, before, share in zip(results, floats, alike, strict=True):
        say(
            f"'{result.point.name}': AP50 {before.accuracy.value:.4f} in float, "
            f"{result.accuracy.value:.4f} in int8; {share:.1%} of the objects are found by both"
        )
    scales = best.manifest.quantisation
    if scales is None:
        raise BundleError(f"'{bundle.path}' lost its scales")
    found = {
        "points": detection_records(results, scenes.split),
        "calibration": scales.calibration.model_copy(update={"agreement": alike}),
    }
    return changed(bundle, quantisation=scales.model_copy(update=found))


def _detector(bundle: Bundle) -> Detector:
    if bundle.manifest.detector is None:
        raise BundleError(f"'{bundle.path}' finds no objects: its task is {bundle.manifest.task}")
    return bundle.manifest.detector


def _candidates(bundle: Bundle, calibration: SceneSet, say: Say) -> dict[Method, Bundle]:
    """Scales of every way to clip, with the float points until these are measured in int8."""
    manifest, pictures = bundle.manifest, calibration.scenes
    net = only_resnet(manifest.architecture, f"'{bundle.path}': int8")
    model = LaudDetector(net, _detector(bundle))
    load_strictly(model, checked_floats(bundle))
    points = [record.point for record in manifest.points]

    def pixels(place: int, size: int) -> UInt8Array:
        return square(pictures[place], size)

    seen = observe_detector(model, points, pixels, len(pictures), manifest.preprocessing, say)
    found: dict[Method, Bundle] = {}
    for method in METHODS:
        note = Calibration(
            images=seen.pictures,
            split=calibration.split,
            method=method,
            agreement=(1.0,) * len(points),
        )
        scales = Quantisation(
            **detector_scales(model, seen.ranges, method), points=manifest.points, calibration=note
        )
        found[method] = changed(bundle, quantisation=scales)
    return found


def _best(
    candidates: dict[Method, Bundle],
    floats: Sequence[DetectionResult],
    scenes: Sequence[Scene],
    say: Say,
) -> Method:
    """The clipping that finds what the float form finds, at the points that skip nothing, which
    thresholds do not blur."""
    some = some_scenes(scenes)
    static = [result for result in floats if result.point.skips_nothing]
    alike: dict[Method, float] = {}
    for method, bundle in candidates.items():
        with serving_engine(bundle, "int8", say) as engine:
            shares = [
                agreement(
                    [_seen(engine, result.point, scenes[i]) for i in some],
                    [result.found[i] for i in some],
                )
                for result in static
            ]
        alike[method] = float(np.mean(shares))
        say(f"clipping by '{method}': {alike[method]:.2%} of the objects are found by both forms")
    return max(alike, key=lambda method: alike[method])


def _seen(engine: Engine, point: OperatingPoint, scene: Scene) -> Detections:
    size = point.image_size
    output = engine.infer(square(scene, size)[np.newaxis], (point,))
    return detections_of(output, 0, size, scene.width, scene.height)


def _calibrated(
    engine: Engine,
    detector: Detector,
    point: OperatingPoint,
    macs: float,
    squares: Squares,
    say: Say,
) -> OperatingPoint:
    """The float point at the same cost in int8."""
    if all(threshold is None for threshold in point.thresholds):
        return point
    say(f"calibrating '{point.name}' in int8 to {macs / 1e6:.0f} M MACs")
    dense = Dense(engine, macs_per_object(detector))
    found = calibrate(dense, point, macs, squares.at(point.image_size))
    if not found.reached:
        say(
            f"'{point.name}' cannot reach {macs / 1e6:.0f} M MACs in int8 by its thresholds: "
            f"kept at {found.macs / 1e6:.0f} M, the nearest"
        )
    return found.point


def _judged(
    bundle: Bundle,
    engine: Engine,
    points: Sequence[OperatingPoint],
    scenes: SceneSet,
    say: Say,
) -> list[DetectionResult]:
    each = macs_per_object(_detector(bundle))
    labels = bundle.manifest.labels
    return [
        judge(engine, point, scenes.scenes, labels, per_object=each, say=say) for point in points
    ]
