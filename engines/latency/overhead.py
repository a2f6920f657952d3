"""What every call takes beside its work, learnt from calls: a pure function of data and a clock.

A table is taken of an engine that has the machine to itself. In service other work shares it: who
reads requests and writes answers wakes up beside each call, and takes caches and a core for a
moment. That costs a cheap point as much as a dear one, so no factor on the table describes it: on
two cores 0.6 ms more each, where the fastest point takes 0.5 ms and `full` 3.2. Learnt here is that
constant, of a line through seconds taken over seconds predicted; `engines.latency.online` then
corrects what is left, the machine's own pace, by a factor.

The line is Tukey's resistant line (Exploratory Data Analysis, 1977, chapter 10): through medians of
the cheapest and the dearest third. Where calls are too much alike there is no line, and what
is longer than predicted may as well be a slower machine: the constant can then only fall.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from engines.errors import InvalidInput

WINDOW, HORIZON_S = 192, 30.0
"""Calls that are looked at: the latest so many, and none that is older."""

EVERY = 16
"""A line is drawn after so many calls."""

FEWEST = 48
"""Calls that a line needs."""

SPREAD = 1.5
"""The dearest third must take so many times what the cheapest takes."""

GAIN = 0.5
"""Part of the way to a new line that is gone at once."""

MOST = 4.0
"""The constant is at most so many times the cheapest third's own seconds: beyond, it is no
constant."""


@dataclass(frozen=True, slots=True)
class Overhead:
    """seconds: what a call takes beside what the table says, on the table's machine (a slower one
    multiplies both). calls: the latest (clock, predicted, taken), oldest first. since: calls since
    the last line."""

    seconds: float = 0.0
    calls: tuple[tuple[float, float, float], ...] = ()
    since: int = 0


def observe_overhead(state: Overhead, predicted_s: float, taken_s: float, now_s: float) -> Overhead:
    """What is known once a call that the table, without any overhead, predicts to take
    `predicted_s` took `taken_s`.

    Raises InvalidInput for durations that are not positive and finite, or such a clock.
    """
    if not (0.0 < predicted_s < math.inf and 0.0 < taken_s < math.inf and math.isfinite(now_s)):
        raise InvalidInput(
            "a call needs positive finite seconds and a finite clock, got "
            f"{predicted_s}, {taken_s}, {now_s}"
        )
    calls = (*state.calls[-(WINDOW - 1) :], (now_s, predicted_s, taken_s))
    if state.since + 1 < EVERY:
        return replace(state, calls=calls, since=state.since + 1)
    recent = [(x, y) for at_s, x, y in calls if now_s - at_s <= HORIZON_S]
    seconds = state.seconds
    if len(recent) >= FEWEST:
        seconds += GAIN * (_constant_s(recent, seconds) - seconds)
    return Overhead(seconds, calls, 0)


def _constant_s(calls: Sequence[tuple[float, float]], known_s: float) -> float:
    ordered = sorted(calls)
    third = len(ordered) // 3
    cheap, dear = ordered[:third], ordered[-third:]
    cheap_s, dear_s = (median(x for x, _ in part) for part in (cheap, dear))
    slope = 1.0
    if dear_s >= SPREAD * cheap_s:
        rise_s = median(y for _, y in dear) - median(y for _, y in cheap)
        # Dear calls that take no longer than cheap ones say nothing of either.
        slope = max(rise_s / (dear_s - cheap_s), 0.5)
        most_s = MOST * cheap_s
    else:
        most_s = known_s
    left_s = median(y - slope * x for x, y in ordered) / slope
    return min(max(left_s, 0.0), most_s)
