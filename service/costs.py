"""What images will cost here, per model: what was measured, corrected by what calls take today.

The profile says what calls took when they were measured; `engines.latency.online` says what they
take today. An engine that rested is slower in its next call: its threads sleep and other work has
taken its caches (on shared virtual cores up to twice, from 3 to 10 ms of rest on, and no more after
100 ms). The correction of calls after a rest is therefore kept apart. In one correction
the planning quantile would be that of the rested whenever a twentieth of the calls is, and a quiet
hour would look like a slower machine. Called from the event loop only.

Only calls teach what calls take. Where nothing runs, because plans say that nothing can be in time,
plans would stay as they are for ever: what was learnt after a rest therefore fades with it.

What each call takes beside its work, while the front works beside the engine, is learnt apart
(`engines.latency.overhead`) and becomes part of the dial, for it makes cheap points less cheap.

What a call takes at points that glance depends on how many of its images are looked at again. That
is no drift and no noise: corrections compare with what is expected once it is known who was. How
many there are is learnt apart too (`service.policy.hardness`): pictures may be harder here than
those that the bundle was measured on, and then points that glance are dearer than others.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from engines.latency.online import (
    MOST_SECONDS,
    Correction,
    Summary,
    corrected,
    observe,
    start,
    summary,
)
from engines.latency.overhead import Overhead, observe_overhead
from service.decode_costs import DecodeCosts, measure_decoding
from service.errors import BadRequest
from service.policy.caution import Caution
from service.policy.core import AGAIN, MEDIAN, PLANNED, REST_S, Dial, PointCost
from service.policy.hardness import Hardness
from service.profile import DEFAULT_RATIOS, Profile

if TYPE_CHECKING:
    from service.model import Model

__all__ = ["DecodeCosts", "ModelCosts", "costs_of", "measure_decoding"]

FADE_S = 60.0
"""Time without a call in which what was learnt fades to about a third."""

OVERHEAD_STEP = 0.05
"""The dial follows what calls take beside their work once that changed by so much of its fastest
point: whoever remembers what follows from a dial has to work it out again."""

HARDNESS_STEP = 0.5
"""The same for log odds of being looked at again, of which .12 are chance."""

_LEAST_S = 1e-9


class ModelCosts:
    """Everything a scheduler needs to know about the cost of one model's images.

    Points are places in `dial`, whose seconds follow what is learnt; their order stays. Tell it of
    every call: `began` at its dispatch, `observe` at its end.
    """

    def __init__(
        self,
        dial: Dial,
        accuracies: Sequence[float | None],
        *,
        full: int = 0,
        ratios: Sequence[float] = DEFAULT_RATIOS,
        rested_ratio: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """accuracies: of the dial's points, as measured. full: the place of `full`. ratios: seconds
        of calls over the dial's when these were measured. rested_ratio: how much longer a call
        takes after a rest, to begin with."""
        self.full = full
        self._measured = dial
        self._overhead = Overhead()
        self._hardness = Hardness()
        self._accuracies = tuple(accuracies)
        self._places = {point.name: place for place, point in enumerate(dial.points)}
        self._clock = clock
        self._follow()
        now_s = clock()
        self._steady = _Corrected(start(ratios, now_s))
        self._rested = _Corrected(start([ratio * rested_ratio for ratio in ratios], now_s))
        self._running = False
        self._ended_s = -math.inf
        self._caution = Caution()

    @property
    def margin(self) -> float:
        """The planning quantile of a call that would begin now, over the dial's median.

        Finite and at least 1: where the machine got faster, plans stay as they were measured.
        """
        return self._now().margin

    @property
    def careful_margin(self) -> float:
        """What decisions plan with: `margin`, and more where answers came late that had been
        planned to be in time."""
        return self.margin * self._caution.factor

    @property
    def caution(self) -> float:
        """How much more that is, see `service.policy.caution`."""
        return self._caution.factor

    @property
    def usual(self) -> float:
        """The median of a call that would begin now, over the dial's: what each of many adds.

        At least 1. Delays of calls in a row even out, so a queue is not planned by their quantile.
        """
        return max(1.0, self._now().median)

    @property
    def overhead_s(self) -> float:
        """What each call takes beside its work, as the dial has it."""
        return self._overhead_s

    @property
    def hardness(self) -> float:
        """By how much pictures shift the log odds of being looked at again, as the dial has it."""
        return self._shift

    @property
    def drift(self) -> float:
        """Seconds measured per second that the dial says: the median of calls in a row."""
        return self._steady.state.drift

    def summary(self) -> Summary:
        """Drift, coverage and whether to measure again, of calls in a row."""
        return summary(self._steady.state)

    def planned_s(self, point: int) -> float:
        """Seconds that others have to plan for a call of one image at that point."""
        return self._seconds[point] * self._now().margin

    def alone_s(self, allowed: tuple[int, ...]) -> float:
        """Seconds within which one image is done at the surest of those points, looked at again or
        not: what its own deadline is held to."""
        found = self._alone_s.get(allowed)
        if found is None:
            found = self._alone_s[allowed] = self.dial.alone_s(allowed)
        return found * self._now().margin

    def share_s(self, point: int) -> float:
        """Seconds that an image at that point adds to the call that suits it best, drift left
        out."""
        return self._share_s[point]

    @property
    def longest_s(self) -> float:
        """The most that a call of one image takes at any point, to be planned with."""
        return self._longest_s * self._now().margin

    def predict(self, chosen: Sequence[int]) -> tuple[float, float]:
        """Seconds, median and planning quantile, of a call with images at those points that begins
        now, or once the running one has ended. Where points glance that quantile is a bound: those
        of who is looked at again and of what calls take multiply."""
        now = self._now()
        median_s = self.dial.quantile_call_s(chosen, MEDIAN)
        return median_s * now.median, self.dial.quantile_call_s(chosen, AGAIN) * now.planned

    def looks(self, point: int) -> tuple[float, float]:
        """Median seconds of a call of one image at that point, looked at once and looked at again;
        equal where it does not glance."""
        once_s, again_s = (self.dial.known_call_s((point,), (each,)) for each in (False, True))
        median = self._now().median
        return once_s * median, again_s * median

    def began(self) -> None:
        """A call was handed to the engine: until the next `observe`, it does not rest."""
        self._running = True

    def judge(self, missed: bool) -> None:
        """An answer that was planned to be in time, and whose point was free, was not (or was)."""
        self._caution = self._caution.observe(missed)

    def ended(self, now_s: float) -> None:
        """A call ended that tells nothing of what calls take: it failed, or nobody waited."""
        self._running = False
        self._ended_s = max(self._ended_s, now_s)

    def observe(
        self,
        chosen: Sequence[int],
        service_s: float,
        now_s: float,
        again: Sequence[bool | None] | None = None,
    ) -> None:
        """A call with images at those points took `service_s` and ended at `now_s`.

        again: which of them were looked at again; None where that is not known, or not asked. What
        is no duration counts as the nearest that is one; NaN and endless clocks do not count.
        """
        self._running = False
        if math.isnan(service_s) or not math.isfinite(now_s):
            return
        taken_s = min(max(service_s, _LEAST_S), MOST_SECONDS)
        rested = now_s - taken_s - self._ended_s >= REST_S
        kind = self._rested if rested else self._steady
        seen = (None,) * len(chosen) if again is None else again
        kind.observe(self.dial.known_call_s(chosen, seen), taken_s, now_s)
        glanced = [(k, each) for k, each in zip(chosen, seen, strict=True) if each is not None]
        if not glanced:
            # Points that glance and became too dear for anybody are tried again after a while.
            self._hardness = self._hardness.faded(now_s - self._ended_s)
        for k, each in glanced:
            self._hardness = self._hardness.observe(self._measured.points[k].again, each)
        if not rested:
            work_s = self._measured.known_call_s(chosen, seen)
            self._overhead = observe_overhead(self._overhead, work_s, taken_s, now_s)
        moved_s = abs(self._overhead.seconds - self._overhead_s)
        moved = abs(self._hardness.shift - self._shift)
        if moved_s > OVERHEAD_STEP * min(self._seconds) or moved > HARDNESS_STEP:
            self._follow()
        self._ended_s = max(self._ended_s, now_s)

    def _follow(self) -> None:
        """Work out what follows from what was learnt of calls and of pictures."""
        self._overhead_s, self._shift = self._overhead.seconds, self._hardness.shift
        harder = [point.where(self._hardness.share(point.again)) for point in self._measured.points]
        dial = Dial(tuple(harder)).beside(self._overhead_s)
        self.dial = dial
        self._front = dial.free
        self._seconds = tuple(point.seconds[0] for point in dial.points)
        self._share_s = tuple(point.share_s for point in dial.points)
        self._longest_s = max(point.seconds[0] * point.worst for point in dial.points)
        self._alone_s: dict[tuple[int, ...], float] = {}

    def allowed(self, pinned: str | None, min_accuracy: float | None) -> tuple[int, ...]:
        """Points that a request may be answered at, the fastest first.

        The pinned one; else those of the dial's front with at least that accuracy. Raises
        BadRequest that names what there is: for an unknown point, or where none is accurate enough
        (a point whose accuracy was not measured promises none).
        """
        if pinned is not None:
            found: tuple[int, ...] = (self.index(pinned),)
        else:
            found = self._front
        if min_accuracy is None:
            return found
        enough = tuple(k for k in found if (self._accuracies[k] or 0.0) >= min_accuracy)
        if min_accuracy > 0.0 and not enough:
            raise BadRequest(self._too_inaccurate(pinned, min_accuracy))
        return enough or found

    def index(self, name: str) -> int:
        """Place of the point of that name; BadRequest lists the names there are."""
        try:
            return self._places[name]
        except KeyError:
            known = ", ".join(self._places)
            raise BadRequest(f"unknown operating point '{name:.100}'; there are: {known}") from None

    def name(self, point: int) -> str:
        """Name of that point."""
        return self.dial.points[point].name

    def accuracy(self, point: int) -> float | None:
        """Expected accuracy of that point, 0 to 1; None where the bundle measured none."""
        return self._accuracies[point]

    def _now(self) -> _Corrected | _Factors:
        rest_s = 0.0 if self._running else self._clock() - self._ended_s
        return self._rested.faded(rest_s) if rest_s >= REST_S else self._steady

    def _too_inaccurate(self, pinned: str | None, min_accuracy: float) -> str:
        wish = f"min_accuracy {min_accuracy:g}"
        if pinned is not None:
            has = self._accuracies[self.index(pinned)]
            said = "was not measured" if has is None else f"is {has:.4f}"
            return f"{wish} contradicts operating point '{pinned}', whose accuracy {said}"
        measured = [(value, k) for k, value in enumerate(self._accuracies) if value is not None]
        if not measured:
            return f"{wish} cannot be promised: this model's accuracy was not measured"
        best, k = max(measured)
        return f"no operating point has {wish}; the best is '{self.name(k)}' with {best:.4f}"


def costs_of(
    model: Model,
    profile: Mapping[str, tuple[float, ...]],
    *,
    clock: Callable[[], float] = time.monotonic,
) -> ModelCosts:
    """The costs of a served model. profile: seconds of calls of 1..max_batch images, per point; of
    those that glance as expected, what they take at the worst where it is a `Profile`.

    Where the bundle did not measure the accuracy of every point, the dial ranks points by the
    share of `full`'s work that they do, which no report shows as accuracy.
    """
    records = sorted(model.manifest.points, key=lambda record: profile[record.point.name][0])
    values = [None if r.accuracy is None else r.accuracy.value for r in records]
    most = max(record.macs_ratio for record in records)
    worst = profile.worst if isinstance(profile, Profile) else {}
    dial = Dial(
        tuple(
            PointCost(
                name=record.point.name,
                image_size=record.point.image_size,
                accuracy=record.macs_ratio / most if None in values or value is None else value,
                # A larger batch never takes less; where it was measured so, that was noise.
                seconds=tuple(accumulate(profile[record.point.name], max)),
                again=1.0 if record.again is None else record.again,
                worst=worst.get(record.point.name, 1.0),
            )
            for record, value in zip(records, values, strict=True)
        )
    )
    full = next(k for k, r in enumerate(records) if r.point.name == model.manifest.full.point.name)
    ratios, rested_ratio = DEFAULT_RATIOS, 1.0
    if isinstance(profile, Profile):
        ratios, rested_ratio = profile.ratios, profile.rested_ratio
    return ModelCosts(
        dial, values, full=full, ratios=ratios, rested_ratio=rested_ratio, clock=clock
    )


class _Factors(NamedTuple):
    """Seconds over the dial's: median, planning quantile, and that of plans, at least 1."""

    median: float
    planned: float
    margin: float

    @classmethod
    def of(cls, median: float, planned: float) -> _Factors:
        return cls(median, planned, max(1.0, planned))


class _Corrected:
    """A correction, and the factors that are read from it again and again."""

    def __init__(self, state: Correction) -> None:
        self.state = state
        self._read()
        self._first = _Factors.of(self.median, self.planned)

    def faded(self, rest_s: float) -> _Factors:
        """The factors after so long a rest: between what was learnt and what was to begin with."""
        kept = math.exp(-rest_s / FADE_S)
        return _Factors.of(
            self._first.median + kept * (self.median - self._first.median),
            self._first.planned + kept * (self.planned - self._first.planned),
        )

    def observe(self, dial_s: float, taken_s: float, now_s: float) -> None:
        self.state = observe(self.state, dial_s, taken_s, max(now_s, self.state.now_s))
        self._read()

    def _read(self) -> None:
        self.median = corrected(self.state, 1.0, MEDIAN)
        self.planned = corrected(self.state, 1.0, PLANNED)
        self.margin = max(1.0, self.planned)
