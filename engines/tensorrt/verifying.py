"""`laud verify`: whether a plan on a GPU answers what its ONNX file means, and what calls take.

Nothing of this needs the GPU itself: engines are compared through their protocol.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engines.architecture import MapSize, ResNet
from engines.bundle import Bundle
from engines.caps import units_of
from engines.core import OperatingPoint, UInt8Array, static_point
from engines.detection.architecture import level_units_of
from engines.errors import PlanError
from engines.glance import Infer
from engines.tensorrt.latency import CallLatency
from engines.tensorrt.plans import Bucket, Form, Plan, Precision
from engines.tensorrt.ways import Way

Say = Callable[[str], None]
PicturesAt = Callable[[int], UInt8Array]
"""Some pictures at a size, (N, size, size, 3)."""

MOST_ERROR: dict[Precision, float] = {"fp32": 1e-4, "fp16": 2e-2}
"""Of a probability, where all decisions of an image are equal."""

MOST_DIFFERING: dict[Precision, float] = {"fp32": 1e-3, "fp16": 2e-2}
"""Share of decisions: logits next to a threshold, that rounding moves to its other side."""

MOST_MOVED: dict[Precision, float] = {"fp32": 1e-3, "fp16": 5e-2}
"""Of a box, in its longer side, where all decisions of an image are equal."""

MOST_LOST = 0.02
"""Share of a trial's candidates that one side alone has, where all decisions of an image are equal:
the last of so many that a level may have, which rounding chooses."""

MOST_ERROR_ANYWHERE = 0.5
"""Of a probability in any image. A decision on its other side moves an answer, rightly so and more
than rounding does, but not from one class to another; what is no number is more than this too."""

_RANDOM = 4
_WARM_UP = 5
_EVERY_S = 2.0
_LEVELS = 41


@dataclass(frozen=True)
class Trial:
    """Points for the images of a bucket, one each. name: what is tried, for people."""

    name: str
    bucket: Bucket
    points: tuple[OperatingPoint, ...]


@dataclass(frozen=True)
class Agreement:
    """How a trial of a form ended. max_error: of a probability (of detectors, see
    `ways.ObjectsWay`), over images whose decisions are all equal; None without such. max_moved,
    lost: of boxes and candidates, over the same images. worst_error: over all images. differing:
    share of decisions."""

    trial: str
    form: Form
    image_size: int
    images: int
    max_error: float | None
    max_moved: float
    worst_error: float
    lost: float
    differing: float


@dataclass(frozen=True)
class Worst:
    """The largest of each in some trials; of decisions that differ, the largest mean of a bucket's
    trials in one form: of few decisions one alone is a large share."""

    max_error: float
    max_moved: float
    worst_error: float
    lost: float
    differing: float

    @classmethod
    def of(cls, agreements: Sequence[Agreement]) -> Worst:
        shares: dict[tuple[Form, int, int], list[float]] = {}
        for each in agreements:
            bucket = each.form, each.image_size, each.images
            shares.setdefault(bucket, []).append(each.differing)
        errors = [each.max_error for each in agreements if each.max_error is not None]
        return cls(
            max_error=max(errors, default=float("inf")),
            max_moved=max(each.max_moved for each in agreements),
            worst_error=max(each.worst_error for each in agreements),
            lost=max(each.lost for each in agreements),
            differing=max(map(statistics.fmean, shares.values())),
        )

    def keeps(self, precision: Precision) -> bool:
        """Whether all are within the limits of a precision."""
        return (
            self.max_error <= MOST_ERROR[precision]
            and self.max_moved <= MOST_MOVED[precision]
            and self.worst_error <= MOST_ERROR_ANYWHERE
            and self.lost <= MOST_LOST
            and self.differing <= MOST_DIFFERING[precision]
        )


@dataclass(frozen=True)
class Verdict(Worst):
    """All trials of a plan. wrong: forms that do not keep the limits of its precision; agrees:
    whether there is none."""

    agreements: tuple[Agreement, ...]
    wrong: tuple[Form, ...]
    agrees: bool


def trials(bundle: Bundle, buckets: Sequence[Bucket], seed: int) -> Iterator[Trial]:
    """Every point in every bucket of its size, both looks of those that glance; then nothing, all,
    and random numbers of units, mixed in one batch."""
    net, detector = bundle.manifest.architecture, bundle.manifest.detector
    rng = np.random.default_rng(seed)
    looks: dict[str, OperatingPoint] = {}
    for record in bundle.manifest.points:
        point = record.point
        if point.glance is not None:
            first = point.first_look
            looks[f"first look at {first.image_size} px"] = first
        looks[point.name] = point.second_look
    for bucket in buckets:
        size, count = bucket.image_size, bucket.images
        for name, point in looks.items():
            if point.image_size == size:
                yield Trial(name, bucket, (point,) * count)
        if not bundle.manifest.full.point.thresholds:
            continue
        units = units_of(net, size)
        if detector is not None and isinstance(net, ResNet):
            levels = level_units_of(net, detector, MapSize(size, size))
            units = np.concatenate([units, np.array(levels, np.int64)])
        for name, caps in (("nothing active", units * 0), ("all active", units)):
            yield Trial(name, bucket, (_capped(name, size, caps),) * count)
        for i in range(_RANDOM):
            drawn = rng.integers(0, units + 1, (count, len(units)))
            points = tuple(_capped("random", size, caps) for caps in drawn)
            yield Trial(f"random masks {i + 1}", bucket, points)


def check_verifiable(bundle: Bundle, plan: Plan) -> None:
    """Raise PlanError where no point of the bundle runs in the plan's buckets."""
    buckets = plan.manifest.buckets
    if not _timeable(bundle, buckets):
        sizes = ", ".join(str(size) for size in sorted({each.image_size for each in buckets}))
        raise PlanError(
            f"the plan '{plan.path}' takes images of {sizes} px, at which no operating point of "
            f"{bundle.manifest.name} runs whole: build it again, without --size"
        )


