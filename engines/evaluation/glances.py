"""Points that glance, taken apart into their two looks: rivals and latencies follow from these.

Whether to look again is the only decision of such a point that an image makes. Its rivals make it
without looking: as many images at random, or those that another image's first answer names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from engines.core import Engine, OperatingPoint
from engines.errors import InvalidInput
from engines.evaluation.points import BoolArray, LabelledImages, PointResult, Say, Trial, run_trials
from engines.evaluation.rivals import derangement
from engines.evaluation.timing import Latency


def looks_of(point: OperatingPoint) -> dict[str, OperatingPoint]:
    """What has to be timed for a point, by name: itself, or its looks where it glances."""
    if point.glance is None:
        return {point.name: point}
    return {
        f"{point.name} first look": point.looking_once,
        f"{point.name} both looks": point.looking_twice,
    }


def mixed(first: Latency, both: Latency, again: float) -> Latency:
    """The latency of a point that glances when that share of the images is looked at again.

    Each quantile is of the look that it falls into; the mean is what many images take.
    """
    p50 = first.p50_ms if again < 0.5 else both.p50_ms
    p95 = first.p95_ms if again <= 0.05 else both.p95_ms
    return Latency(
        p50_ms=p50,
        p95_ms=p95,
        calls=first.calls + both.calls,
        noise=max(first.noise, both.noise),
        mean_ms=(1.0 - again) * first.mean_ms + again * both.mean_ms,
    )


def regrouped(
    engine: Engine,
    results: Sequence[PointResult],
    images: LabelledImages,
    seed: int,
    say: Say,
    *,
    shuffle: bool,
) -> list[PointResult]:
    """What points that glance answer when other images are looked at again, as many of them.

    shuffle: each image is treated as another one was; else they are drawn.
    """
    points = [result.point for result in results]
    looks = [*(p.looking_once for p in points), *(p.looking_twice for p in points)]
    trials = [Trial(point) for point in looks]
    runs = run_trials(engine, trials, images, say)
    found = []
    for result, never, always in zip(results, runs, runs[len(points) :], strict=False):
        if result.again is None:
            raise InvalidInput(f"point '{result.point.name}' does not glance")
        again = _shuffled(result.again, seed) if shuffle else _drawn(result.again, seed)
        found.append(_either(never, always, again, result.point))
    return found


def _shuffled(again: BoolArray, seed: int) -> BoolArray:
    return again[derangement(len(again), seed)]


def _drawn(again: BoolArray, seed: int) -> BoolArray:
    drawn = np.zeros(len(again), np.bool_)
    order = np.random.default_rng(seed).permutation(len(again))
    drawn[order[: int(again.sum())]] = True
    return drawn


def _either(
    never: PointResult, always: PointResult, again: BoolArray, point: OperatingPoint
) -> PointResult:
    """Image by image the one or the other."""
    changed = {
        name: np.where(_shaped(again, one), getattr(always, name), one)
        for name in ("predictions", "losses", "macs", "activation", "decisions", "confidences")
        if (one := getattr(never, name)) is not None
    }
    return replace(never, point=point, again=again, **changed)


def _shaped(again: BoolArray, like: np.ndarray) -> BoolArray:
    return again.reshape(-1, *(1,) * (like.ndim - 1))
