"""Rates before there is a mask: what to expect of masks drawn at that rate."""

from __future__ import annotations

import numpy as np
import pytest

from engines.architecture import MapSize, ResNet, Stage
from engines.bench.masks import MaskKind, draw_masks
from engines.core import Paradigm
from engines.errors import InvalidInput
from engines.latency.core import (
    PartCost,
    Prediction,
    check_rates,
    dilated_share,
    uniform_rates,
)
from engines.macs import BlockRates

SIZE = 224


def net(patch: int, *, stride_in_1x1: bool = False) -> ResNet:
    stage = Stage(depth=2, width=8, paradigm=Paradigm.SPATIAL, spatial_granularity=patch)
    return ResNet(stem_width=8, stages=(stage, stage), num_classes=2, stride_in_1x1=stride_in_1x1)


def measured(of: ResNet, kind: MaskKind, rate: float) -> list[float]:
    """Shares of pixels that the first convolutions need, means over drawn masks."""
    image, rng = MapSize(SIZE, SIZE), np.random.default_rng(0)
    masks = draw_masks(of, image, kind, 12, rng).at(rate)
    found = []
    for i, (size_in, size_out) in enumerate(of.block_sizes(image)):
        block = of.blocks[i]
        stride = 1 if of.stride_in_1x1 else block.stride
        grid = size_out.patches(block.granularity.spatial)
        patch = block.granularity.spatial or 1
        shares = []
        for units in masks[i].reshape(-1, grid.height, grid.width):
            pixels = units.repeat(patch, 0).repeat(patch, 1)[: size_out.height, : size_out.width]
            needed = np.zeros((size_out.height * stride + 2, size_out.width * stride + 2), np.bool_)
            for y, x in np.argwhere(pixels):
                needed[y * stride : y * stride + 3, x * stride : x * stride + 3] = True
            shares.append(needed[1:-1, 1:-1].mean())
        assert size_in.height == size_out.height * block.stride
        found.append(float(np.mean(shares)))
    return found


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("patch", [1, 2, 4, 8])
@pytest.mark.parametrize("stride_in_1x1", [False, True])
def test_random_masks_need_what_is_expected(patch: int, rate: float, stride_in_1x1: bool) -> None:
    of = net(patch, stride_in_1x1=stride_in_1x1)
    expected = [r.dilated for r in uniform_rates(of, rate, MapSize(SIZE, SIZE), clustered=False)]
    # Patches at the border have fewer neighbours than the formula gives them.
    np.testing.assert_allclose(expected, measured(of, MaskKind.RANDOM, rate), atol=0.05)


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("patch", [2, 4])
def test_clustered_masks_need_far_less_than_random_ones(patch: int, rate: float) -> None:
    of = net(patch)
    drawn = measured(of, MaskKind.CLUSTERED, rate)
    clustered = [r.dilated for r in uniform_rates(of, rate, MapSize(SIZE, SIZE))]
    scattered = measured(of, MaskKind.RANDOM, rate)
    for expected, there, most in zip(clustered, drawn, scattered, strict=True):
        assert abs(expected - there) < abs(expected - most)
        assert rate < expected <= 1.0


def test_none_and_all_need_none_and_all() -> None:
    of = net(4)
    for block, (_, out) in zip(of.blocks, of.block_sizes(MapSize(SIZE, SIZE)), strict=True):
        for clustered in (True, False):
            assert dilated_share(block, out, 0.0, clustered=clustered) == 0.0
            assert dilated_share(block, out, 1.0, clustered=clustered) == 1.0


def test_a_patch_larger_than_the_map_is_the_map() -> None:
    of = net(999)
    for block, (_, out) in zip(of.blocks, of.block_sizes(MapSize(32, 32)), strict=True):
        share = dilated_share(block, out, 0.5, clustered=False)
        assert 0.5 <= share <= 1.0


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_is_from_none_to_all(rate: float) -> None:
    with pytest.raises(InvalidInput, match="0 to 1"):
        uniform_rates(net(2), rate, MapSize(SIZE, SIZE))


def test_rates_are_one_per_block_and_shares() -> None:
    of = net(2)
    good = uniform_rates(of, 0.5, MapSize(SIZE, SIZE))
    check_rates(of, good)
    with pytest.raises(InvalidInput, match="4 blocks need as many rates, got 3"):
        check_rates(of, good[1:])
    with pytest.raises(InvalidInput, match=r"layer1\.0: rate 'dilated' must be 0 to 1, got 1\.5"):
        check_rates(of, (BlockRates(dilated=1.5), *good[1:]))


def test_a_prediction_is_the_sum_of_its_parts_and_the_call() -> None:
    parts = tuple(PartCost(name, 2.0, 1.0, 0.5, 0.5) for name in ("stem", "layer1.0", "head"))
    assert Prediction(parts, overhead_s=0.25).total_s == 6.25
