"""Errors and correlations of predictions, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.bench.prediction_report import Comparison, errors, spearman


def test_errors_are_of_each_measurement_by_itself() -> None:
    """Off by 0, 25 % and 12.5 % of the first, by 20 %, 25 % and 25 % of the second."""
    of = Comparison(predicted=[2.0, 5.0, 9.0], measured=[2.0, 4.0, 8.0], again=[2.5, 4.0, 12.0])
    found = errors(of)
    assert found.median_ape == pytest.approx((0.2 + 0.25) / 2)
    assert found.p95_ape == pytest.approx(0.25)
    assert found.repeat_ape == pytest.approx(0.25), "the middle of 25 %, 0 and 50 %"
    assert found.rank_correlation == pytest.approx(1.0)
    assert found.n == 3, "things, not measurements"


def test_too_much_and_too_little_are_errors_alike() -> None:
    for predicted in (9.0, 11.0):
        found = errors(Comparison([predicted], [10.0], [10.0]))
        assert found.median_ape == found.p95_ape == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("a", "b", "correlation"),
    [
        ([1, 2, 3], [10, 20, 30], 1.0),
        ([1, 2, 3], [1, 8, 1000], 1.0),
        ([1, 2, 3], [3, 2, 1], -1.0),
        ([1, 2, 3, 4, 5], [2, 1, 4, 3, 5], 0.8),
        # Ranks 1.5, 1.5, 3 beside 1, 2, 3: 1.5 / sqrt(1.5 * 2).
        ([1, 1, 2], [1, 2, 3], 0.75**0.5),
        ([1, 1, 1], [1, 2, 3], 1.0),
        ([1], [2], 1.0),
    ],
)
def test_ranks_are_correlated_and_ties_share_theirs(
    a: list[float], b: list[float], correlation: float
) -> None:
    assert spearman(a, b) == pytest.approx(correlation)
    assert spearman(b, a) == pytest.approx(correlation)


@given(st.lists(st.integers(0, 9), min_size=2, max_size=20))
def test_only_order_matters(values: list[int]) -> None:
    stretched = np.exp(np.array(values, np.float64))
    assert spearman(values, stretched) == pytest.approx(1.0)
