"""Judging a detector: average precision of each operating point on annotated pictures.

Pictures take the way of the service: decoded for the point's size, shown whole, found objects moved
back to the picture's own pixels.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engines.bench.timing import tolerance
from engines.bundle import Accuracy, Bundle, PointRecord, read_bundle
from engines.core import Engine, OperatingPoint, Output, UInt8Array
from engines.detection.architecture import macs_per_object
from engines.detection.intervals import (
    RESAMPLES,
    Bounded,
    Intervals,
    ap_intervals,
    difference_at_50,
)
from engines.detection.letterbox import decode_whole, detections_of, inner_size
from engines.detection.read import read_folder
from engines.detection.scenes import Detections, Scene, SceneSet
from engines.detection.scores import DetectionScores, score
from engines.errors import BundleError, ConfigError, ImageError
from engines.evaluation.plan import check_seconds
from engines.evaluation.points import Say, Trial
from engines.evaluation.report import Timing, timing_of
from engines.evaluation.statistics import pearson
from engines.evaluation.timing import Latency, Timed, measure_latency
from engines.registry import DEFAULT_ENGINE, load_engine

MOST_TIMED = 20
"""Pictures that latency is measured on, evenly from all of them: calls take long."""

_SAY_EVERY_S = 10.0


@dataclass(frozen=True, eq=False)
class DetectionResult:
    """What one point did on pictures.

    boxes, masks: average precision with intervals; masks None where there are none. activation:
    mean share of active units per masker, (maskers,). macs: mean per picture, mask head included;
    dense_macs: without it, what budgets are of. cost_area_correlation: of each picture's dense
    operations with the share of the network's input that its objects' boxes cover; None where one
    of the two does not vary. padding: mean share of the network's input that is no picture. found:
    in each picture.
    """

    point: OperatingPoint
    scores: DetectionScores
    boxes: Intervals
    masks: Intervals | None
    activation: tuple[float, ...]
    macs: float
    dense_macs: float
    cost_area_correlation: float | None
    padding: float
    found: tuple[Detections, ...] = ()

    @property
    def best(self) -> Intervals:
        """Of masks where there are any, else of boxes."""
        return self.boxes if self.masks is None else self.masks

    @property
    def accuracy(self) -> Bounded:
        """What counts as the point's accuracy: AP50."""
        return self.best.ap50


@dataclass(frozen=True)
class SizeRival:
    """A point that skips beside the best smaller image, or `full`, that takes no longer.

    rival: its name. ap50: the point's less the rival's, of masks where there are any. Both None
    where none is as fast.
    """

    point: str
    rival: str | None
    ap50: Bounded | None


@dataclass(frozen=True)
class DetectionPlan:
    """What to measure, and how. points: all, where none is named. precision: None: the engine's
    best. latency_s: seconds to time for, all points together; None: nothing is timed."""

    points: tuple[str, ...] | None = None
    engine: str = DEFAULT_ENGINE
    precision: str | None = None
    threads: int | None = None
    latency_s: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_seconds(self.latency_s)


