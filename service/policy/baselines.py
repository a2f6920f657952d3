"""The policies to beat, by name, on the same queue and the same engine. Standard library only.

All are favoured against how they were published: the queue has set apart what cannot be in time,
and an image's allowed points hold: a wish is clipped to the nearest of them, a slower one only
where there is no faster. `L(k, b)` is the planning quantile of a call of b images at point k, all
of them looked at again where that point glances.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from service.policy.core import Decision, Dial, View
from service.policy.rules import nearest, same_size

BUCKETS = 16


class _Bucket(NamedTuple):
    """The best way to spend up to so many seconds (medians, at the worst)."""

    seconds: float
    point: int
    images: int


class _Table(NamedTuple):
    """SlackFit's memory: buckets of a dial, ascending."""

    dial: Dial
    buckets: tuple[_Bucket, ...]


@dataclass(frozen=True, slots=True)
class SlackFit:
    """SuperServe's policy, as published (NSDI'25, section 4.2).

    Latencies are cut into even buckets; each holds the call with the most images, and among those
    the most accurate. The bucket just below the head's slack is run, however few wait: with one
    image waiting it still gets the cheap point of a large call. One worker and mixed deadlines,
    as here, are not what it was published for.
    """

    buckets: int = BUCKETS
    name: str = "slackfit"

    def start(self) -> _Table | None:
        """The table is made with the first dial."""
        return None

    def decide(self, view: View, memory: _Table | None) -> tuple[Decision, _Table]:
        """See `service.policy.core.Policy`."""
        if memory is None or memory.dial is not view.dial:
            memory = _Table(view.dial, _buckets(view.dial, self.buckets))
        slack_s = _slack_s(view) / view.margin
        fitting = [bucket for bucket in memory.buckets if bucket.seconds <= slack_s]
        _, point, count = fitting[-1] if fitting else memory.buckets[0]
        return Decision(same_size(view, point, count)), memory


@dataclass(frozen=True, slots=True)
class SlackFitN:
    """SlackFit that plans for no more images than wait: the most images, then the best point."""

    name: str = "slackfit-n"

    def start(self) -> None:
        """It remembers nothing."""

    def decide(self, view: View, memory: None) -> tuple[Decision, None]:
        """See `service.policy.core.Policy`."""
        most = min(len(view.waiting), view.dial.max_batch)
        count = _most_images(view, view.dial.front[0], most)
        return Decision(same_size(view, _best_point(view, count), count)), None


@dataclass(frozen=True, slots=True)
class MaxBatch:
    """The most images that the fastest point could run within the head's slack, wait as many or
    not; then the most accurate point for so many."""

    name: str = "maxbatch"

    def start(self) -> None:
        """It remembers nothing."""

    def decide(self, view: View, memory: None) -> tuple[Decision, None]:
        """See `service.policy.core.Policy`."""
        count = _most_images(view, view.dial.front[0], view.dial.max_batch)
        return Decision(same_size(view, _best_point(view, count), count)), None


@dataclass(frozen=True, slots=True)
class MaxAcc:
    """The most accurate point that the head's slack allows it alone, then the most images."""

    name: str = "maxacc"

    def start(self) -> None:
        """It remembers nothing."""

    def decide(self, view: View, memory: None) -> tuple[Decision, None]:
        """See `service.policy.core.Policy`."""
        point = _best_point(view, 1)
        return Decision(same_size(view, point, _most_images(view, point))), None


@dataclass(frozen=True, slots=True)
class Fixed:
    """One point always: what a server does that has no dial. point: None is the most accurate."""

    point: str | None = None
    name: str = "fixed"

    def start(self) -> None:
        """It remembers nothing."""

    def place(self, dial: Dial) -> int:
        """Where in the dial its point stands; ValueError names those there are."""
        if self.point is None:
            return dial.front[-1]
        names = [point.name for point in dial.points]
        if self.point not in names:
            raise ValueError(f"no operating point '{self.point:.64}'; there are: {names}")
        return names.index(self.point)

    def decide(self, view: View, memory: None) -> tuple[Decision, None]:
        """See `service.policy.core.Policy`."""
        point = self.place(view.dial)
        return Decision(same_size(view, point, _most_images(view, point))), None


class _Level(NamedTuple):
    """Memory of `QueueThresholds`: the point in use, and since when fewer wait than needs it."""

    point: int
    calm_since_s: float | None
    budget_s: float


