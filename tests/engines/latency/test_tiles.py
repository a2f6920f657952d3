"""Tile sizes, sectors and imbalance: examples by hand, and the expectation by enumeration."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from engines.latency.tiles import (
    IMPOSSIBLE,
    imbalance,
    round_up,
    sector_overhead,
    tile_grid,
    tile_sizes,
)


@pytest.mark.parametrize(
    ("extent", "sizes"),
    [
        (1, [1, 2]),
        (2, [1, 2, 4]),
        (14, [1, 2, 3, 4, 5, 6, 7, 8, 14, 16]),
        (256, [1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 37, 43, 52, 64, 86, 128, 256]),
    ],
)
def test_candidates_are_powers_even_parts_and_small_numbers(
    extent: int, sizes: list[float]
) -> None:
    assert tile_sizes(extent).tolist() == sizes


def test_a_grid_has_every_combination_of_tile_sizes() -> None:
    c, h = tile_grid(2, 1)
    assert (c * 10 + h).tolist() == [[11, 12], [21, 22], [41, 42]]


@pytest.mark.parametrize(("work", "rounded"), [(1, 8), (8, 8), (9, 16)])
def test_a_unit_that_is_not_full_costs_a_full_one(work: int, rounded: int) -> None:
    assert round_up(work, 8) == rounded


@pytest.mark.parametrize(
    ("run", "gap", "overhead"),
    [
        pytest.param(16, 4, 1.0, id="whole sectors"),
        pytest.param(14, 0, 16 / 14, id="the last sector is not full"),
        pytest.param(7, 7, 8 / 7, id="a sector for every run"),
        pytest.param(2, 2, 2.0, id="two runs share a sector and move what is between"),
        pytest.param(4, 0, 1.0, id="nothing lies between"),
        pytest.param(8, -1, IMPOSSIBLE, id="longer than a row"),
    ],
)
def test_memory_moves_whole_sectors_of_8_words(run: int, gap: int, overhead: float) -> None:
    assert sector_overhead(run, gap, 8) == pytest.approx(overhead)


# Imbalance


def by_enumeration(tiles: int, channels: int, density: float, group: int) -> float:
    """Over every way in which the groups of independent tiles can be active."""
    groups = -(-channels // group)
    sizes = np.minimum(group, channels - group * np.arange(groups))
    states = np.array(list(product((0, 1), repeat=tiles * groups)))
    active = states.sum(axis=1)
    chances = density**active * (1 - density) ** (tiles * groups - active)
    fullest = (states.reshape(-1, tiles, groups) @ sizes).max(axis=1)
    return float((chances * fullest).sum()) / channels


@settings(deadline=None)
@given(
    tiles=st.integers(1, 2),
    channels=st.integers(1, 5),
    group=st.integers(1, 3),
    density=st.floats(0.01, 0.99),
)
def test_the_exact_imbalance_is_the_expected_maximum(
    tiles: int, channels: int, group: int, density: float
) -> None:
    assume(channels >= group)
    expected = by_enumeration(tiles, channels, density, group)
    assert imbalance(tiles, channels, density, group, True) == pytest.approx(expected, rel=1e-9)


def test_two_tiles_of_two_channels_at_one_half() -> None:
    """P(both have 0) = 1/16, P(both have at most 1) = 9/16: E[max] = 15/16 + 7/16 of 2."""
    assert imbalance(2, 2, 0.5, 1, True) == pytest.approx(0.6875)


def test_tiles_within_one_group_are_on_and_off_together() -> None:
    assert imbalance(4, 1, 0.5, 4, True) == pytest.approx(0.5)
    assert imbalance(4, 1, 0.5, 2, True) == pytest.approx(0.75)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(("density", "share"), [(0.0, 0.0), (1.0, 1.0)])
def test_nothing_is_out_of_balance_where_all_or_nothing_is_active(
    exact: bool, density: float, share: float
) -> None:
    assert imbalance(9, 5, density, 1, exact) == share


def test_random_draws_are_the_same_every_time_and_near_the_expectation() -> None:
    cases = [(t, c, d) for t in (2, 8, 40) for c in (4, 32, 256) for d in (0.1, 0.5, 0.9)]
    drawn = [imbalance(t, c, d, 1, False) for t, c, d in cases]
    imbalance.cache_clear()
    assert drawn == [imbalance(t, c, d, 1, False) for t, c, d in reversed(cases)][::-1]
    exact = [imbalance(t, c, d, 1, True) for t, c, d in cases]
    # A maximum of tiles spreads less than one tile: sigma <= sqrt(d (1 - d) / c); 100 draws.
    sigma = [(d * (1 - d) / c / 100) ** 0.5 for _, c, d in cases]
    assert all(abs(a - b) < 4 * s for a, b, s in zip(drawn, exact, sigma, strict=True))


def test_wide_tiles_do_not_lose_the_expectation_to_rounding() -> None:
    assert imbalance(1, 2048, 0.5, 1, True) == pytest.approx(0.5, abs=1e-9)
    assert 0.5 < imbalance(2, 2048, 0.5, 1, True) < 0.52