@dataclass(frozen=True, eq=False)
class DetectionReport:
    """All that an evaluation found; latencies by point, empty where nothing was timed."""

    bundle: Bundle
    plan: DetectionPlan
    folder: Path
    precision: str
    isa: str | None
    threads: int | None
    timing: Timing | None
    results: tuple[DetectionResult, ...]
    latencies: dict[str, Latency]

    def rivals(self) -> list[SizeRival]:
        """Every point that skips beside its free rival."""
        sizes = [result for result in self.results if result.point.skips_nothing]
        most = 1.0 + tolerance(self.timing.noise if self.timing else 0.0)
        found: list[SizeRival] = []
        for result in self.results:
            if result.point.skips_nothing:
                continue
            limit = most * self._cost(result)
            fast = [each for each in sizes if self._cost(each) <= limit]
            best = max(fast, key=lambda each: each.accuracy.value, default=None)
            if best is None:
                found.append(SizeRival(result.point.name, None, None))
            else:
                ap50 = difference_at_50(result.best, best.best)
                found.append(SizeRival(result.point.name, best.point.name, ap50))
        return found

    def _cost(self, result: DetectionResult) -> float:
        """Median latency where it was measured, else multiply-accumulates."""
        latency = self.latencies.get(result.point.name)
        return result.macs if latency is None else latency.p50_ms

    def flat(self) -> dict[str, Any]:
        """As `laud evaluate --json` prints it."""
        timing = self.timing
        return {
            "bundle": self.bundle.hash,
            "name": self.bundle.manifest.name,
            "task": self.bundle.manifest.task,
            "engine": self.plan.engine,
            "precision": self.precision,
            "isa": self.isa,
            "threads": self.threads,
            "folders": [str(self.folder)],
            "seed": self.plan.seed,
            "resamples": RESAMPLES,
            "latency_seconds": timing.seconds if timing else None,
            "latency_calls": timing.calls if timing else None,
            "latency_noise": timing.noise if timing else None,
            "compared_by": "latency" if timing else "macs",
            "points": [self._flat(result) for result in self.results],
            "rivals": [
                {
                    "point": each.point,
                    "rival": each.rival,
                    **{
                        f"ap50_{end}": None if each.ap50 is None else getattr(each.ap50, of)
                        for end, of in (("minus", "value"), ("low", "low"), ("high", "high"))
                    },
                }
                for each in self.rivals()
            ],
        }

    def _flat(self, result: DetectionResult) -> dict[str, Any]:
        kinds = {"box": result.boxes, "mask": result.masks}
        ends = {
            f"{kind}_{name}_{end}": None if of is None else getattr(getattr(of, name), end)
            for kind, of in kinds.items()
            for name in ("ap", "ap50", "ap75")
            for end in ("low", "high")
        }
        latency, accuracy = self.latencies.get(result.point.name), result.accuracy
        return {
            "name": result.point.name,
            "image_size": result.point.image_size,
            **result.scores.model_dump(mode="json"),
            **ends,
            "accuracy": accuracy.value,
            "accuracy_low": accuracy.low,
            "accuracy_high": accuracy.high,
            "macs": result.macs,
            "macs_ratio": self.macs_ratio(result),
            "activation": result.activation,
            "cost_area_correlation": result.cost_area_correlation,
            "latency_p50_ms": latency.p50_ms if latency else None,
            "latency_p95_ms": latency.p95_ms if latency else None,
            "latency_noise": latency.noise if latency else None,
            "padding": result.padding,
        }

    def macs_ratio(self, result: DetectionResult) -> float | None:
        """Dense operations over those of `full`, where that was measured too."""
        first = self.results[0]
        full = first.point.name == "full"
        return result.dense_macs / first.dense_macs if full else None


def judge(
    engine: Engine,
    point: OperatingPoint,
    scenes: Sequence[Scene],
    labels: Sequence[str],
    *,
    per_object: int,
    seed: int = 0,
    say: Say = lambda line: None,
) -> DetectionResult:
    """Run a point on every scene. Raises ConfigError for a picture that cannot be read.

    per_object: multiply-accumulates that an engine counts for each object.
    """
    size = point.image_size
    found: list[Detections] = []
    outputs: list[Output] = []
    said = time.monotonic()
    for scene in scenes:
        output = engine.infer(square(scene, size)[np.newaxis], (point,))
        outputs.append(output)
        found.append(detections_of(output, 0, size, scene.width, scene.height))
        if time.monotonic() - said > _SAY_EVERY_S:
            said = time.monotonic()
            say(f"{point.name}: {len(found)} of {len(scenes)} pictures")
    scores = score(scenes, found, labels)
    boxes = ap_intervals(scenes, found, len(labels), masks=False, seed=seed)
    masks = None
    if scores.mask_ap is not None:
        masks = ap_intervals(scenes, found, len(labels), masks=True, seed=seed)
    shown = np.array([np.prod(inner_size(s.width, s.height, size)) / size**2 for s in scenes])
    macs = np.concatenate([output.macs for output in outputs])
    counts = np.concatenate([output.arrays["counts"] for output in outputs])
    dense = macs - per_object * counts
    areas = np.array([covered(scene) for scene in scenes]) * shown
    return DetectionResult(
        point=point,
        scores=scores,
        boxes=boxes,
        masks=masks,
        activation=tuple(
            np.concatenate([output.activation for output in outputs]).mean(axis=0).tolist()
        ),
        macs=float(macs.mean()),
        dense_macs=float(dense.mean()),
        cost_area_correlation=pearson(dense, areas),
        padding=1.0 - float(np.mean(shown)),
        found=tuple(found),
    )


