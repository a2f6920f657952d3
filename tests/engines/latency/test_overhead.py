"""What calls take beside their work: found where calls tell it, left alone where they do not."""

from __future__ import annotations

import math
import random

import pytest

from engines.errors import InvalidInput
from engines.latency.overhead import (
    EVERY,
    FEWEST,
    HORIZON_S,
    MOST,
    WINDOW,
    Overhead,
    observe_overhead,
)

CHEAP_S, MIDDLE_S, DEAR_S = 0.0005, 0.0012, 0.0032


def after(
    calls: int,
    *works_s: float,
    pace: float = 1.0,
    constant_s: float = 0.0,
    state: Overhead | None = None,
    stragglers: float = 0.0,
    every_s: float = 0.004,
) -> Overhead:
    """Once so many calls of those works took `pace` (work + constant), give or take 5 %."""
    state, draw = state or Overhead(), random.Random(0)
    now_s = state.calls[-1][0] if state.calls else 0.0
    for number in range(calls):
        now_s += every_s
        work_s = works_s[number % len(works_s)]
        taken_s = pace * (work_s + constant_s) * draw.lognormvariate(0.0, 0.05)
        if draw.random() < stragglers:
            taken_s *= 5.0
        state = observe_overhead(state, work_s, taken_s, now_s)
    return state


def test_nothing_is_known_before_enough_calls() -> None:
    assert after(FEWEST - 1, CHEAP_S, DEAR_S, constant_s=0.0007).seconds == 0.0


@pytest.mark.parametrize("constant_s", [0.0, 0.0003, 0.0007])
@pytest.mark.parametrize("pace", [0.9, 1.0, 2.0])
@pytest.mark.parametrize("works_s", [(CHEAP_S, DEAR_S), (CHEAP_S, MIDDLE_S, DEAR_S)])
def test_a_constant_is_found_whatever_the_pace(
    works_s: tuple[float, ...], pace: float, constant_s: float
) -> None:
    found = after(400, *works_s, pace=pace, constant_s=constant_s)
    assert found.seconds == pytest.approx(constant_s, abs=0.0001)


def test_a_few_stragglers_do_not_move_it() -> None:
    found = after(400, CHEAP_S, MIDDLE_S, DEAR_S, constant_s=0.0007, stragglers=0.1)
    assert found.seconds == pytest.approx(0.0007, abs=0.00015)


def test_a_slower_machine_is_no_constant() -> None:
    assert after(400, CHEAP_S, DEAR_S, pace=3.0).seconds < 0.0001


def test_calls_that_are_alike_do_not_raise_it() -> None:
    assert after(400, DEAR_S, constant_s=0.0007).seconds == 0.0


def test_calls_that_are_alike_keep_what_is_true_and_lower_what_is_not() -> None:
    known = after(400, CHEAP_S, DEAR_S, constant_s=0.0007)
    kept = after(400, CHEAP_S, constant_s=0.0007, state=known)
    assert kept.seconds == pytest.approx(known.seconds, abs=0.0001)
    assert after(400, DEAR_S, state=known).seconds < 0.0001


def test_it_follows_within_a_second_of_busy_traffic() -> None:
    known = after(400, CHEAP_S, DEAR_S)
    found = after(250, CHEAP_S, DEAR_S, constant_s=0.0007, state=known)
    assert found.seconds > 0.0005


def test_it_has_a_bound() -> None:
    assert after(400, CHEAP_S, DEAR_S, constant_s=1.0).seconds <= MOST * CHEAP_S


def test_old_calls_are_forgotten_by_number_and_by_age() -> None:
    busy = after(3 * WINDOW, CHEAP_S, DEAR_S)
    assert len(busy.calls) == WINDOW
    rare = after(2 * EVERY, CHEAP_S, DEAR_S, state=busy, every_s=HORIZON_S)
    assert rare.seconds == busy.seconds


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_what_is_no_duration_is_refused(bad: float) -> None:
    with pytest.raises(InvalidInput, match="positive finite"):
        observe_overhead(Overhead(), bad, 1.0, 0.0)
    with pytest.raises(InvalidInput, match="positive finite"):
        observe_overhead(Overhead(), 1.0, bad, 0.0)
    if not math.isfinite(bad):
        with pytest.raises(InvalidInput, match="clock"):
            observe_overhead(Overhead(), 1.0, 1.0, bad)
