"""The nouns of simulation: what is offered to which machine, and what became of it.

Seconds since the beginning. Standard library and numpy only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import numpy as np
import numpy.typing as npt

from engines.errors import InvalidInput
from service.policy.core import AGAIN, MEDIAN, PLANNED, Dial

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

NO_POINT = -1


class Outcome(IntEnum):
    """What became of a request; every one has exactly one."""

    MET = 0
    LATE = 1
    REJECTED_INFEASIBLE = 2
    REJECTED_QUEUE = 3
    EXPIRED = 4


@dataclass(frozen=True)
class Machine:
    """What calls take: the medians of `dial` times a ratio, drawn evenly from `ratios`; at points
    that glance those of the images that are looked at again, drawn with the points' shares.

    ratios: quantiles of measured over median. rested_ratio: how much longer a call takes after a
    rest. overhead_s: of a request besides waiting and running (receiving it, writing the answer).
    taken: medians of what calls really take, where `dial`, by which is decided, is wrong about
    that; its points in the same order.
    """

    dial: Dial
    ratios: tuple[float, ...]
    rested_ratio: float = 1.0
    overhead_s: float = 0.0
    taken: Dial | None = None

    def __post_init__(self) -> None:
        if not self.dial.points or not self.ratios or min(self.ratios) <= 0.0:
            raise InvalidInput("a machine needs points, and ratios above 0")
        if self.taken is not None and len(self.taken.points) != len(self.dial.points):
            raise InvalidInput("what calls take must be known of every point")

    def capacity_hz(self, point: int) -> float:
        """Images per second at that point, in the batches that suit it best."""
        return 1.0 / (self.dial.points[point].share_s * float(np.mean(self.ratios)))


@dataclass(frozen=True, slots=True)
class Ask:
    """What a request asks besides its time. allowed: points of the dial, None is all that
    are worth choosing freely.

    degrade: whether a late answer is wanted.
    """

    allowed: tuple[int, ...] | None = None
    degrade: bool = True


@dataclass(frozen=True)
class Offered:
    """Requests of one image: when each came, its latency budget, and what else it asks.

    at_s, slo_s: (n,), the first ascends. ask: (n,) places in `asks`, None is the first for all.
    decode_s: of every picture. longer_s: (n,), how much longer than the machine's `overhead_s` each
    answer then takes, which no plan knows; None is not at all.
    """

    at_s: Floats
    slo_s: Floats
    asks: tuple[Ask, ...] = (Ask(),)
    ask: Ints | None = None
    decode_s: float = 0.0
    longer_s: Floats | None = None

    def __len__(self) -> int:
        return len(self.at_s)


@dataclass(frozen=True, slots=True)
class Bounds:
    """As the service's settings of the same names."""

    max_queue: int = 256
    max_queue_s: float = 2.0
    late_limit_s: float = 10.0


class Costs(Protocol):
    """What is known of costs when something is decided: `service.costs.ModelCosts` is one."""

    @property
    def dial(self) -> Dial:
        """The points, with the seconds that are decided by."""

    @property
    def margin(self) -> float:
        """The planning quantile of a call over the dial's median."""

    @property
    def careful_margin(self) -> float:
        """The same, and more where plans failed: what decisions plan with."""

    @property
    def usual(self) -> float:
        """The median of a call over the dial's, at least 1: what each of many adds."""

    def share_s(self, point: int) -> float:
        """Seconds that an image at that point adds to the call that suits it best."""

    def predict(self, chosen: Sequence[int]) -> tuple[float, float]:
        """Median and planning quantile of a call, seconds."""

    def began(self) -> None:
        """A call began."""

    def judge(self, missed: bool) -> None:
        """An answer that was planned to be in time, and whose point was free, was not (or was)."""

    def observe(
        self,
        chosen: Sequence[int],
        service_s: float,
        now_s: float,
        again: Sequence[bool | None] | None = None,
    ) -> None:
        """A call ended; again: which images were looked at again, where their points glance."""


class SteadyCosts:
    """Costs of a machine that stays as it was measured: nothing is learnt."""

    def __init__(self, machine: Machine, planned: float = PLANNED) -> None:
        self.dial = machine.dial
        self._share_s = [point.share_s for point in machine.dial.points]
        self._median = float(np.quantile(machine.ratios, 0.5))
        self.usual = max(1.0, self._median)
        self.margin = max(1.0, float(np.quantile(machine.ratios, planned)))
        self.careful_margin = self.margin

    def share_s(self, point: int) -> float:
        """See `Costs`."""
        return self._share_s[point]

    def predict(self, chosen: Sequence[int]) -> tuple[float, float]:
        """See `Costs`."""
        median_s = self.dial.quantile_call_s(chosen, MEDIAN)
        return median_s * self._median, self.dial.quantile_call_s(chosen, AGAIN) * self.margin

    def began(self) -> None:
        """See `Costs`."""

    def judge(self, missed: bool) -> None:
        """See `Costs`."""

    def observe(
        self,
        chosen: Sequence[int],
        service_s: float,
        now_s: float,
        again: Sequence[bool | None] | None = None,
    ) -> None:
        """See `Costs`."""


CostsOf = Callable[[Machine, Callable[[], float]], Costs]
"""Costs as known at the start, and the simulated clock that they go by."""


@dataclass(frozen=True)
class Answers:
    """What became of each request, (n,) each.

    outcome: `Outcome`. point: place in the dial, or `NO_POINT`. done_s: when its answer, or its
    refusal, was there. busy_s: seconds the engine ran in all. calls: how often.
    """

    offered: Offered
    outcome: Ints
    point: Ints
    done_s: Floats
    busy_s: float
    calls: int

    @property
    def met(self) -> Bools:
        """Who was answered in time."""
        return np.equal(self.outcome, Outcome.MET)

    @property
    def answered(self) -> Bools:
        """Who was answered, in time or late."""
        return np.not_equal(self.point, NO_POINT)