def detection_records(results: Sequence[DetectionResult], split: str) -> tuple[PointRecord, ...]:
    """What manifests keep; the first is `full`."""
    return tuple(
        PointRecord(
            point=result.point,
            accuracy=Accuracy(
                value=result.accuracy.value,
                low=result.accuracy.low,
                high=min(result.accuracy.high, 1.0),
                images=result.scores.images,
                split=split,
            ),
            activation=result.activation,
            macs=result.dense_macs,
            macs_ratio=result.dense_macs / results[0].dense_macs,
            detection=result.scores,
        )
        for result in results
    )


def covered(scene: Scene) -> float:
    """Share of a picture that its objects' boxes cover, overlaps counted once."""
    seen = np.zeros((scene.height, scene.width), np.bool_)
    for left, top, right, bottom in np.rint(scene.boxes).astype(int).tolist():
        seen[max(top, 0) : bottom, max(left, 0) : right] = True
    return float(seen.mean())


def evaluate_detector(
    ref: str | Path,
    folder: Path,
    plan: DetectionPlan | None = None,
    say: Say = lambda line: None,
) -> DetectionReport:
    """Measure the points of a bundle on the annotated pictures of a split.

    Raises BundleError, ConfigError or InvalidInput with the reason.
    """
    plan = plan or DetectionPlan()
    bundle = read_bundle(ref)
    manifest = bundle.manifest
    if manifest.detector is None:
        raise BundleError(f"'{bundle.path}' finds no objects: its task is {manifest.task}")
    names = plan.points or tuple(record.point.name for record in manifest.points)
    for name in names:
        manifest.point(name)
    scenes = read_folder(folder)
    check_labels(scenes, manifest.labels)
    with load_engine(
        bundle, kind=plan.engine, threads=plan.threads, precision=plan.precision
    ) as engine:
        # The same names in every precision, with the thresholds that were calibrated in it.
        chosen = [manifest.at(engine.precision).point(name).point for name in names]
        results = [
            judge(
                engine,
                point,
                scenes.scenes,
                manifest.labels,
                per_object=macs_per_object(manifest.detector),
                seed=plan.seed,
                say=say,
            )
            for point in chosen
        ]
        latencies = {}
        if plan.latency_s is not None:
            latencies = _latencies(engine, chosen, scenes.scenes, plan.latency_s, say)
        return DetectionReport(
            bundle=bundle,
            plan=plan,
            folder=folder,
            precision=engine.precision,
            isa=getattr(engine, "isa", None),
            threads=getattr(engine, "threads", plan.threads),
            timing=timing_of(plan.latency_s, latencies),
            results=tuple(results),
            latencies=latencies,
        )


def check_labels(scenes: SceneSet, labels: Sequence[str]) -> None:
    """Raise ConfigError unless the pictures are annotated with exactly these labels."""
    if scenes.labels != tuple(labels):
        raise ConfigError(
            f"{scenes.root}: labels are {', '.join(scenes.labels)}, those of the network are "
            f"{', '.join(labels)}"
        )


def square(scene: Scene, size: int) -> UInt8Array:
    """A picture as the network sees it, (size, size, 3). ConfigError where it cannot be read."""
    try:
        return decode_whole(scene.file.read_bytes(), size)
    except ImageError as error:
        raise ConfigError(f"{scene.file}: {error}") from None


def _latencies(
    engine: Engine,
    points: Sequence[OperatingPoint],
    scenes: Sequence[Scene],
    seconds: float,
    say: Say,
) -> dict[str, Latency]:
    some = np.linspace(0, len(scenes) - 1, min(MOST_TIMED, len(scenes))).astype(int).tolist()
    contenders = {
        point.name: Timed(
            engine,
            Trial(point),
            np.stack([square(scenes[i], point.image_size) for i in some]),
        )
        for point in points
    }
    return measure_latency(contenders, seconds, say)
