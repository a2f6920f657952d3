"""Latency of points: one image a call, from uint8 tensor to probabilities, all points in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from engines.bench.timing import interleave, noise
from engines.core import Engine, Output, UInt8Array
from engines.evaluation.points import BoolArray, ForcingEngine, LabelledImages, Say, Trial

MOST_PICTURES = 100

_FEWEST_ROUNDS, _MOST_ROUNDS = 20, 1000
_WARM_UP_ROUNDS = 3


@dataclass(frozen=True)
class Latency:
    """Milliseconds of single calls, as their caller sees them.

    calls: how many were timed. noise: how far the medians of every other call and of the rest
    differ, as a share; over 0.03 nothing should be concluded. mean_ms: what many images take, each;
    the median, but where a point glances (see `engines.evaluation.glances.mixed`).
    """

    p50_ms: float
    p95_ms: float
    calls: int
    noise: float
    mean_ms: float


@dataclass
class Timed:
    """A trial as something to time. pictures: (N, S, S, 3) at its point's size. draws: which of
    them are shown, in order; None: all."""

    engine: Engine
    trial: Trial
    pictures: UInt8Array
    draws: Sequence[int] | None = None
    _next: UInt8Array = field(init=False)
    _forced: list[BoolArray] | None = field(init=False)

    def __post_init__(self) -> None:
        forced = self.trial.forced
        self._forced = None if forced is None else forced.of(slice(0, 1))
        self._points = [self.trial.point]
        self.load(0)

    def load(self, draw: int) -> None:
        """Make that picture the next one."""
        place = draw if self.draws is None else self.draws[draw]
        self._next = self.pictures[place : place + 1]

    def run(self) -> Output:
        """Answer it."""
        if self._forced is None:
            return self.engine.infer(self._next, self._points)
        return cast(ForcingEngine, self.engine).infer(self._next, self._points, self._forced)


def timing_pictures(images: LabelledImages, sizes: Sequence[int]) -> dict[int, UInt8Array]:
    """At most 100 pictures, evenly from all of them, by image size (n, S, S, 3)."""
    some = images.folder.thinned(MOST_PICTURES)
    chunks = [pixels for _, pixels in LabelledImages(some, images.crop_ratio).chunks(sizes)]
    return {size: np.concatenate([chunk[size] for chunk in chunks]) for size in sizes}


def measure_latency(
    contenders: Mapping[str, Timed],
    seconds: float,
    say: Say = lambda line: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Latency]:
    """Time all contenders for about that long in all, A B C A B C, so that drift hits all alike.

    At least 20 rounds and at most 1000. Every timed call follows an untimed one of the same
    contender on another picture. Where time is short some pictures are shown, evenly from all, else
    all equally often: what is looked at costs what lies in it. `contenders` must not be empty.
    """
    begin = clock()
    for _ in range(_WARM_UP_ROUNDS):
        first = clock()
        for contender in contenders.values():
            contender.run()
    # The last round of the warm-up tells what one call of each takes; a round has two of each.
    round_s = 2 * max(clock() - first, 1e-9)
    left = seconds - (first - begin)
    # Two rounds in a row share a picture.
    pairs = int(min(max(left / round_s, _FEWEST_ROUNDS), _MOST_ROUNDS)) // 2
    count = min(len(contender.pictures) for contender in contenders.values())
    some = np.linspace(0, count - 1, min(count, pairs)).astype(int).tolist()
    rounds = 2 * (pairs + -pairs % len(some))
    for contender in contenders.values():
        contender.draws = some
    say(f"timing {len(contenders)} points, {rounds} rounds, about {rounds * round_s:.0f} s")
    times = interleave(contenders, repeats=rounds, draws=len(some), clock=clock)
    return {name: _latency(of) for name, of in times.items()}


def _latency(times_s: Sequence[float]) -> Latency:
    p50, p95 = np.quantile(times_s, [0.5, 0.95])
    return Latency(
        p50_ms=float(p50) * 1e3,
        p95_ms=float(p95) * 1e3,
        calls=len(times_s),
        noise=noise(times_s).difference,
        mean_ms=float(p50) * 1e3,
    )
