"""The nouns of scheduling: what points cost, what waits, what is decided. Standard library only.

Times are seconds of one monotonic clock. Points are named by their place in a `Dial`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import comb
from typing import Any, Protocol

MEDIAN, PLANNED = 0.5, 0.95
"""Quantiles of service time: what to expect, and what to plan with."""

AGAIN = 0.99
"""Plans are for so many to be looked at again that more are as rare as this: beside the planning
quantile it leaves little out."""

REST_S = 0.005
"""An engine that did nothing for so long has rested."""


@dataclass(frozen=True, slots=True)
class PointCost:
    """An operating point as scheduling sees it.

    accuracy: expected, 0 to 1. seconds: expected of one call of 1, 2, ... images, all at this
    point: the median, or where the point glances what the share `again` of images makes of two
    medians, that of first looks and that of both. again: share of images looked at again; 1 where
    it does not glance. worst: seconds of an image that is, over the expected ones; less than
    1 / again, because the first look takes time.
    """

    name: str
    image_size: int
    accuracy: float
    seconds: tuple[float, ...]
    again: float = 1.0
    worst: float = 1.0

    @property
    def share_s(self) -> float:
        """Seconds that an image adds to the call that suits it best."""
        return min(seconds / n for n, seconds in enumerate(self.seconds, 1))

    def beside(self, overhead_s: float) -> PointCost:
        """The same where each call takes so much longer, whatever is in it."""
        worst_s = self.seconds[0] * self.worst + overhead_s
        return replace(
            self,
            seconds=tuple(each_s + overhead_s for each_s in self.seconds),
            worst=max(1.0, worst_s / (self.seconds[0] + overhead_s)),
        )

    def where(self, again: float) -> PointCost:
        """The same where another share of images is looked at again."""
        if self.worst == 1.0 or again == self.again:
            return self
        most = self.worst
        more = 1.0 + (again - self.again) * (most - self.ratio(False))
        return replace(
            self,
            seconds=tuple(each_s * more for each_s in self.seconds),
            again=again,
            worst=max(1.0, most / more),
        )

    def ratio(self, again: bool | None) -> float:
        """Seconds over the expected ones of an image that is looked at again, or is not; None:
        nobody knows."""
        if again is None or self.again == 1.0:
            return 1.0
        spread = (self.worst - 1.0) / (1.0 - self.again)
        return self.worst if again else 1.0 - self.again * spread


@dataclass(frozen=True, slots=True)
class Dial:
    """The points of one model, by ascending seconds of a call of one image as they were measured.

    Where pictures are harder than those, a point that glances may have become slower than one that
    comes after it: places are names, and what is faster is told by seconds.
    """

    points: tuple[PointCost, ...]

    @property
    def max_batch(self) -> int:
        """Most images in one call."""
        return len(self.points[0].seconds)

    @property
    def front(self) -> tuple[int, ...]:
        """Points that no faster one reaches in accuracy, the fastest first."""
        kept: list[int] = []
        for k in self._by_seconds():
            if not kept or self.points[k].accuracy > self.points[kept[-1]].accuracy:
                kept.append(k)
        return tuple(kept)

    @property
    def free(self) -> tuple[int, ...]:
        """Points worth choosing freely: the front, and those that are surer than any faster one of
        their accuracy, for who has no time for what such a one may take; the fastest first."""
        kept: list[int] = []
        for k in self._by_seconds():
            point = self.points[k]
            worst_s = point.seconds[0] * point.worst
            if not any(
                self.points[n].accuracy >= point.accuracy
                and self.points[n].seconds[0] * self.points[n].worst <= worst_s
                for n in kept
            ):
                kept.append(k)
        return tuple(kept)

    def pace(self, place: int) -> tuple[float, int]:
        """What points are put in order by, the fastest first."""
        return self.points[place].seconds[0], place

    def _by_seconds(self) -> list[int]:
        return sorted(range(len(self.points)), key=self.pace)

    def beside(self, overhead_s: float) -> Dial:
        """The same points where each call takes so much longer: those of larger batches gain."""
        return Dial(tuple(point.beside(overhead_s) for point in self.points))

    def call_s(self, chosen: Sequence[int]) -> float:
        """Expected seconds of one call whose images are at those points, one each.

        What an image adds to a call does not depend on its batch mates.
        """
        count = len(chosen)
        return sum(self.points[k].seconds[count - 1] for k in chosen) / count

    def worst_call_s(self, chosen: Sequence[int]) -> float:
        """What that call takes where every image is looked at again."""
        count = len(chosen)
        points = [self.points[k] for k in chosen]
        return sum(point.seconds[count - 1] * point.worst for point in points) / count

    def known_call_s(self, chosen: Sequence[int], again: Sequence[bool | None]) -> float:
        """What that call takes once it is known who was looked at again, see `PointCost.ratio`."""
        count = len(chosen)
        return (
            sum(
                self.points[k].seconds[count - 1] * self.points[k].ratio(each)
                for k, each in zip(chosen, again, strict=True)
            )
            / count
        )

    def quantile_call_s(self, chosen: Sequence[int], probability: float) -> float:
        """Seconds that the call takes at most with that probability, as far as that depends on who
        is looked at again.

        How many are is binomial. Where points have different shares their mean stands for all.
        """
        shares = [self.points[k].again for k in chosen if self.points[k].worst > 1.0]
        if not shares:
            return self.call_s(chosen)
        again = _binomial(len(shares), sum(shares) / len(shares), probability)
        least_s = self.known_call_s(chosen, (False,) * len(chosen))
        return least_s + (self.worst_call_s(chosen) - least_s) * again / len(shares)

    def surest(self, allowed: Sequence[int]) -> int:
        """Of those points the one at which an image alone is done soonest at the worst."""
        return min(allowed, key=lambda k: self.points[k].seconds[0] * self.points[k].worst)

    def alone_s(self, allowed: Sequence[int]) -> float:
        """Seconds within which an image alone is done at its surest point, whatever it shows."""
        return self.worst_call_s((self.surest(allowed),))


class Waiting(Protocol):
    """One image that waits. The service's Request is one; so is the simulator's."""

    @property
    def model(self) -> str:
        """Whose dial `allowed` refers to."""

    @property
    def arrived_s(self) -> float:
        """When the first byte of its request came."""

    @property
    def deadline_s(self) -> float:
        """When its answer is due."""

    @property
    def allowed(self) -> tuple[int, ...]:
        """Points it may be answered at, the fastest first, at least one."""

    @property
    def degrade(self) -> bool:
        """Whether a late answer at the fastest allowed point is better than a refusal."""

    @property
    def prepare_s(self) -> float:
        """Predicted seconds until it can run once it was chosen: decoding. 0 for pixels."""

    @property
    def num_bytes(self) -> int:
        """Memory that it holds while it waits and runs."""


@dataclass(frozen=True, slots=True)
class Host:
    """What there is on the machine beside the engine; as it stands here, nothing.

    beside_s: seconds of all cores that an image takes beside the engine, whatever its point:
    decoding, answering. engine_share: of the cores, that the engine computes on. decoders: pictures
    that can be decoded at once.
    """

    beside_s: float = 0.0
    engine_share: float = 1.0
    decoders: float = math.inf


@dataclass(frozen=True, slots=True)
class View:
    """What a policy sees when the engine is (about to be) free.

    free_s: when it will be. waiting: images of one model that can still be answered in time,
    earliest deadline first, at least one. margin: the planning quantile of a call over its median,
    the machine's drift included: who is in a call is held to `dial.worst_call_s(...) * margin`, and
    who waits behind it to `dial.call_s(...) * margin`. rate_hz: images that arrived per second
    lately. cv2: squared coefficient of variation of the gaps between them, 1 for Poisson, more for
    bursts. others_s: planned seconds of other models' waiting images. usual: the median of a call
    over the dial's, at least 1: by this it is told how busy the machine is.
    """

    now_s: float
    free_s: float
    waiting: Sequence[Waiting]
    dial: Dial
    margin: float = 1.0
    rate_hz: float = 0.0
    cv2: float = 1.0
    others_s: float = 0.0
    host: Host = Host()
    usual: float = 1.0


@dataclass(frozen=True, slots=True)
class Choice:
    """One image of the next batch: its place in `View.waiting`, its point, and why that point.

    reason: `best` (the most accurate it may have), `deadline` (its own deadline forbids better),
    `load` (others waiting or arriving do), `pinned`, `late` (too late for any: the fastest).
    """

    position: int
    point: int
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """The next batch, images of one size; at least one choice."""

    choices: tuple[Choice, ...]


class Policy(Protocol):
    """A pure function of a view and of its own memory, an immutable value."""

    @property
    def name(self) -> str:
        """As configurations and reports name it."""

    def start(self) -> Any:
        """The memory before the first decision."""

    def decide(self, view: View, memory: Any) -> tuple[Decision, Any]:
        """The next batch, and the memory for the decision after it."""


def _binomial(count: int, share: float, probability: float) -> int:
    """The least number of `count` that is not exceeded with that probability, each with `share`."""
    reached = 0.0
    for number in range(count):
        reached += comb(count, number) * share**number * (1.0 - share) ** (count - number)
        if reached >= probability:
            return number
    return count