def check_beside(plan: Plan, dense: Plan) -> None:
    """Raise PlanError where calls of a dense plan say nothing about those of a plan."""
    again = "build it again with --dense, as the plan was built"
    if not dense.manifest.dense:
        raise PlanError(
            f"'{dense.path}' is no dense plan; make one with: laud build BUNDLE --dense"
        )
    for what, of_plan, of_dense in (
        ("bundle", plan.manifest.bundle[:12], dense.manifest.bundle[:12]),
        ("library", plan.manifest.library, dense.manifest.library),
        ("precision", plan.manifest.precision, dense.manifest.precision),
    ):
        if of_plan != of_dense:
            raise PlanError(
                f"the dense plan '{dense.path}' is of another {what}, {of_dense}, than the plan, "
                f"{of_plan}: {again}"
            )
    there = {(each.image_size, each.images) for each in dense.manifest.buckets}
    for each in plan.manifest.buckets:
        if (each.image_size, each.images) not in there:
            raise PlanError(
                f"the dense plan '{dense.path}' has no bucket for {each.images} images of "
                f"{each.image_size} px: {again}"
            )


def compare(way: Way, trial: Trial, images: UInt8Array) -> Agreement:
    """Run a trial on the engine and on what the file means."""
    found = way.differences(images, trial.points)
    moved, errors = found.moved[found.equal], found.errors[found.equal]
    return Agreement(
        trial=trial.name,
        form=way.form,
        image_size=trial.bucket.image_size,
        images=trial.bucket.images,
        max_error=float(errors.max()) if len(errors) else None,
        max_moved=float(moved.max(initial=0.0)),
        worst_error=float(np.where(found.equal, found.errors, found.rough).max()),
        lost=found.lost,
        differing=found.differing,
    )


def verdict(agreements: Sequence[Agreement], precision: Precision) -> Verdict:
    """Which forms of a plan of that precision may be served."""
    forms: dict[Form, list[Agreement]] = {}
    for each in agreements:
        forms.setdefault(each.form, []).append(each)
    wrong = tuple(form for form, found in forms.items() if not Worst.of(found).keeps(precision))
    worst = vars(Worst.of(agreements))
    return Verdict(**worst, agreements=tuple(agreements), wrong=wrong, agrees=not wrong)


