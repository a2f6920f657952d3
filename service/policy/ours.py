"""Our policy: the best level that everybody can have, those who come meanwhile included.

Standard library only. What decides is in `Foresight`; the rest of this file is the arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from service.policy.core import Choice, Decision, Dial, View, Waiting
from service.policy.rules import nearest, reason

NEAR, FAR = 32, 32
"""Of those who wait, the first are all looked at, of the others so many, evenly spaced, each for
all since the one before: a decision takes the same time however many wait."""

MOST_BUSY = 0.99
"""Arrivals that need more than the engine has need as much as it has."""

FORGET = 1.01
"""The shortest time that was asked for is held to be longer by so much with every decision."""

BESIDE_STEP = 0.25
"""What follows from what images take beside the engine is worked out again once that changed by so
much."""

BATCH_GAIN = 0.005
"""A larger batch is worth trying where it makes an image cheaper by more than that: noise."""


@dataclass(frozen=True, slots=True)
class Foresight:
    """The most accurate next call that two conditions allow, and of those the one of most images.

    *Hard*, each image by its own deadline: the call is done in time for all who are in it, and all
    who wait are still in time when they follow at their fastest, earliest deadline first. These
    constraints are nested, so one pass over the waiting checks them. What an image takes at a point
    that glances depends on what it shows. Its own deadline is held to the worst, for it cannot be
    told that others were lucky; who waits behind it to what is expected, since surprises of calls
    in a row even out. On its own this is greedy: the head takes what there is, those behind it get
    the fastest point, and to take turns between best and fastest is worth less than the middle for
    everybody.

    *Soft*, therefore: were everybody to get the level of the head, each would be done within a part
    of the time that he has. The rest is kept for those who will come: 1 - part is
    `reserve` sqrt((1 + cv2) / 2) u^2 / (1 - u), where u is the share of the engine that arrivals as
    of late need at their fastest, or with what they need beside it of the whole machine if that is
    more, and cv2 says how unevenly they come. That is how the queue of a
    machine at its fastest grows with its load (Pollaczek and Khinchine; of burstiness the root,
    which did best in simulation): bursts are absorbed by what speed is left, so little has to be
    kept where much is left. Level and queue settle where work is done as fast as it comes, and the
    condition moves smoothly with both: there is no hysteresis to tune. Points below the concave
    hull of accuracy over seconds are no levels, because turns between their neighbours are worth
    more; they serve where only the hard condition is in the way of a better one, as do points that
    are slower than one of their accuracy which glances, and surer.

    One of many takes what it adds to the calls of the engine or, where the rest of its work is what
    a machine runs out of, its share of all cores: there a faster point buys less than the engine's
    seconds say, and costs as much accuracy. How busy the machine is counts what calls usually take,
    not what is planned with: else care alone would fill it, and nothing but the fastest point and,
    when nobody waits, the best be left.

    Of other models it is known only how much work waits: that comes before whoever is not in the
    call, and is thought to be as urgent as the head.

    A call of several images has to leave time for the most urgent request that may come while it
    runs, by what was asked lately: a batch is a choice, and who comes cannot interrupt it. For the
    pictures of its mates it waits only where the engine has time: where the rest of a machine is
    what runs out, an image takes longer of that than of the engine, and the difference is free.
    """

    reserve: float = 0.22
    name: str = "foresight"

    def start(self) -> _Memory | None:
        """What follows from a dial is worked out with the first one."""
        return None

    def decide(self, view: View, memory: _Memory | None) -> tuple[Decision, _Memory]:
        """See `service.policy.core.Policy`."""
        if memory is None:
            memory = _Memory(_levels(view), math.inf)
        levels = memory.levels if memory.levels.fit(view) else _levels(view)
        ahead = _Ahead.of(view)
        fastest = ahead.kinds[0][0]
        asked_s = (item.deadline_s - item.arrived_s for item in ahead.items)
        shortest_s = min(memory.shortest_s * FORGET, *asked_s)
        room_s = shortest_s / view.margin - ahead.alone_s[0]
        busy = min(view.rate_hz * levels.least_s[fastest] * view.usual, MOST_BUSY)
        uneven = math.sqrt((1.0 + view.cv2) / 2.0)
        part = max(0.0, 1.0 - self.reserve * uneven * busy**2 / (1.0 - busy))
        best = _most_accurate(ahead, levels, part, room_s) or _recovering(ahead, levels)
        choices = tuple(Choice(i, k, reason(view, i, k)) for i, k in best.members)
        return Decision(choices), _Memory(levels, shortest_s)


class _Levels(NamedTuple):
    """What follows from a dial and its host; seconds are expected, drift and margin left out.

    beside_s, share: of the host. adds_s: what an image adds to a call of 1, 2, ... images, by
    point. takes_s: what one of many takes, who come one after another: that, or what it needs of
    the whole machine if that is more. least_s: the least of these, by point. over: what it may add
    beyond the expected, over that, by point. hull: points on the upper concave hull of accuracy
    over seconds of one image of many, per batch size. sizes: batch sizes of which an image is
    cheaper than in any smaller one.
    """

    dial: Dial
    beside_s: float
    share: float
    adds_s: tuple[tuple[float, ...], ...]
    takes_s: tuple[tuple[float, ...], ...]
    least_s: tuple[float, ...]
    over: tuple[float, ...]
    hull: tuple[frozenset[int], ...]
    sizes: tuple[int, ...]

    def fit(self, view: View) -> bool:
        """Whether they still follow from what is seen."""
        moved_s = abs(_beside_s(view) - self.beside_s)
        return (
            self.dial is view.dial
            and self.share == view.host.engine_share
            and moved_s <= BESIDE_STEP * self.beside_s
        )

    def counts(self, point: int, waiting: int, room_s: float, slack_s: float) -> list[int]:
        """Batch sizes to try, the largest first: what `room_s` has room for as expected and
        `slack_s` at the worst, and powers of two below; always 1."""
        room_s = min(room_s, slack_s / self.dial.points[point].worst)
        fits = [
            n
            for n in self.sizes
            if n == 1 or (n <= waiting and n * self.adds_s[n - 1][point] <= room_s)
        ]
        return [n for n in reversed(fits) if n == fits[-1] or not n & (n - 1)]


class _Memory(NamedTuple):
    """shortest_s: the shortest time that anybody asked for lately."""

    levels: _Levels
    shortest_s: float


class _Ahead(NamedTuple):
    """Who is looked at, and how long each has from when the next call begins, margin left out.

    stand_for: how many each of them stands for. kinds: what is allowed, each different one once;
    alone_s: of each kind, what an image takes alone at the worst. kind: of each of them. near: the
    first of them, who stand for themselves and can be in the call. ready_s: how long after it may
    begin their pictures are there. others_s: work of other models.
    """

    items: tuple[Waiting, ...]
    stand_for: tuple[int, ...]
    kinds: tuple[tuple[int, ...], ...]
    alone_s: tuple[float, ...]
    kind: tuple[int, ...]
    slacks_s: tuple[float, ...]
    ready_s: tuple[float, ...]
    near: int
    others_s: float

    @classmethod
    def of(cls, view: View) -> _Ahead:
        waiting = len(view.waiting)
        near = min(waiting, NEAR)
        places = list(range(near))
        if waiting > NEAR + FAR:
            places += [near - 1 + (waiting - near) * n // FAR for n in range(1, FAR + 1)]
        else:
            places += range(near, waiting)
        items = tuple([view.waiting[place] for place in places])
        begin_s = max(view.free_s, view.now_s + items[0].prepare_s)
        kinds: dict[tuple[int, ...], int] = {}
        kind = tuple([kinds.setdefault(item.allowed, len(kinds)) for item in items])
        return cls(
            items,
            tuple([place - before for before, place in pairwise((-1, *places))]),
            tuple(kinds),
            tuple([view.dial.alone_s(allowed) for allowed in kinds]),
            kind,
            tuple([(item.deadline_s - begin_s) / view.margin for item in items]),
            _ready_s(view, items[:near], begin_s),
            near,
            view.others_s / view.margin,
        )

    def points(self, dial: Dial, level: int) -> list[int]:
        """The point of each kind at that level."""
        return [nearest(dial, allowed, level) for allowed in self.kinds]


def _ready_s(view: View, items: Sequence[Waiting], begin_s: float) -> tuple[float, ...]:
    """How long after `begin_s` their pictures are there, if those before are decoded too; margin
    left out, as of all else."""
    found: list[float] = []
    so_far_s = 0.0
    for item in items:
        so_far_s += item.prepare_s
        prepare_s = max(item.prepare_s, so_far_s / view.host.decoders)
        late_s = view.now_s + prepare_s - begin_s if item.prepare_s else 0.0
        found.append(max(0.0, late_s) / view.margin)
    return tuple(found)


class _Call(NamedTuple):
    """A call that could be next: who is in it, with their points, and how long the engine waits for
    their pictures."""

    members: tuple[tuple[int, int], ...]
    wait_s: float


def _most_accurate(ahead: _Ahead, levels: _Levels, part: float, room_s: float) -> _Call | None:
    """The best call that meets both conditions; None where none does."""
    common = False
    allowed = ahead.kinds[0]
    points_of = levels.dial.points
    for level in sorted(allowed, key=lambda k: (-points_of[k].accuracy, k)):
        points = ahead.points(levels.dial, level)
        for count in levels.counts(level, ahead.near, room_s, ahead.slacks_s[0]):
            # One point alone is a level whatever the others are.
            if not (common or level in levels.hull[count - 1] or len(allowed) == 1):
                continue
            call = _call(ahead, levels, level, points, count)
            if call is None:
                continue
            common = common or _everybody_can(ahead, levels, points, call, part)
            if common and _leaves_time(ahead, levels, call):
                return call
    return None


def _call(
    ahead: _Ahead, levels: _Levels, level: int, points: list[int], count: int
) -> _Call | None:
    """The first so many of the head's size whose pictures the engine has time to wait for; None
    where they are fewer."""
    size = levels.dial.points[level].image_size
    adds_s, takes_s = levels.adds_s[count - 1], levels.takes_s[count - 1]
    fits = [levels.dial.points[point].image_size == size for point in points]
    spare_s = [takes_s[point] - adds_s[point] for point in points]
    members: list[tuple[int, int]] = []
    wait_s, time_s = 0.0, 0.0
    for i, ready_s in enumerate(ahead.ready_s):
        kind = ahead.kind[i]
        if fits[kind] and ready_s <= time_s + spare_s[kind]:
            members.append((i, points[kind]))
            time_s += spare_s[kind]
            wait_s = max(wait_s, ready_s)
            if len(members) == count:
                return _Call(tuple(members), wait_s)
    return None


def _everybody_can(
    ahead: _Ahead,
    levels: _Levels,
    points: list[int],
    call: _Call,
    part: float,
) -> bool:
    """The soft condition: who is not in the call gets that level too, in that part of his time."""
    adds_s, takes_s = levels.adds_s[len(call.members) - 1], levels.takes_s[len(call.members) - 1]
    each_s = [takes_s[point] for point in points]
    over_s = [adds_s[point] * levels.over[point] for point in points]
    chosen = {i for i, _ in call.members}
    # The wait for their pictures is part of what they take of the machine.
    at_s = sum(takes_s[point] for _, point in call.members) + ahead.others_s
    if ahead.others_s and at_s > part * ahead.slacks_s[0]:
        return False
    for i, (number, kind, slack_s) in enumerate(
        zip(ahead.stand_for, ahead.kind, ahead.slacks_s, strict=True)
    ):
        if i not in chosen:
            at_s += number * each_s[kind]
            if at_s > part * slack_s or at_s + over_s[kind] > slack_s:
                return False
    return True


def _leaves_time(ahead: _Ahead, levels: _Levels, call: _Call) -> bool:
    """The hard condition: in time, and so is everybody after it, at their fastest.

    Who would be late even if he were next is passed over, as the queue will do.
    """
    places = [point for _, point in call.members]
    # Earliest deadlines first: the first of the members has least time.
    if call.wait_s + levels.dial.worst_call_s(places) > ahead.slacks_s[call.members[0][0]]:
        return False
    takes_s = levels.takes_s[len(places) - 1]
    at_s = max(levels.dial.call_s(places), sum(takes_s[point] for point in places))
    chosen = {i for i, _ in call.members}
    least_s = [levels.least_s[allowed[0]] for allowed in ahead.kinds]
    for i, (number, kind, slack_s) in enumerate(
        zip(ahead.stand_for, ahead.kind, ahead.slacks_s, strict=True)
    ):
        if i in chosen:
            continue
        last_s = ahead.alone_s[kind]
        if at_s + (number - 1) * least_s[kind] + last_s <= slack_s:
            at_s += number * least_s[kind]
        elif last_s <= slack_s:
            return False
    return True


def _recovering(ahead: _Ahead, levels: _Levels) -> _Call:
    """Where time was lost and not everybody can be in time: the head's fastest point, or where that
    may be too slow its surest, with as many as the head has time for."""
    slack_s = ahead.slacks_s[0]
    fastest = ahead.kinds[0][0]
    if levels.dial.worst_call_s((fastest,)) > slack_s:
        fastest = levels.dial.surest(ahead.kinds[0])
    points = ahead.points(levels.dial, fastest)
    for count in levels.counts(fastest, ahead.near, slack_s, slack_s):
        call = _call(ahead, levels, fastest, points, count)
        # Mates that may not have the head's point can make the call longer than it was counted.
        if call is not None and slack_s >= call.wait_s + levels.dial.worst_call_s(
            [point for _, point in call.members]
        ):
            return call
    return _Call(((0, fastest),), 0.0)


def _beside_s(view: View) -> float:
    """What an image takes beside the engine, in seconds of the dial."""
    return view.host.beside_s / view.usual


def _levels(view: View) -> _Levels:
    dial, share, beside_s = view.dial, view.host.engine_share, _beside_s(view)
    front = dial.front
    fastest = front[0]
    adds_s = tuple(
        tuple(point.seconds[n] / (n + 1) for point in dial.points) for n in range(dial.max_batch)
    )
    takes_s = tuple(
        tuple(max(each_s, share * each_s + beside_s) for each_s in of_size) for of_size in adds_s
    )
    least = [adds_s[0][fastest]]
    sizes = [1]
    for n in range(2, dial.max_batch + 1):
        if adds_s[n - 1][fastest] < (1.0 - BATCH_GAIN) * least[-1]:
            sizes.append(n)
            least.append(adds_s[n - 1][fastest])
    return _Levels(
        dial,
        beside_s,
        share,
        adds_s,
        takes_s,
        tuple(min(takes_s[n - 1][k] for n in sizes) for k in range(len(dial.points))),
        tuple(point.worst - 1.0 for point in dial.points),
        tuple(_hull(dial, front, each) for each in takes_s),
        tuple(sizes),
    )


def _hull(dial: Dial, front: Sequence[int], adds_s: Sequence[float]) -> frozenset[int]:
    """Of the front what no turns between two others reach; those that just reach it count."""
    kept: list[int] = []
    for k in front:
        while len(kept) > 1 and _below(dial, adds_s, kept[-2], kept[-1], k):
            kept.pop()
        kept.append(k)
    return frozenset(kept)


def _below(dial: Dial, adds_s: Sequence[float], left: int, middle: int, right: int) -> bool:
    gain = [dial.points[k].accuracy for k in (left, middle, right)]
    first_s, second_s = adds_s[middle] - adds_s[left], adds_s[right] - adds_s[middle]
    return (gain[1] - gain[0]) * second_s < (1.0 - 1e-9) * (gain[2] - gain[1]) * first_s
