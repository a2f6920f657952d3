"""Does the online correction keep its promise, also beside a process that takes a core?"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

from engines.bench.prediction_report import OnlineCoverage
from engines.core import OperatingPoint, UInt8Array
from engines.cpu.engine import CpuEngine
from engines.latency.online import Correction, corrected, observe, remeasure, start
from engines.latency.predictor import MeasuredPredictor
from engines.latency.profiling import timed

CALLS = 2000
SETTLING_S = 60.0

_MEDIAN, _TARGET = 0.5, 0.95
# Ends by itself should the measuring process be killed.
_BUSY = """import os
parent = os.getppid()
while os.getppid() == parent: pass
"""

Say = Callable[[str], None]


def online_coverage(
    engine: CpuEngine,
    predictor: MeasuredPredictor,
    points: Sequence[OperatingPoint],
    images: Mapping[int, UInt8Array],
    *,
    calls: int,
    settling_s: float,
    rng: np.random.Generator,
    say: Say,
) -> tuple[OnlineCoverage, ...]:
    """Calls of one image at points in random order: on a quiet machine, then beside a busy process.

    images: (N, S, S, 3) by size. Calls go on while the busy process settles, uncounted; with
    settling_s 0 there is none, and only the quiet machine is told.
    """
    state = start(predictor.ratios, time.monotonic())

    def run(busy: bool) -> OnlineCoverage:
        nonlocal state
        covered, sharpness, taken = 0, [], []
        for _ in range(calls):
            state, seconds, low, high = _one(state, engine, predictor, points, images, rng)
            covered += seconds <= high
            sharpness.append(high / low)
            taken.append(seconds)
        return OnlineCoverage(
            threads=engine.threads,
            calls=calls,
            coverage95=covered / calls,
            sharpness=float(np.median(sharpness)),
            drift=state.drift,
            flagged=remeasure(state) is not None,
            median_ms=float(np.median(taken)) * 1e3,
            p95_ms=float(np.quantile(taken, _TARGET)) * 1e3,
            busy=busy,
            settled_s=settling_s if busy else 0.0,
        )

    say(f"{calls} calls at mixed points, {engine.threads} threads")
    quiet = run(busy=False)
    if not settling_s:
        return (quiet,)
    with _busy_process():
        say(f"a process takes a core; {settling_s:.0f} s, then {calls} calls more")
        until = time.monotonic() + settling_s
        while time.monotonic() < until:
            state, *_ = _one(state, engine, predictor, points, images, rng)
        return quiet, run(busy=True)


def _one(
    state: Correction,
    engine: CpuEngine,
    predictor: MeasuredPredictor,
    points: Sequence[OperatingPoint],
    images: Mapping[int, UInt8Array],
    rng: np.random.Generator,
) -> tuple[Correction, float, float, float]:
    """One call: the state after it, what it took, and the quantiles that were predicted."""
    point = points[int(rng.integers(len(points)))]
    there = images[point.image_size]
    image = there[int(rng.integers(len(there)))][None]
    seconds, output = timed(engine, image, [point], None)
    # Which images a point looks at again is no matter of this machine.
    again = float(output.arrays["again"].mean()) if point.glance is not None else 1.0
    predicted = predictor.known(point.name, again)
    low, high = (corrected(state, predicted, quantile) for quantile in (_MEDIAN, _TARGET))
    return observe(state, predicted, seconds, time.monotonic()), seconds, low, high


@contextmanager
def _busy_process() -> Iterator[None]:
    """A process that computes without pause, until the block ends."""
    process = subprocess.Popen([sys.executable, "-S", "-c", _BUSY])
    try:
        yield
    finally:
        process.kill()
        process.wait()
