"""Caution: plans that fail make the next ones more careful, as long as they do."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.policy.caution import MISSES, MOST, STEP, Caution


def after(*missed: bool) -> Caution:
    caution = Caution()
    for each in missed:
        caution = caution.observe(each)
    return caution


def test_at_first_there_is_none() -> None:
    assert Caution().factor == 1.0
    assert after(*[False] * 100).factor == 1.0, "plans that hold never make plans careless"


def test_a_miss_makes_more_careful_and_answers_in_time_undo_it() -> None:
    assert after(True).factor == pytest.approx(math.exp(STEP * (1 - MISSES)))
    balanced = [False] * round(1 / MISSES - 1)
    assert after(True, *balanced).factor == pytest.approx(1.0)


@given(st.lists(st.booleans(), max_size=300))
def test_it_stays_within_bounds(missed: list[bool]) -> None:
    assert 1.0 <= after(*missed).factor <= MOST


@pytest.mark.parametrize("spread", [0.05, 0.1])
def test_it_settles_where_few_plans_fail(spread: float) -> None:
    # Delays that plans know nothing of: an answer is late where its delay exceeds the caution.
    delays = np.exp(np.random.default_rng(0).normal(0.0, spread, 40_000))
    caution, missed = Caution(), []
    for delay in delays:
        missed.append(bool(delay > caution.factor))
        caution = caution.observe(missed[-1])
    assert np.mean(missed[10_000:]) == pytest.approx(MISSES, rel=0.2)
