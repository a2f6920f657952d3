"""Timing: one picture a call, in turns, for as long as was asked. The clock is the test's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from engines.core import OperatingPoint, Output, UInt8Array
from engines.evaluation import LabelledImages
from engines.evaluation.points import BoolArray, Forced, Trial
from engines.evaluation.timing import MOST_PICTURES, Timed, measure_latency, timing_pictures
from tests.engines.evaluation.masking import COUNTS, FULL, SIZE, SKIP, Masking


@dataclass
class Clock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


class Slow(Masking):
    """Takes 2 ms at `full` and 1 ms elsewhere, but ten times that for dark pictures."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self.seen: list[tuple[str, int, int]] = []

    def infer(
        self,
        images: UInt8Array,
        points: Sequence[OperatingPoint],
        decisions: Sequence[BoolArray] | None = None,
    ) -> Output:
        brightness = int(images[0, 0, 0, 0])
        self.seen.append((points[0].name, len(images), brightness))
        millisecond = 1e-3 if brightness else 1e-2
        self._clock.now_s += millisecond * (2 if points[0].name == "full" else 1)
        return super().infer(images, points, decisions)


def pictures_of(*brightness: int) -> UInt8Array:
    return np.stack([np.full((SIZE, SIZE, 3), value, np.uint8) for value in brightness])


def contenders(engine: Slow, pictures: UInt8Array) -> dict[str, Timed]:
    fixed = Trial(FULL.model_copy(update={"name": "fixed"}), Forced(np.ones((1, 5), bool), COUNTS))
    trials = {"full": Trial(FULL), "skip": Trial(SKIP), "fixed": fixed}
    return {name: Timed(engine, trial, pictures) for name, trial in trials.items()}


def test_quantiles_are_of_single_calls_in_milliseconds() -> None:
    clock = Clock()
    found = measure_latency(contenders(Slow(clock), pictures_of(9, 8)), 1.0, clock=clock)
    assert {name: latency.p50_ms for name, latency in found.items()} == pytest.approx(
        {"full": 2.0, "skip": 1.0, "fixed": 1.0}
    )
    assert found["full"].noise == pytest.approx(0.0)


def test_a_rare_slow_picture_shows_in_the_upper_quantile_only() -> None:
    clock = Clock()
    pictures = pictures_of(0, *range(1, 10))
    skip = measure_latency(contenders(Slow(clock), pictures), 1.0, clock=clock)["skip"]
    assert (skip.p50_ms, skip.p95_ms) == pytest.approx((1.0, 10.0))


def test_every_call_has_one_picture_and_contenders_take_turns() -> None:
    clock = Clock()
    engine = Slow(clock)
    measure_latency(contenders(engine, pictures_of(*range(1, 8))), 0.01, clock=clock)
    assert {count for _, count, _ in engine.seen} == {1}
    names = [name for name, _, _ in engine.seen]
    assert names[:9] == ["full", "skip", "fixed"] * 3, "warm-up"
    assert names[9:15] == ["full", "full", "skip", "skip", "fixed", "fixed"]


@pytest.mark.parametrize(("seconds", "calls"), [(0.001, 20), (0.82, 100), (1e6, 1000)])
def test_rounds_fill_the_seconds_within_limits(seconds: float, calls: int) -> None:
    """A round takes 8 ms here, the warm-up before its last round 8 ms."""
    clock, lines = Clock(), list[str]()
    found = measure_latency(
        contenders(Slow(clock), pictures_of(1, 2)), seconds, lines.append, clock=clock
    )
    assert {latency.calls for latency in found.values()} == {calls}
    assert lines == [f"timing 3 points, {calls} rounds, about {calls * 0.008:.0f} s"]


@pytest.mark.parametrize(
    ("number", "shown"), [(7, [*range(1, 8)]), (9, [*range(1, 10)]), (30, [1, 4, 7, 10, 13, 17])]
)
def test_all_pictures_are_shown_equally_often_or_some_evenly(number: int, shown: list[int]) -> None:
    """In twenty rounds or more, two of which share a picture."""
    clock = Clock()
    engine = Slow(clock)
    pictures = pictures_of(*range(1, number + 1))
    measure_latency(contenders(engine, pictures), 0.001, clock=clock)
    full = [seen for name, _, seen in engine.seen if name == "full"]
    # Behind the warm-up every other call is timed.
    timed = full[4::2]
    assert len(timed) >= 20
    assert len(set(map(timed.count, timed))) == 1
    assert sorted(set(timed))[: len(shown)] == shown
    assert max(timed) == number


def test_pictures_are_spread_over_all_of_them(
    pictures: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MOST_PICTURES > 9
    every = timing_pictures(pictures, [4, 8])
    assert {size: pixels.shape for size, pixels in every.items()} == {
        4: (9, 4, 4, 3),
        8: (9, 8, 8, 3),
    }
    monkeypatch.setattr("engines.evaluation.timing.MOST_PICTURES", 3)
    some = timing_pictures(pictures, [4])[4]
    np.testing.assert_array_equal(some, every[4][[0, 4, 8]])
