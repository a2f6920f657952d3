"""What answers take after the engine is done, as plans count it."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from service.answer_costs import AnswerCosts


def test_it_begins_with_what_is_usual_and_follows_the_latest() -> None:
    costs = AnswerCosts()
    assert costs.predict() == (0.0004, 0.0004)
    for _ in range(200):
        costs.observe(0.002)
    assert costs.predict() == (0.002, 0.002)


def test_stragglers_are_planned_for_and_not_expected() -> None:
    costs = AnswerCosts()
    for n in range(400):
        costs.observe(0.01 if n % 10 == 0 else 0.001)
    assert costs.predict() == (0.001, 0.01)


@given(st.lists(st.floats(allow_nan=True)))
def test_nothing_spoils_it(taken: list[float]) -> None:
    costs = AnswerCosts()
    for seconds in taken:
        costs.observe(seconds)
    p50_s, p95_s = costs.predict()
    assert math.isfinite(p95_s)
    assert 0.0 <= p50_s <= p95_s <= 0.1
