"""Turns, halves and medians, with a clock that the test holds."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from engines.bench.timing import interleave, noise, spread
from engines.errors import InvalidInput


@dataclass
class Clock:
    """Advances when a contender runs, and only then."""

    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Scripted:
    """Takes the next of its durations at every run and writes down what happened."""

    name: str
    durations_s: list[float]
    clock: Clock
    log: list[tuple[str, int]]
    draw: int = -1

    def load(self, draw: int) -> None:
        self.draw = draw
        self.clock.now_s += 100.0

    def run(self) -> None:
        self.log.append((self.name, self.draw))
        self.clock.now_s += self.durations_s.pop(0)


def test_contenders_take_turns_and_each_timed_run_follows_an_untimed_one() -> None:
    clock, log = Clock(), list[tuple[str, int]]()
    a = Scripted("a", [9.0, 1.0, 9.0, 2.0, 9.0, 3.0], clock, log)
    b = Scripted("b", [9.0, 4.0, 9.0, 5.0, 9.0, 6.0], clock, log)
    times = interleave({"a": a, "b": b}, repeats=3, draws=2, clock=clock)
    assert times == {"a": [1.0, 2.0, 3.0], "b": [4.0, 5.0, 6.0]}
    turn = [("a", 1), ("a", 0), ("b", 1), ("b", 0)]
    other = [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert log == [*turn, *turn, *other]


def test_every_draw_is_seen_equally_often_by_both_halves() -> None:
    clock, log = Clock(), list[tuple[str, int]]()
    contender = Scripted("a", [1.0] * 24, clock, log)
    interleave({"a": contender}, repeats=12, draws=3, clock=clock)
    timed = [draw for _, draw in log[1::2]]
    assert timed[::2] == timed[1::2] == [0, 1, 2, 0, 1, 2]


def test_spread_is_in_milliseconds() -> None:
    found = spread([0.004, 0.001, 0.003, 0.002, 0.005])
    assert found.median_ms == pytest.approx(3.0)
    assert found.min_ms == pytest.approx(1.0)
    assert (found.lower_quartile_ms, found.upper_quartile_ms) == pytest.approx((2.0, 4.0))


def test_noise_compares_alternate_runs() -> None:
    found = noise([1.0, 1.2, 1.0, 1.2, 5.0, 1.2])
    assert (found.a_ms, found.b_ms) == pytest.approx((1000.0, 1200.0))
    assert found.difference == pytest.approx(0.2)
    assert found.too_noisy


@pytest.mark.parametrize(("second", "too_noisy"), [(1.029, False), (1.031, True), (0.96, True)])
def test_halves_that_differ_by_over_three_percent_are_too_noisy(
    second: float, too_noisy: bool
) -> None:
    assert noise([1.0, second] * 4).too_noisy is too_noisy


def test_too_few_runs_tell_nothing() -> None:
    with pytest.raises(InvalidInput, match="4 repeats at least"):
        noise([1.0, 1.0, 1.0])
    with pytest.raises(InvalidInput, match="two runs at least"):
        spread([1.0])
