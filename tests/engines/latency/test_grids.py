"""Interpolation of what was measured: exact where time is linear, sane where it is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.core import Paradigm
from engines.latency.grids import CELLS, grid_between, grid_of
from engines.latency.rates import RateVector
from engines.latency.tables import Curve
from tests.engines.cpu.cases import net_of, stage
from tests.engines.latency.cases import (
    BLOCKS,
    CLUSTERED,
    HEAD_S,
    NET,
    OVERHEAD_S,
    PIXELS,
    SCATTERED,
    STEM_S,
    block_table,
    linear,
    profile,
    rates,
)

GRID = grid_of(profile(), NET)
FIRST = 1
"""Part of the first block, which skips patches; part 0 is the stem."""
SHARES = st.floats(0.0, 1.0)


def clustered(x: float) -> float:
    return float(np.interp(x, PIXELS, CLUSTERED))


def scattered(x: float) -> float:
    return float(np.interp(x, PIXELS, SCATTERED))


def first_s(x: float, dilated: float, **options: Any) -> float:
    return float(GRID.parts(rates(x, dilated, **options))[FIRST])


# Where time is linear.


@given(SHARES)
def test_clustered_masks_are_exact_at_every_rate(x: float) -> None:
    assert first_s(x, clustered(x)) == pytest.approx(linear(x, clustered(x), 1.0))


@given(SHARES)
def test_random_masks_are_exact_at_every_rate(x: float) -> None:
    assert first_s(x, scattered(x)) == pytest.approx(linear(x, scattered(x), 1.0))


@given(SHARES, SHARES)
def test_between_clustered_and_random_time_is_in_proportion(x: float, share: float) -> None:
    dilated = clustered(x) + share * (scattered(x) - clustered(x))
    together, apart = first_s(x, clustered(x)), first_s(x, scattered(x))
    assert first_s(x, dilated) == pytest.approx(together + share * (apart - together))


@given(SHARES, SHARES)
def test_channels_and_pixels_multiply(x: float, y: float) -> None:
    part = GRID.parts(rates(x, clustered(x), y))[3]
    assert part == pytest.approx(linear(x, clustered(x), y))


@given(SHARES)
def test_a_block_that_skips_channels_does_not_look_at_pixels(y: float) -> None:
    parts = GRID.parts(rates(1.0, 1.0, y))
    assert parts[4] == pytest.approx(linear(1.0, 1.0, y))


@given(SHARES)
def test_a_layer_runs_with_a_probability(x: float) -> None:
    """What is expected lies between skipping and running it."""
    skipped, run = linear(0.0, 0.0, 1.0), linear(1.0, 1.0, 1.0)
    assert GRID.parts(rates(x, x))[5] == pytest.approx(skipped + x * (run - skipped))


@pytest.mark.parametrize("rate", [0.0, 1.0, *(i / CELLS for i in range(1, CELLS))])
def test_the_ends_of_cells_belong_to_both(rate: float) -> None:
    at = first_s(rate, clustered(rate))
    for beside in (rate - 1e-9, rate + 1e-9):
        near = min(max(beside, 0.0), 1.0)
        assert first_s(near, clustered(near)) == pytest.approx(at, abs=1e-6)


# What lies outside what was measured.


def test_more_pixels_than_random_masks_need_extrapolate() -> None:
    x = 0.5
    assert first_s(x, 1.0) == pytest.approx(linear(x, 1.0, 1.0))
    assert first_s(x, 1.0) > first_s(x, scattered(x))


def test_fewer_pixels_than_clustered_masks_need_extrapolate() -> None:
    x = 0.5
    assert first_s(x, x) == pytest.approx(linear(x, x, 1.0))
    assert first_s(x, x) < first_s(x, clustered(x))


def test_random_masks_that_seemed_faster_are_noise() -> None:
    table = block_table(NET, 0)
    assert table.random is not None
    fast = table.random.model_copy(update={"seconds": ((1.0,) * len(PIXELS),)})
    spoilt = table.model_copy(update={"random": fast})
    grid = grid_of(profile(blocks=(spoilt, *profile().blocks[1:])), NET)
    x = 0.5
    parts = [grid.parts(rates(x, dilated))[FIRST] for dilated in (clustered(x), scattered(x))]
    assert parts[0] == pytest.approx(parts[1]) == pytest.approx(linear(x, clustered(x), 1.0))


def test_where_all_masks_need_the_same_pixels_no_slope_is_made_up() -> None:
    """A gap of next to nothing would turn noise into a cliff."""
    table = block_table(NET, 0)
    near = tuple(min(1.0, share + 0.001) for share in CLUSTERED)
    slow = Curve(active=PIXELS, dilated=near, seconds=((50.0,) * len(PIXELS),))
    spoilt = table.model_copy(update={"random": slow})
    grid = grid_of(profile(blocks=(spoilt, *profile().blocks[1:])), NET)
    parts = [grid.parts(rates(0.5, dilated))[FIRST] for dilated in (0.5, 0.7, 1.0)]
    assert parts == pytest.approx([linear(0.5, clustered(0.5), 1.0)] * 3)


def test_a_curve_that_does_not_reach_the_ends_is_level_beyond_them() -> None:
    curve = Curve(active=(0.25, 0.75), dilated=(0.25, 0.75), seconds=((2.0, 4.0),))
    table = block_table(NET, 0).model_copy(update={"clustered": curve, "random": None})
    grid = grid_of(profile(blocks=(table, *profile().blocks[1:])), NET)
    found = [grid.parts(rates(x, x))[FIRST] for x in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert found == pytest.approx([2.0, 2.0, 3.0, 4.0, 4.0])


MEASURED = st.lists(st.floats(0.0, 9.0), min_size=len(PIXELS), max_size=len(PIXELS))


@given(MEASURED, MEASURED, SHARES, SHARES)
def test_no_noise_makes_a_block_take_less_than_nothing(
    together: list[float], apart: list[float], x: float, dilated: float
) -> None:
    table = block_table(NET, 0)
    assert table.random is not None
    noisy = table.model_copy(
        update={
            "clustered": table.clustered.model_copy(update={"seconds": (tuple(together),)}),
            "random": table.random.model_copy(update={"seconds": (tuple(apart),)}),
        }
    )
    grid = grid_of(profile(blocks=(noisy, *profile().blocks[1:])), NET)
    assert grid.parts(rates(x, dilated))[FIRST] >= -1e-9


# Maskers that are not asked, and the whole.


def test_a_block_whose_maskers_are_not_asked_takes_its_static_time() -> None:
    parts = GRID.parts(rates(0.5, 0.5, 0.5, asked=False))
    assert parts == pytest.approx([STEM_S, *(10.0 + i for i in range(BLOCKS)), HEAD_S])


def test_blocks_are_asked_one_by_one() -> None:
    asked = np.zeros(BLOCKS, np.bool_)
    asked[0] = True
    ones = np.ones(BLOCKS)
    parts = GRID.parts(RateVector(ones, ones, ones, asked))
    assert parts[FIRST] == pytest.approx(linear(1.0, 1.0, 1.0))
    assert parts[2:-1] == pytest.approx([10.0 + i for i in range(1, BLOCKS)])


def test_a_block_without_maskers_is_static_whatever_is_asked() -> None:
    assert GRID.parts(rates(0.0, 0.0, 0.0))[6] == pytest.approx(15.0)


@given(SHARES, SHARES, SHARES, st.booleans())
def test_parts_and_overhead_add_up(x: float, dilated: float, y: float, asked: bool) -> None:
    asking = rates(x, dilated, y, asked=asked)
    total = GRID.parts(asking).sum() + OVERHEAD_S
    assert GRID.seconds(asking) == pytest.approx(total)
    assert GRID.overhead_s == OVERHEAD_S


def test_parts_are_the_callers_own() -> None:
    GRID.parts(rates())[:] = 0.0
    assert GRID.parts(rates())[0] == STEM_S


@pytest.mark.parametrize(
    "paradigm", [Paradigm.SPATIAL, Paradigm.CHANNEL, Paradigm.LAYER, Paradigm.STATIC]
)
def test_a_network_that_skips_in_one_way_only(paradigm: Paradigm) -> None:
    net = net_of(stage(paradigm, 8, depth=2, patch=2, group=2))
    grid = grid_of(profile(net), net)
    whole = grid.parts(rates(blocks=2))[1:-1]
    assert whole == pytest.approx(
        [10.0, 11.0] if paradigm is Paradigm.STATIC else [linear(1.0, 1.0, 1.0)] * 2
    )


# Between two grids.


def test_halfway_between_two_grids_everything_is_halfway() -> None:
    small, large = (grid_of(profile(scale=scale), NET) for scale in (1.0, 3.0))
    between = grid_between(small, large, np.full(BLOCKS + 2, 0.5))
    for asking in (rates(0.3, 0.6, 0.7), rates(asked=False), rates(0.0, 0.0, 0.0)):
        assert between.seconds(asking) == pytest.approx(2.0 * small.seconds(asking))
        assert between.parts(asking) == pytest.approx(2.0 * small.parts(asking))


def test_every_part_has_a_share_of_its_own() -> None:
    small, large = (grid_of(profile(scale=scale), NET) for scale in (1.0, 2.0))
    shares = np.linspace(0.0, 1.0, BLOCKS + 2)
    between = grid_between(small, large, shares)
    asking = rates(0.3, 0.6, 0.7)
    assert between.parts(asking) == pytest.approx(small.parts(asking) * (1.0 + shares))
    assert between.overhead_s == pytest.approx(OVERHEAD_S * 1.5)
    assert between.seconds(asking) == pytest.approx(
        between.parts(asking).sum() + between.overhead_s
    )


def test_at_the_ends_it_is_one_of_them() -> None:
    small, large = (grid_of(profile(scale=scale), NET) for scale in (1.0, 3.0))
    asking = rates(0.3, 0.6, 0.7)
    for share, end in ((0.0, small), (1.0, large)):
        found = grid_between(small, large, np.full(BLOCKS + 2, share))
        assert found.seconds(asking) == pytest.approx(end.seconds(asking))
    assert grid_between(small, small, np.zeros(BLOCKS + 2)) is small
