"""Correcting predictions by what requests then took: pure functions of data and an injected clock.

A table says what a call took when it was measured; the machine of today may be busier. Two things
are learnt from each pair (predicted, measured). *Drift* is a slow factor on every prediction. It
follows the median of recent ratios measured / predicted, so that a few stragglers do not move it,
and by a bounded step, so that nothing moves it at once. What it leaves over, the *scores*
log(measured / (predicted x drift)), is kept in a rolling window whose quantiles are those of a
corrected prediction. The level that is read from the window for the quantile that matters is
adapted by hits and misses (adaptive conformal inference: Gibbs and Candes 2021, arXiv:2106.00170):
a miss raises it by `adaptation` x target, a hit lowers it by `adaptation` x (1 - target), which
balances when the stated share is covered, whatever the distribution and however it changes.

The window starts with the spread that the table itself showed. Those scores leave it first.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

from engines.core import FrozenModel
from engines.errors import InvalidInput
from engines.latency.online_settings import CorrectionSettings

MOST_SECONDS = 1e9
"""Longest duration that is taken for one."""

_LOG_LIMIT = math.log(1e4)
"""Ratios beyond 10,000 (or below its inverse) count as that: nothing overflows later."""

_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


class Remeasure(FrozenModel):
    """The table no longer describes this machine: since when (monotonic seconds), and how far off
    it is now (seconds measured per second predicted)."""

    since_s: float
    factor: float


class Summary(FrozenModel):
    """A correction in a few numbers, to be shown.

    drift: seconds measured per second predicted. target_ratio: the target quantile per second
    predicted, drift included. level: where the target quantile is read in the window; far above
    target when misses have to be made up for. coverage: see `coverage`. observed: how many calls.
    remeasure: see `remeasure`.
    """

    drift: float
    target: float
    target_ratio: float
    level: float
    coverage: float | None
    observed: int
    remeasure: Remeasure | None


@dataclass(frozen=True, slots=True)
class Correction:
    """What has been learnt so far: made by `start`, replaced by `observe`, never changed.

    log_drift: logarithm of the factor. slack: what may be added to the next steps. now_s: clock of
    the latest observation. recent, recent_s: latest ratios (logarithms) and their clocks.
    scores, ordered: the window, by age (oldest first) and by size. level: where in the window the
    target quantile is read. hits: a bit per observation, latest lowest, set where the target
    quantile covered it. observed: how many there have been. flagged_since_s: see `remeasure`.
    """

    settings: CorrectionSettings
    log_drift: float
    slack: float
    now_s: float
    recent: tuple[float, ...]
    recent_s: tuple[float, ...]
    scores: tuple[float, ...]
    ordered: tuple[float, ...]
    level: float
    hits: int = 0
    observed: int = 0
    flagged_since_s: float | None = None

    @property
    def drift(self) -> float:
        """The factor on every prediction."""
        return math.exp(self.log_drift)


def start(
    ratios: Sequence[float], now_s: float, settings: CorrectionSettings | None = None
) -> Correction:
    """A correction that knows only the table: `ratios` are measured / predicted of whole networks.

    Drift starts at their median, quantiles are theirs. now_s: monotonic seconds. Raises
    InvalidInput for no ratio, one that is not a positive finite number, or a clock that is not.
    """
    settings = settings or CorrectionSettings()
    if not ratios:
        raise InvalidInput("ratios of the table must not be empty")
    for ratio in ratios:
        _check("a ratio of the table", ratio)
    if not math.isfinite(now_s):
        raise InvalidInput(f"now_s must be a finite number of seconds, got {now_s}")
    logs = tuple(sorted(_clipped(math.log(ratio)) for ratio in ratios))
    middle = _at(logs, 0.5)
    n = settings.prior
    # Neighbours in size leave far apart in time: what remains looks like the whole.
    places = sorted(range(n), key=lambda i: (i * _GOLDEN) % 1.0)
    scores = tuple(_at(logs, (i + 1) / (n + 1)) - middle for i in places)
    return Correction(
        settings=settings,
        log_drift=middle,
        slack=0.0,
        now_s=now_s,
        recent=(middle,) * settings.recent_least,
        recent_s=(now_s,) * settings.recent_least,
        scores=scores,
        ordered=tuple(sorted(scores)),
        level=settings.target,
    )


def observe(state: Correction, predicted_s: float, measured_s: float, now_s: float) -> Correction:
    """What is known once a call that the table predicts to take `predicted_s` took `measured_s`.

    predicted_s is the table's number, not a corrected one. Judged by `state`, so observations come
    one after another. Raises InvalidInput for a duration that is not a positive finite number or a
    clock before the latest observation's.
    """
    if not (0.0 < predicted_s <= MOST_SECONDS and 0.0 < measured_s <= MOST_SECONDS):
        _check("predicted_s", predicted_s)
        _check("measured_s", measured_s)
    if not state.now_s <= now_s < math.inf:
        raise InvalidInput(
            f"now_s must be finite and not before the latest observation at {state.now_s}, "
            f"got {now_s}: use one monotonic clock"
        )
    settings = state.settings
    ratio = _clipped(math.log(measured_s) - math.log(predicted_s))
    score = ratio - state.log_drift

    hit = score <= _at(state.ordered, state.level)
    target = settings.target
    level = state.level + settings.adaptation * (target - hit)
    # Beyond these the window has no answer, and the way back would only be longer.
    level = min(max(level, 0.5), 1.0)
    scores, ordered = _with_score(state, score)

    recent, recent_s = _with_ratio(state, ratio, now_s)
    room = settings.most_step - settings.step
    slack = min(room, state.slack + settings.step_per_s * (now_s - state.now_s))
    bound = settings.step + slack
    wish = sorted(recent)[len(recent) // 2] - state.log_drift
    move = min(max(wish, -bound), bound)
    log_drift = state.log_drift + move
    slack = max(0.0, slack - max(0.0, abs(move) - settings.step))

    return Correction(
        settings,
        log_drift,
        slack,
        now_s,
        recent,
        recent_s,
        scores,
        ordered,
        level,
        (state.hits << 1 | hit) & ((1 << settings.covered) - 1),
        state.observed + 1,
        _flagged_since_s(state, log_drift, now_s),
    )


def corrected(state: Correction, predicted_s: float, quantile: float) -> float:
    """Seconds that a call takes at most in `quantile` of cases, where the table says `predicted_s`.

    Never falls as `quantile` rises. Raises InvalidInput for a prediction that is not a positive
    finite number or a quantile outside 0 to 1 (both excluded).
    """
    if not 0.0 < predicted_s <= MOST_SECONDS:
        _check("predicted_s", predicted_s)
    if not 0.0 < quantile < 1.0:
        raise InvalidInput(f"quantile must be above 0 and below 1, got {quantile}")
    level = quantile
    if quantile > 0.5:
        # The median is read where it is; between it and the target, and between the target and 1,
        # levels are stretched as far as the target's had to be, so that quantiles never cross.
        target = state.settings.target
        if quantile <= target:
            level = 0.5 + (quantile - 0.5) * (state.level - 0.5) / (target - 0.5)
        else:
            level = 1.0 - (1.0 - quantile) * (1.0 - state.level) / (1.0 - target)
    return predicted_s * math.exp(state.log_drift + _at(state.ordered, level))


def coverage(state: Correction) -> float | None:
    """Share of the latest `settings.covered` observations within their target quantile.

    None before the first.
    """
    n = min(state.observed, state.settings.covered)
    return state.hits.bit_count() / n if n else None


def remeasure(state: Correction) -> Remeasure | None:
    """Whether the table should be measured again, and why; None while drift is near 1."""
    since_s = state.flagged_since_s
    return None if since_s is None else Remeasure(since_s=since_s, factor=state.drift)


def summary(state: Correction) -> Summary:
    """The state as numbers that mean something to an operator."""
    target = state.settings.target
    return Summary(
        drift=state.drift,
        target=target,
        target_ratio=corrected(state, 1.0, target),
        level=state.level,
        coverage=coverage(state),
        observed=state.observed,
        remeasure=remeasure(state),
    )


def _check(what: str, value: float) -> None:
    if not 0.0 < value <= MOST_SECONDS:
        raise InvalidInput(f"{what} must be above 0 and at most {MOST_SECONDS:g}, got {value}")


def _clipped(log_ratio: float) -> float:
    return min(max(log_ratio, -_LOG_LIMIT), _LOG_LIMIT)


def _at(ordered: tuple[float, ...], level: float) -> float:
    """The value at `level` of a sorted sample, interpolated; its ends beyond it.

    n values cut what comes next into n + 1 equally likely parts (the conformal rank).
    """
    place = level * (len(ordered) + 1) - 1.0
    if place <= 0.0:
        return ordered[0]
    if place >= len(ordered) - 1:
        return ordered[-1]
    i = int(place)
    low = ordered[i]
    return low + (place - i) * (ordered[i + 1] - low)


def _with_score(state: Correction, score: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The window by age and by size, with `score` in it and without its oldest if it was full."""
    scores, ordered = state.scores, list(state.ordered)
    if len(scores) == state.settings.window:
        del ordered[bisect_left(ordered, scores[0])]
        scores = scores[1:]
    insort(ordered, score)
    return scores + (score,), tuple(ordered)  # noqa: RUF005 - unpacking takes twice as long


def _with_ratio(
    state: Correction, ratio: float, now_s: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Recent ratios and their clocks, with this one in them and without what is too old."""
    settings, n = state.settings, len(state.recent)
    old = bisect_left(state.recent_s, now_s - settings.horizon_s)
    first = max(n + 1 - settings.recent, min(old, n + 1 - settings.recent_least))
    return (*state.recent[first:], ratio), (*state.recent_s[first:], now_s)


def _flagged_since_s(state: Correction, log_drift: float, now_s: float) -> float | None:
    away = abs(log_drift)
    if state.flagged_since_s is None:
        return now_s if away > math.log(state.settings.flag_above) else None
    return None if away < math.log(state.settings.unflag_below) else state.flagged_since_s
