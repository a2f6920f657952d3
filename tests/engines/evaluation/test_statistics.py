"""Intervals, correlations and bootstraps, against the literature and against what they must do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import InvalidInput
from engines.evaluation.statistics import (
    accuracy_of,
    paired_difference,
    pearson,
    spearman,
    wilson,
)


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [
        (90, 100, 0.8256, 0.9448),
        (50, 100, 0.4038, 0.5962),
        (1, 10, 0.0179, 0.4042),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (0, 1, 0.0, 0.7935),
        (1, 1, 0.2065, 1.0),
    ],
)
def test_wilson_intervals_of_the_literature(
    right: int, total: int, low: float, high: float
) -> None:
    assert wilson(right, total) == pytest.approx((low, high), abs=5e-5)


@given(total=st.integers(1, 5000), data=st.data())
def test_an_interval_holds_its_share_and_mirrors(total: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, total))
    low, high = wilson(right, total)
    assert 0.0 <= low <= right / total <= high <= 1.0
    assert wilson(total - right, total) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize(("right", "total"), [(0, 0), (-1, 5), (6, 5), (0, -3)])
def test_what_is_no_share_is_refused(right: int, total: int) -> None:
    with pytest.raises(InvalidInput, match=f"{right} of {total} is not a share"):
        wilson(right, total)


@pytest.mark.parametrize(("right", "total"), [(0, 1), (1, 1), (0, 2000), (2000, 2000), (7, 9)])
def test_an_accuracy_is_one_that_a_manifest_takes(right: int, total: int) -> None:
    found = accuracy_of(right, total, "test")
    assert (found.value, found.images, found.split) == (right / total, total, "test")
    assert (found.low, found.high) == wilson(right, total)


# Paired differences


def test_a_difference_is_paired_image_by_image() -> None:
    rng = np.random.default_rng(0)
    others = rng.exponential(3.0, 400)
    found = paired_difference(others + 0.01, others)
    assert found.mean == pytest.approx(0.01)
    assert (found.low, found.high) == pytest.approx((0.01, 0.01)), "however much images differ"
    assert found.above_zero
    assert not found.below_zero


def test_the_interval_is_that_of_the_mean() -> None:
    """1.96 standard errors, which the bootstrap of a mean approaches."""
    rng = np.random.default_rng(1)
    differences = rng.normal(0.2, 1.0, 900)
    found = paired_difference(differences, np.zeros(900))
    assert found.mean == pytest.approx(differences.mean())
    half = 1.96 * differences.std() / 30
    assert (found.high - found.mean, found.mean - found.low) == pytest.approx((half, half), rel=0.1)


def test_exchanging_the_two_mirrors_the_interval() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.exponential(size=(2, 50))
    one, other = paired_difference(a, b, seed=3), paired_difference(b, a, seed=3)
    assert (one.mean, one.low, one.high) == pytest.approx((-other.mean, -other.high, -other.low))


def test_the_seed_decides_and_memory_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    a, b = rng.exponential(size=(2, 60))
    once = paired_difference(a, b, seed=7)
    assert once == paired_difference(a, b, seed=7)
    assert once != paired_difference(a, b, seed=8)
    monkeypatch.setattr("engines.evaluation.statistics._MOST_INDICES", 100)
    assert paired_difference(a, b, seed=7) == once


def test_equal_losses_differ_by_nothing() -> None:
    found = paired_difference(np.ones(5), np.ones(5))
    assert (found.mean, found.low, found.high) == (0.0, 0.0, 0.0)
    assert not found.below_zero
    assert not found.above_zero


@pytest.mark.parametrize(("values", "others"), [([], []), ([1.0], [1.0, 2.0]), ([[1.0]], [[1.0]])])
def test_what_is_not_of_the_same_images_is_refused(
    values: list[float], others: list[float]
) -> None:
    with pytest.raises(InvalidInput, match="not values of the same images"):
        paired_difference(np.array(values), np.array(others))


# Correlations


def test_a_line_correlates_fully_and_a_curve_by_rank_only() -> None:
    a = np.array([1.0, 2.0, 3.0, 4.0])
    assert pearson(a, 5.0 - 2.0 * a) == pytest.approx(-1.0)
    assert spearman(a, a**7) == pytest.approx(1.0)
    curved = pearson(a, a**7)
    assert curved is not None
    assert curved < 0.9


def test_ties_share_their_mean_rank() -> None:
    """Kendall's example of Spearman with ties: ranks 1, 2.5, 2.5, 4."""
    a = np.array([10.0, 20.0, 20.0, 30.0])
    b = np.array([1.0, 2.0, 3.0, 4.0])
    assert spearman(a, b) == pytest.approx(4.5 / np.sqrt(4.5 * 5.0))


@pytest.mark.parametrize("how", [pearson, spearman])
def test_what_does_not_vary_has_no_correlation(how: object) -> None:
    assert callable(how)
    assert how(np.full(3, 0.1), np.arange(3.0)) is None
    assert how(np.arange(3.0), np.full(3, 0.1)) is None
    assert how(np.ones(1), np.ones(1)) is None
