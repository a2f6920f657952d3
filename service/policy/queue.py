"""The queue that service and simulator share: earliest deadline first, what is lost set apart.

Two classes wait. *Timely* images can still be answered before their deadlines and are the policy's.
*Late* ones cannot, and agreed to a late answer: they run, first come first served, when nothing
timely waits. Who did not agree expires. Standard library only; knows no clock and no event loop.

Admission and sweep ask the same question, whether an image could be done in time at its fastest
point, of the whole plan and of the image alone. Both are linear in what waits (some ten
nanoseconds each), because the plan changes with the machine's drift; nothing is asked of an image
but once, when it comes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from service.policy.core import Waiting

W = TypeVar("W", bound=Waiting)


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether an image can be answered in time if it is taken now.

    done_s: when its answer would be there at its fastest point; backlog_s: planned seconds of what
    waits, this image included.
    """

    feasible: bool
    done_s: float
    backlog_s: float


class _Entry(NamedTuple):
    """A waiting image and what planning asks of it, as often as anything happens."""

    deadline_s: float
    order: int
    kind: int
    prepare_s: float


class DeadlineQueue(Generic[W]):
    """Images that wait for one engine, of all its models.

    planned_s: seconds within which an image alone is done at the surest of its allowed points,
    drift and margin included: what its own deadline is held to. share_s: what it adds at least to a
    call with mates, as expected, where that is less: what others wait for it. Both may change from
    call to call, but are one number for all images of one model that are allowed the same points.
    """

    def __init__(
        self, planned_s: Callable[[W], float], share_s: Callable[[W], float] | None = None
    ) -> None:
        self._planned_s = planned_s
        self._share_s = share_s or planned_s
        # The order makes entries differ, so images are never compared.
        self._timely: list[tuple[_Entry, W]] = []
        self._entries: dict[W, _Entry] = {}
        self._late: dict[W, _Entry] = {}
        self._order = 0
        # Those whose planned seconds are one number; a few kinds, however many images.
        self._kinds: dict[tuple[str, tuple[int, ...]], int] = {}
        self._members: list[dict[W, None]] = []
        self._num_bytes = 0
        # No timely image needs longer, and no late one was due before: bounds, not always reached.
        self._most_prepare_s = 0.0
        self._first_late_s = float("inf")

    def __len__(self) -> int:
        return len(self._entries) + len(self._late)

    def __iter__(self) -> Iterator[W]:
        """Timely ones by deadline, then late ones by arrival."""
        yield from self.timely()
        yield from self._late

    def __contains__(self, item: W) -> bool:
        return item in self._entries or item in self._late

    @property
    def num_bytes(self) -> int:
        """Memory that what waits holds."""
        return self._num_bytes

    def timely(self, model: str | None = None) -> list[W]:
        """Those that can be answered in time, earliest deadline first."""
        return [item for _, item in self._timely if model is None or item.model == model]

    def late(self) -> list[W]:
        """Those that will be late, first come first served."""
        return list(self._late)

    def backlog_s(self) -> float:
        """Planned seconds of all that waits, everything at its fastest and in full batches."""
        return sum(
            len(alike) * self._share_s(next(iter(alike))) for alike in self._members if alike
        )

    def timely_s(self) -> float:
        """The same of what is timely: all that a timely image may have to wait for."""
        late_s = sum(map(self._share_s, self._late))
        return max(0.0, self.backlog_s() - late_s)

    def admission(self, item: W, now_s: float, free_s: float) -> Admission:
        """What taking `item` would mean; changes nothing.

        Feasible: with everything at its fastest and earliest deadlines first, it is in time, and
        whoever would be in time without it still is. Who would not be is passed over, as `sweep`
        will do when its turn comes.
        """
        own_s, share_s = self._planned_s(item), self._share_s(item)
        backlog_s = self.backlog_s() + share_s
        at_s = max(now_s, free_s)
        if not self._timely:
            done_s = max(at_s, now_s + item.prepare_s) + own_s
            return Admission(done_s <= item.deadline_s, done_s, backlog_s)
        planned = self._planned()
        # Behind those of the same deadline, as `add` would place it.
        place = bisect_right(self._timely, item.deadline_s, key=lambda pair: pair[0].deadline_s)
        for entry, _ in self._timely[:place]:
            begin_s = max(at_s, now_s + entry.prepare_s)
            alone_s, adds_s = planned[entry.kind]
            if begin_s + alone_s <= entry.deadline_s:
                at_s = begin_s + adds_s
        begin_s = max(at_s, now_s + item.prepare_s)
        done_s = begin_s + own_s
        feasible = done_s <= item.deadline_s and self._leaves_in_time(
            place, planned, now_s, at_s, begin_s + share_s
        )
        return Admission(feasible, done_s, backlog_s)

    def add(self, item: W, *, timely: bool) -> None:
        """Let it wait; not `timely`: it is known to be late and runs when nothing else does."""
        kind = self._kind(item)
        entry = _Entry(item.deadline_s, self._order, kind, item.prepare_s)
        self._order += 1
        self._members[kind][item] = None
        self._num_bytes += item.num_bytes
        if timely:
            insort(self._timely, (entry, item), key=_entry)
            self._entries[item] = entry
            self._most_prepare_s = max(self._most_prepare_s, entry.prepare_s)
        else:
            self._set_apart(item, entry)

    def remove(self, item: W) -> bool:
        """Forget it, because it runs or its client left; false where it does not wait."""
        entry = self._entries.get(item)
        if entry is not None:
            self._take(entry, item)
        else:
            entry = self._late.pop(item, None)
            if entry is None:
                return False
        del self._members[entry.kind][item]
        self._num_bytes -= item.num_bytes
        return True

    def sweep(self, now_s: float, free_s: float, late_limit_s: float) -> list[W]:
        """Set apart what can no longer be in time; returns what is given up (expired).

        Given up: who did not agree to a late answer, and who has been late for `late_limit_s`.
        """
        expired: list[W] = []
        for entry, item in self._hopeless(now_s, free_s):
            if item.degrade:
                self._take(entry, item)
                self._set_apart(item, entry)
            else:
                self.remove(item)
                expired.append(item)
        if now_s > self._first_late_s + late_limit_s:
            for late in [one for one in self._late if now_s > one.deadline_s + late_limit_s]:
                self.remove(late)
                expired.append(late)
            self._first_late_s = min((one.deadline_s for one in self._late), default=float("inf"))
        return expired

    def _leaves_in_time(
        self,
        place: int,
        planned: list[tuple[float, float]],
        now_s: float,
        without_s: float,
        with_s: float,
    ) -> bool:
        """Whether those from `place` on are in time when it begins at `with_s`, who are so when it
        begins at `without_s`."""
        for entry, _ in self._timely[place:]:
            ready_s = now_s + entry.prepare_s
            alone_s, adds_s = planned[entry.kind]
            begin_s, later_s = max(without_s, ready_s), max(with_s, ready_s)
            if begin_s + alone_s > entry.deadline_s:
                continue
            if later_s + alone_s > entry.deadline_s:
                return False
            without_s, with_s = begin_s + adds_s, later_s + adds_s
            if with_s == without_s:
                return True
        return True

    def _hopeless(self, now_s: float, free_s: float) -> list[tuple[_Entry, W]]:
        """Timely ones that would be late even if they were next."""
        if not self._timely:
            return []
        planned = self._planned()
        # Whose deadlines are later can be in time, whoever they are.
        latest_s = max(free_s, now_s + self._most_prepare_s) + max(planned)[0]
        found = []
        for entry, item in self._timely:
            if entry.deadline_s >= latest_s:
                break
            if max(free_s, now_s + entry.prepare_s) + planned[entry.kind][0] > entry.deadline_s:
                found.append((entry, item))
        return found

    def _planned(self) -> list[tuple[float, float]]:
        """Planned seconds of each kind, alone and with mates; 0 where none waits."""
        samples = (next(iter(alike), None) for alike in self._members)
        return [
            (0.0, 0.0) if sample is None else (self._planned_s(sample), self._share_s(sample))
            for sample in samples
        ]

    def _kind(self, item: W) -> int:
        """The place of its model and allowed points among those that were seen."""
        kind = self._kinds.setdefault((item.model, item.allowed), len(self._kinds))
        if kind == len(self._members):
            self._members.append({})
        return kind

    def _set_apart(self, item: W, entry: _Entry) -> None:
        self._late[item] = entry
        self._first_late_s = min(self._first_late_s, entry.deadline_s)

    def _take(self, entry: _Entry, item: W) -> None:
        """Remove it from the timely ones."""
        del self._entries[item]
        del self._timely[bisect_left(self._timely, entry, key=_entry)]
        if not self._timely:
            self._most_prepare_s = 0.0


def _entry(pair: tuple[_Entry, object]) -> _Entry:
    return pair[0]
