"""What a skipping point has to beat: other images' masks, one mask for all, a smaller image.

The last two are free: they need no maskers and no training of them. Here they are made, and here a
point is compared with them on the same images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from engines.bench.timing import tolerance
from engines.core import Engine, OperatingPoint, Output, static_point
from engines.errors import InvalidInput
from engines.evaluation.points import (
    BoolArray,
    Float64Array,
    Forced,
    Int64Array,
    LabelledImages,
    Say,
    Trial,
    infer,
    run_trials,
)
from engines.evaluation.statistics import Interval, paired_difference


class Decided(Protocol):
    """What a point did, and what its maskers decided: bool (N, units of all maskers), if the engine
    told it."""

    @property
    def point(self) -> OperatingPoint: ...

    @property
    def decisions(self) -> BoolArray | None: ...


@dataclass(frozen=True)
class Candidate:
    """Something that answered the images. cost: milliseconds or multiply-accumulates, of each
    candidate the same. losses: per image, (N,)."""

    name: str
    cost: float
    losses: Float64Array


@dataclass(frozen=True)
class Comparison:
    """A point's log-loss minus a rival's, image by image, and who wins.

    against: which kind of rival. rival: its name; None where there is none that is as fast, and
    then the rest is None too. low, high: 95 % interval of the mean `difference`. wins: the name of
    that whose loss is lower by the whole interval, else `neither`.
    """

    point: str
    against: str
    rival: str | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    wins: str | None = None


def compared(point: Candidate, rival: Candidate | None, against: str, seed: int) -> Comparison:
    """The point beside that rival, if there is one."""
    if rival is None:
        return Comparison(point.name, against)
    found = paired_difference(point.losses, rival.losses, seed=seed)
    return Comparison(
        point=point.name,
        against=against,
        rival=rival.name,
        difference=found.mean,
        low=found.low,
        high=found.high,
        wins=_winner(found, point.name, rival.name),
    )


def best_as_fast(
    point: Candidate, rivals: Sequence[Candidate], noise: float = 0.0
) -> Candidate | None:
    """Of the rivals that cost no more than the point, that with the lowest loss.

    noise: by what share costs of the same thing differ; within `tolerance` it keeps no rival out.
    """
    most = (1.0 + tolerance(noise)) * point.cost
    as_fast = [rival for rival in rivals if rival.cost <= most]
    return min(as_fast, key=lambda rival: float(rival.losses.mean()), default=None)


def shuffled(result: Decided, counts: Sequence[int], seed: int) -> Trial:
    """The point again, with every image under the decisions that another image got.

    counts: units per masker. Raises InvalidInput for fewer than two images.
    """
    decisions = told(result)
    return Trial(result.point, Forced(decisions[derangement(len(decisions), seed)], tuple(counts)))


def derangement(count: int, seed: int) -> Int64Array:
    """A random permutation (count,) that leaves nothing in its place: one cycle through all."""
    if count < 2:
        raise InvalidInput("masks cannot be shuffled between fewer than two pictures")
    order = np.random.default_rng(seed).permutation(count)
    places = np.empty(count, np.int64)
    places[order] = np.roll(order, -1)
    return places


def fixed_mask(
    engine: Engine,
    point: OperatingPoint,
    frequencies: Float64Array,
    counts: Sequence[int],
    macs: float,
    *,
    per_object: int = 0,
) -> Trial:
    """One mask for every image: the units most often active, as many as cost `macs` per image.

    frequencies: share of images on which each unit is active at `point`, (units,). Of equally
    frequent ones the earlier go first. Maskers are not asked, so what they would cost buys units.
    The number of units is bisected until what the engine executes is as near as it can be.
    per_object: what the engine counts for each object that it finds, which is left out.
    """
    order = np.argsort(-frequencies, kind="stable")
    size = point.image_size
    static = static_point(point.name, size, len(counts))
    blank = np.zeros((1, size, size, 3), np.uint8)

    def having(number: int) -> Trial:
        units = np.zeros((1, len(order)), np.bool_)
        units[0, order[:number]] = True
        return Trial(static, Forced(units, tuple(counts)))

    def cost(number: int) -> float:
        output = infer(engine, having(number), blank, slice(0, 1))
        return float(before_objects(output, per_object)[0])

    # `low` units cost less than `macs`, `high` units as much or more, where there are so many.
    low, high = 0, len(order)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(middle) < macs else (low, middle)
    nearest = min((low, high), key=lambda number: abs(cost(number) - macs))
    return having(nearest)


def frequencies_on(
    engine: Engine, points: Sequence[OperatingPoint], images: LabelledImages, say: Say
) -> list[Float64Array]:
    """Per point the share of these images on which each unit is active, (units,)."""
    results = run_trials(engine, [Trial(point) for point in points], images, say)
    return [told(result).mean(axis=0) for result in results]


def before_objects(output: Output, per_object: int) -> Float64Array:
    """Multiply-accumulates per image, (N,), without those for each object that was found."""
    counts = output.arrays.get("counts")
    if counts is None:
        return output.macs
    return output.macs - per_object * np.asarray(counts, np.int64)


def told(result: Decided) -> BoolArray:
    """Its decisions (N, units); InvalidInput where the engine did not tell them."""
    if result.decisions is None:
        raise InvalidInput("this engine does not tell what its maskers decide")
    return result.decisions


def _winner(difference: Interval, point: str, rival: str) -> str:
    if difference.below_zero:
        return point
    return rival if difference.above_zero else "neither"