def verify(
    bundle: Bundle,
    ways: Sequence[Way],
    pictures: PicturesAt,
    say: Say,
    *,
    seed: int = 0,
    precision: Precision,
) -> Verdict:
    """Compare everything, every trial with the next pictures. Raises EngineError where one of the
    two fails."""
    every = [
        (way, turn, trial)
        for way in ways
        for turn, trial in enumerate(trials(bundle, way.buckets, seed))
    ]
    progress = _Often(say)
    found = []
    for i, (way, turn, trial) in enumerate(every):
        progress(
            f"  {i + 1} of {len(every)}: {trial.name} by {way.form}, images: "
            f"{trial.bucket.images} of {trial.bucket.image_size} px"
        )
        images = _turn(pictures(trial.bucket.image_size), turn, trial.bucket.images)
        found.append(compare(way, trial, images))
    return verdict(found, precision)


def measured(
    bundle: Bundle,
    ways: Sequence[Way],
    pictures: PicturesAt,
    say: Say,
    *,
    calls: int,
    dense: Infer | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[CallLatency, ...]:
    """What calls take, per point and bucket of its size, in every form that has it.

    All forms of a bucket, and `dense`, an engine without maskers, are timed turn by turn.
    """
    found = []
    progress = _Often(say)
    for bucket, point in _timeable(bundle, ways[0].buckets):
        progress(f"  timing {point.name}, images: {bucket.images}")
        looks = [point] if point.glance is None else [point.looking_once, point.looking_twice]
        forms = [way for way in ways if any(_alike(bucket, each) for each in way.buckets)]
        batches = [(way.infer, look) for way in forms for look in looks]
        if dense is not None:
            batches.append((dense, static_point("dense", bucket.image_size, 0)))
        taken = _timed(batches, bucket, pictures, calls, clock)
        dense_s = taken.pop() if dense is not None else []
        for i, way in enumerate(forms):
            once_s, *again_s = taken[i * len(looks) :][: len(looks)]
            found.append(
                CallLatency.of(point.name, bucket, once_s, again_s, dense_s, _LEVELS, form=way.form)
            )
    return tuple(found)


def _turn(pictures: UInt8Array, turn: int, count: int) -> UInt8Array:
    """The next `count` of the pictures at every turn, and after the last the first."""
    return pictures[np.arange(turn * count, (turn + 1) * count) % len(pictures)]


def _alike(one: Bucket, other: Bucket) -> bool:
    return (one.image_size, one.images) == (other.image_size, other.images)


def _timed(
    batches: Sequence[tuple[Infer, OperatingPoint]],
    bucket: Bucket,
    pictures: PicturesAt,
    calls: int,
    clock: Callable[[], float],
) -> list[list[float]]:
    """Seconds of calls of each, whole buckets at one point, turn by turn: in one turn all see the
    same pictures."""
    count = bucket.images
    taken: list[list[float]] = [[] for _ in batches]
    for turn in range(_WARM_UP + calls):
        images = _turn(pictures(bucket.image_size), turn, count)
        for i, (infer, point) in enumerate(batches):
            begin_s = clock()
            infer(images, (point,) * count)
            if turn >= _WARM_UP:
                taken[i].append(clock() - begin_s)
    return taken


def _timeable(bundle: Bundle, buckets: Sequence[Bucket]) -> list[tuple[Bucket, OperatingPoint]]:
    """Every point in every bucket of its size, where its first look has a bucket too."""
    sizes = {bucket.image_size for bucket in buckets}
    points = [record.point for record in bundle.manifest.points]
    return [
        (bucket, point)
        for bucket in buckets
        for point in points
        if point.image_size == bucket.image_size
        and (point.glance is None or point.glance.image_size in sizes)
    ]


def _capped(name: str, size: int, caps: npt.NDArray[np.int64]) -> OperatingPoint:
    return OperatingPoint(
        name=name.replace(" ", "-"),
        image_size=size,
        thresholds=(None,) * len(caps),
        caps=tuple(int(cap) for cap in caps),
    )


class _Often:
    """Says a line, at most every two seconds."""

    def __init__(self, say: Say, clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock, self._said_s = say, clock, clock()

    def __call__(self, line: str) -> None:
        now_s = self._clock()
        if now_s - self._said_s >= _EVERY_S:
            self._said_s = now_s
            self._say(line)
