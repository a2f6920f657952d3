"""Timing contenders in turns, and saying whether the machine was quiet enough to believe it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from engines.core import FrozenModel
from engines.errors import InvalidInput

MOST_DIFFERENCE = 0.03
"""How far the medians of two halves of the same runs may differ, as a share of the lesser."""

LEAST_TOLERANCE = 0.02
_NOISE_FACTOR = 2.0

FEWEST_REPEATS = 4


def tolerance(noise_ratio: float) -> float:
    """The share by which two latencies may differ and still count as one.

    2 %, or twice what equal runs differ by.
    """
    return max(LEAST_TOLERANCE, _NOISE_FACTOR * noise_ratio)


class Contender(Protocol):
    """Something that answers batches; draws are numbered inputs that it holds ready."""

    def load(self, draw: int) -> None:
        """Make that input the next one; not timed."""

    def run(self) -> object:
        """Answer it, from uint8 tensor to probabilities; timed."""


class Spread(FrozenModel):
    """Milliseconds of the timed runs of one contender."""

    median_ms: float
    min_ms: float
    lower_quartile_ms: float
    upper_quartile_ms: float


class Noise(FrozenModel):
    """Medians of the even and of the odd runs of one contender (A/A), in milliseconds.

    difference: as a share of the lesser.
    """

    a_ms: float
    b_ms: float
    difference: float

    @property
    def too_noisy(self) -> bool:
        """Whether nothing should be concluded from these runs."""
        return self.difference > MOST_DIFFERENCE


def interleave(
    contenders: Mapping[str, Contender],
    *,
    repeats: int,
    draws: int,
    clock: Callable[[], float] = time.perf_counter,
    heard: Callable[[str, object], None] = lambda name, answer: None,
) -> dict[str, list[float]]:
    """Seconds of `repeats` timed runs per contender: A B C A B C ...

    Each timed run follows an untimed one of the same contender on another draw, so that it finds
    its caches as it left them but not this very input's. Two runs in a row share a draw: even and
    odd runs then differ by nothing but noise. heard: gets what each timed run answered.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(repeats):
        draw = (repeat // 2) % draws
        for name, contender in contenders.items():
            contender.load((draw + 1) % draws)
            contender.run()
            contender.load(draw)
            begin = clock()
            answer = contender.run()
            times[name].append(clock() - begin)
            heard(name, answer)
    return times


def spread(times_s: Sequence[float]) -> Spread:
    """What the runs took; InvalidInput for fewer than two."""
    if len(times_s) < 2:
        raise InvalidInput(f"two runs at least are needed, got {len(times_s)}")
    lower, median, upper = statistics.quantiles(times_s, n=4, method="inclusive")
    return Spread(
        median_ms=median * 1e3,
        min_ms=min(times_s) * 1e3,
        lower_quartile_ms=lower * 1e3,
        upper_quartile_ms=upper * 1e3,
    )


def noise(times_s: Sequence[float]) -> Noise:
    """Split runs alternately into two halves; InvalidInput for fewer than FEWEST_REPEATS."""
    if len(times_s) < FEWEST_REPEATS:
        raise InvalidInput(
            f"{FEWEST_REPEATS} repeats at least are needed to tell noise, got {len(times_s)}"
        )
    a, b = (statistics.median(half) for half in (times_s[::2], times_s[1::2]))
    return Noise(a_ms=a * 1e3, b_ms=b * 1e3, difference=abs(a - b) / min(a, b))
