"""What holds whatever the policy: what a decision may be, how late images run, how rates are told.

The service and the simulator both go by these. Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

from service.policy.core import Choice, Decision, Dial, View, Waiting

W = TypeVar("W", bound=Waiting)

RATE_MEMORY_S = 1.0
"""Arrivals count less as they age, by a factor of e in so many seconds."""

LATE_GAIN = 0.2
"""Late images run together only where that makes each cheaper by so much: a call holds up whoever
comes in time meanwhile."""

GAPS = 300
"""Burstiness is that of about so many arrivals."""

MOST_CV2 = 16.0
"""Traffic that pauses for a while is not that uneven."""

_KNOWN_GAPS = 30


class ArrivalRate:
    """Images per second lately, and how unevenly they come."""

    def __init__(self, memory_s: float = RATE_MEMORY_S) -> None:
        self._memory_s = memory_s
        self._weight = 0.0
        self._at_s: float | None = None
        self._begun_s = 0.0
        self._gaps = 0
        self._gap_s = 0.0
        self._gap_squared = 0.0

    def count(self, images: int, now_s: float) -> None:
        """So many came."""
        if self._at_s is None:
            self._begun_s = now_s
        else:
            self._gap(now_s - self._at_s)
        for _ in range(images - 1):
            self._gap(0.0)
        self._weight = self._decayed(now_s) + images
        self._at_s = now_s

    def at(self, now_s: float) -> float:
        """As of now; what came first begins to count once it is known how fast others follow."""
        if self._at_s is None:
            return 0.0
        # Of a memory that is not full yet, the share that is.
        seen_s = -self._memory_s * math.expm1((self._begun_s - now_s) / self._memory_s)
        return self._decayed(now_s) / max(seen_s, self._memory_s / 4)

    def cv2(self) -> float:
        """Squared coefficient of variation of the gaps between images: 1 is Poisson, 0 is even.

        Thought to be 1 until there are enough to tell.
        """
        mean_s = self._gap_s
        if mean_s <= 0.0:
            return 1.0
        seen = min(max(self._gap_squared / mean_s**2 - 1.0, 0.0), MOST_CV2)
        return (self._gaps * seen + _KNOWN_GAPS) / (self._gaps + _KNOWN_GAPS)

    def _gap(self, gap_s: float) -> None:
        self._gaps = min(self._gaps + 1, GAPS)
        self._gap_s += (gap_s - self._gap_s) / self._gaps
        self._gap_squared += (gap_s**2 - self._gap_squared) / self._gaps

    def _decayed(self, now_s: float) -> float:
        if self._at_s is None:
            return 0.0
        return self._weight * math.exp((self._at_s - now_s) / self._memory_s)


def check_decision(decision: Decision, view: View) -> None:
    """Raise ValueError for a decision that cannot be carried out."""
    positions = [choice.position for choice in decision.choices]
    if not positions or len(positions) > view.dial.max_batch:
        raise ValueError(f"a batch has 1 to {view.dial.max_batch} images, not {len(positions)}")
    if len(set(positions)) < len(positions) or not (
        min(positions) >= 0 and max(positions) < len(view.waiting)
    ):
        raise ValueError(f"positions {positions} are not different ones of {len(view.waiting)}")
    for choice in decision.choices:
        if choice.point not in view.waiting[choice.position].allowed:
            raise ValueError(f"point {choice.point} is not allowed for image {choice.position}")
    sizes = {view.dial.points[choice.point].image_size for choice in decision.choices}
    if len(sizes) > 1:
        raise ValueError(f"images of one batch have one size, these have {sorted(sizes)}")


def late_batch(late: Sequence[W], dials: Mapping[str, Dial]) -> list[W]:
    """Who of the late ones, in their order, runs next: the first, and who is alike.

    Each runs at its fastest allowed point. late: at least one.
    """
    head = late[0]
    dial = dials[head.model]
    fastest = dial.points[head.allowed[0]]
    count = 1
    for n, seconds in enumerate(fastest.seconds, 1):
        if seconds / n <= (1.0 - LATE_GAIN) * fastest.seconds[count - 1] / count:
            count = n
    mates = (
        item
        for item in late
        if item.model == head.model
        and dial.points[item.allowed[0]].image_size == fastest.image_size
    )
    return [item for item, _ in zip(mates, range(count), strict=False)]


def reason(view: View, position: int, point: int) -> str:
    """Why an image gets that point: see `Choice`."""
    item = view.waiting[position]
    points = view.dial.points
    better = [k for k in item.allowed if points[k].accuracy > points[point].accuracy]
    if not better:
        return "best"
    begin_s = max(view.free_s, view.now_s + item.prepare_s)
    alone_s = view.dial.alone_s(better) * view.margin
    return "load" if begin_s + alone_s <= item.deadline_s else "deadline"


def nearest(dial: Dial, allowed: Sequence[int], wish: int) -> int:
    """The allowed point next to the wished one: at it, else the next faster, else the fastest."""
    if wish in allowed:
        return wish
    wished = dial.pace(wish)
    fits = (k for k in allowed if dial.pace(k) <= wished)
    return max(fits, key=dial.pace, default=allowed[0])


def same_size(view: View, wish: int, count: int) -> tuple[Choice, ...]:
    """The first `count` waiting images, each near the wished point, that have the head's size."""
    sizes = [point.image_size for point in view.dial.points]
    choices: list[Choice] = []
    for position, item in enumerate(view.waiting):
        point = nearest(view.dial, item.allowed, wish)
        if not choices or sizes[point] == sizes[choices[0].point]:
            choices.append(Choice(position, point, reason(view, position, point)))
            if len(choices) == count:
                break
    return tuple(choices)