@dataclass(frozen=True, slots=True)
class QueueThresholds:
    """Points by queue length, with hysteresis (after Elastico, arXiv:2603.20821; thresholds ours).

    N(k) = (budget - L(k, 1)) / (seconds an image takes at k, in a full batch) images can wait
    before the last of them is late. The most accurate point is used whose `alpha` N(k) is not
    exceeded: faster ones at once, more accurate ones after fewer than `beta` N(k) waited for
    `calm_s`. budget: what requests ask on the average, lately. Beyond what was published, a head
    whose own deadline is nearer gets the best point that meets it. The defaults were the best ones
    tried in simulation, over an alpha of 0.5 to 0.8, a beta of 0.3 to 0.75 and calms of 2 to 50 ms.
    """

    alpha: float = 0.8
    beta: float = 0.75
    calm_s: float = 0.002
    name: str = "thresholds"

    def start(self) -> _Level | None:
        """It starts at the most accurate point."""
        return None

    def decide(self, view: View, memory: _Level | None) -> tuple[Decision, _Level]:
        """See `service.policy.core.Policy`."""
        front = view.dial.front
        head = view.waiting[0]
        asked_s = head.deadline_s - head.arrived_s
        if memory is None:
            memory = _Level(front[-1], None, asked_s)
        budget_s = memory.budget_s + 0.05 * (asked_s - memory.budget_s)
        waiting = len(view.waiting)
        fits = [k for k in front if waiting <= self.alpha * _capacity(view, k, budget_s)]
        point, since_s = memory.point, memory.calm_since_s
        wish = fits[-1] if fits else front[0]
        pace = view.dial.pace
        better = next((k for k in front if pace(k) > pace(point)), None)
        if pace(wish) <= pace(point):
            point, since_s = wish, None
        elif better is None or waiting > self.beta * _capacity(view, better, budget_s):
            since_s = None
        elif since_s is None:
            since_s = view.now_s
        elif view.now_s - since_s >= self.calm_s:
            point, since_s = better, view.now_s
        in_time = _worst_s(view, point, 1) <= _slack_s(view) / view.margin
        used = point if in_time else _best_point(view, 1)
        count = _most_images(view, used, min(waiting, view.dial.max_batch))
        return Decision(same_size(view, used, count)), _Level(point, since_s, budget_s)


def _capacity(view: View, point: int, budget_s: float) -> float:
    cost = view.dial.points[point]
    return (budget_s / view.margin - cost.seconds[0] * cost.worst) / cost.share_s


def _slack_s(view: View) -> float:
    """Seconds from when the head could begin to its deadline."""
    head = view.waiting[0]
    return head.deadline_s - max(view.free_s, view.now_s + head.prepare_s)


def _most_images(view: View, point: int, most: int | None = None) -> int:
    """The largest call at that point within the head's slack, at least 1 image."""
    cost = view.dial.points[nearest(view.dial, view.waiting[0].allowed, point)]
    slack_s = _slack_s(view) / view.margin
    calls = enumerate(cost.seconds[:most], 1)
    return max((n for n, seconds in calls if seconds * cost.worst <= slack_s), default=1)


def _best_point(view: View, count: int) -> int:
    """The most accurate point whose call of `count` is within the head's slack, else the fastest.

    Of those that the head is allowed.
    """
    slack_s = _slack_s(view) / view.margin
    allowed = view.waiting[0].allowed
    fits = [k for k in allowed if _worst_s(view, k, count) <= slack_s]
    return max(fits, key=lambda k: (view.dial.points[k].accuracy, k), default=allowed[0])


def _worst_s(view: View, point: int, count: int) -> float:
    cost = view.dial.points[point]
    return cost.seconds[count - 1] * cost.worst


def _buckets(dial: Dial, number: int) -> tuple[_Bucket, ...]:
    calls = [
        _Bucket(seconds * dial.points[k].worst, k, count)
        for k in dial.front
        for count, seconds in enumerate(dial.points[k].seconds, 1)
    ]
    least_s = min(call.seconds for call in calls)
    width_s = (max(call.seconds for call in calls) - least_s) / number or 1.0
    best: dict[int, _Bucket] = {}
    for call in calls:
        place = min(int((call.seconds - least_s) / width_s), number - 1)
        held = best.get(place)
        if held is None or (call.images, call.point) > (held.images, held.point):
            best[place] = call
    return tuple(best[place] for place in sorted(best))
