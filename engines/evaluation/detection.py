"""Judging a detector: average precision of each operating point on annotated pictures.

Pictures take the way of the service: decoded for the point's size, shown whole, found objects moved
back to the picture's own pixels.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engines.bench.timing import tolerance
from engines.bundle import Accuracy, Bundle, PointRecord
from engines.core import Engine, OperatingPoint, Output, UInt8Array
from engines.detection.architecture import check_image_size
from engines.detection.bowl import BowlScores, bowl_scores
from engines.detection.intervals import (
    RESAMPLES,
    Bounded,
    Intervals,
    ap_intervals,
)
from engines.detection.letterbox import decode_whole, detections_of, inner_size
from engines.detection.scenes import Detections, Scene, SceneSet
from engines.detection.scores import DetectionScores, score
from engines.detection.unlabelled import Unlabelled, unlabelled
from engines.errors import ConfigError, ImageError
from engines.evaluation.detection_rivals import DetectionRival, ShuffledMasks, rivals_of
from engines.evaluation.plan import check_fixed_from, check_seconds, check_seed, check_sizes
from engines.evaluation.points import BoolArray, Forced, Say, Trial, infer
from engines.evaluation.report import Kind, Timing
from engines.evaluation.rivals import before_objects
from engines.evaluation.statistics import pearson
from engines.evaluation.timing import Latency
from engines.registry import DEFAULT_ENGINE

_SAY_EVERY_S = 10.0


@dataclass(frozen=True, eq=False)
class DetectionResult:
    """What one point did on pictures.

    boxes, masks: average precision with intervals; masks None where there are none. activation:
    mean share of active units per masker, (maskers,). macs: mean per picture, mask head included;
    dense_macs: without it, what budgets are of. cost_area_correlation: of each picture's dense
    operations with the share of the network's input that its objects' boxes cover; None where one
    of the two does not vary. padding: mean share of the network's input that is no picture.
    decisions: (N, units of all maskers), if the engine tells. bowl: by the measure of the Data
    Science Bowl 2018; None where there are no masks. unlabelled: what was found where nothing is.
    of: the point whose fixed mask was judged; None: it is a point's own result. found: in each
    picture.
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
    decisions: BoolArray | None = None
    bowl: BowlScores | None = None
    unlabelled: Unlabelled | None = None
    of: str | None = None
    found: tuple[Detections, ...] = ()

    @property
    def name(self) -> str:
        """The point's, or which point's fixed mask it is."""
        return self.point.name if self.of is None else f"{self.of} (fixed mask)"

    @property
    def kind(self) -> Kind:
        """What it is a result of."""
        if self.of is not None:
            return Kind.FIXED
        if not self.point.skips_nothing:
            return Kind.DIAL
        return Kind.FULL if self.point.name == "full" else Kind.SIZE

    @property
    def best(self) -> Intervals:
        """Of masks where there are any, else of boxes."""
        return self.boxes if self.masks is None else self.masks

    @property
    def accuracy(self) -> Bounded:
        """What counts as the point's accuracy: AP50."""
        return self.best.ap50


@dataclass(frozen=True)
class DetectionPlan:
    """What to measure, and how. points: all, where none is named, and the image sizes that the
    bundle's dial dropped, which are rivals still. sizes: image sizes to add with nothing skipped,
    multiples of 32. precision: None: the engine's best. latency_s:
    seconds to time for, all points together; None: nothing is timed. shuffled, fixed_masks,
    fixed_from, seed: as in `EvaluationPlan`; fixed_from is a split."""

    points: tuple[str, ...] | None = None
    sizes: tuple[int, ...] = ()
    engine: str = DEFAULT_ENGINE
    precision: str | None = None
    threads: int | None = None
    latency_s: float | None = None
    shuffled: bool = False
    fixed_masks: bool = False
    fixed_from: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_sizes(self.sizes)
        for size in self.sizes:
            check_image_size(size)
        check_seconds(self.latency_s)
        check_fixed_from(self.fixed_from, self.fixed_masks)
        check_seed(self.seed)


@dataclass(frozen=True, eq=False)
class DetectionReport:
    """All that an evaluation found; latencies by the results' names, empty where nothing was timed;
    shuffles by point."""

    bundle: Bundle
    plan: DetectionPlan
    folder: Path
    precision: str
    isa: str | None
    threads: int | None
    timing: Timing | None
    results: tuple[DetectionResult, ...]
    latencies: dict[str, Latency]
    shuffles: dict[str, ShuffledMasks] = field(default_factory=dict)

    def rivals(self) -> list[DetectionRival]:
        """Every point that skips beside its free rivals."""
        most = 1.0 + tolerance(self.timing.noise if self.timing else 0.0)
        return rivals_of(self.results, self._cost, most)

    @property
    def fixed_from(self) -> str | None:
        """Which pictures fixed masks were made from."""
        if not self.plan.fixed_masks:
            return None
        return str(self.plan.fixed_from) if self.plan.fixed_from else "the evaluated pictures"

    def _cost(self, result: DetectionResult) -> float:
        """Median latency where it was measured, else multiply-accumulates."""
        latency = self.latencies.get(result.name)
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
            "fixed_from": self.fixed_from,
            "latency_seconds": timing.seconds if timing else None,
            "latency_calls": timing.calls if timing else None,
            "latency_noise": timing.noise if timing else None,
            "compared_by": "latency" if timing else "macs",
            "points": [self._flat(result) for result in self.results],
            "rivals": [
                {
                    "point": each.point,
                    "against": each.against,
                    "rival": each.rival,
                    **_flat_difference("ap50", each.ap50),
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
        latency, accuracy = self.latencies.get(result.name), result.accuracy
        shuffles = self.shuffles.get(result.name)
        return {
            "name": result.name,
            "kind": str(result.kind),
            "of": result.of,
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
            "bowl": result.bowl.model_dump(mode="json") if result.bowl else None,
            "unlabelled": result.unlabelled.model_dump() if result.unlabelled else None,
            "shuffled_ap50": shuffles.ap50.value if shuffles else None,
            **_flat_difference("shuffled_ap50", shuffles.minus if shuffles else None),
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
    forced: Forced | None = None,
) -> DetectionResult:
    """Run a point on every scene. Raises ConfigError for a picture that cannot be read.

    per_object: multiply-accumulates that an engine counts for each object. forced: decisions in
    place of its maskers'; needs an engine that `check_forces`.
    """
    trial, size = Trial(point, forced), point.image_size
    found: list[Detections] = []
    outputs: list[Output] = []
    said = time.monotonic()
    for i, scene in enumerate(scenes):
        output = infer(engine, trial, square(scene, size)[np.newaxis], slice(i, i + 1))
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
    # Whole numbers: what does not vary must not seem to.
    dense = np.rint(np.concatenate([before_objects(each, per_object) for each in outputs]))
    told = [each for output in outputs if (each := output.arrays.get("decisions")) is not None]
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
        bowl=bowl_scores(scenes, found),
        unlabelled=unlabelled(scenes, found, labels),
        decisions=np.concatenate(told).astype(np.bool_) if told else None,
        found=tuple(found),
    )


def _flat_difference(name: str, found: Bounded | None) -> dict[str, float | None]:
    ends = {"minus": "value", "low": "low", "high": "high"}
    return {
        f"{name}_{end}": None if found is None else getattr(found, of) for end, of in ends.items()
    }


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
