"""Counting multiply-accumulates: against published numbers, by hand, and as rates change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.architecture import DEPTHS, MapSize, ResNet, Stage
from engines.core import Paradigm
from engines.macs import (
    BlockRates,
    all_block_macs,
    executed_macs,
    fixed_macs,
    masker_units,
    static_macs,
)

IMAGE = MapSize(224, 224)
BLOCK_RATES = ("spatial", "dilated", "channel", "spatial_masker", "channel_masker")


def resnet(name: str, width: int = 64, num_classes: int = 1000, **options: str | bool) -> ResNet:
    stages = tuple(Stage(depth=d, width=width * 2**i) for i, d in enumerate(DEPTHS[name]))
    return ResNet.model_validate({"stages": stages, "num_classes": num_classes, **options})


def one_block(
    paradigm: Paradigm = Paradigm.SPATIAL_CHANNEL, *, stride_in_1x1: bool = False
) -> ResNet:
    """A stage without maskers and a strided block with them."""
    stage = Stage(
        depth=1,
        width=6,
        paradigm=paradigm,
        spatial_granularity=2 if paradigm is Paradigm.SPATIAL_CHANNEL else None,
        channel_granularity=2 if paradigm.masks_channels else None,
    )
    return ResNet(
        stem_width=8,
        stages=(Stage(depth=1, width=4), stage),
        num_classes=3,
        stride_in_1x1=stride_in_1x1,
    )


# Published numbers


@pytest.mark.parametrize(
    ("net", "giga"),
    [
        (resnet("resnet50"), 4.09),
        (resnet("resnet101"), 7.80),
        (
            resnet("resnet50", 32, 2, stem_pool="trailing", stride_in_1x1=True, folded=True),
            1.07,
        ),
    ],
    ids=["resnet50", "resnet101", "open_nsfw"],
)
def test_published_counts_at_224_pixels(net: ResNet, giga: float) -> None:
    assert static_macs(net, IMAGE) / 1e9 == pytest.approx(giga, abs=0.02)


# By hand


def test_parts_that_are_never_skipped() -> None:
    """26x26: 13x13 after the stem's convolution, 7x7 after the pool, 4x4 at the end."""
    stem = 3 * 7 * 7 * 8 * 13 * 13 + 9 * 8 * 7 * 7
    head = 24 * 4 * 4 + 24 * 3
    assert fixed_macs(one_block(), MapSize(26, 26)) == stem + head


@pytest.mark.parametrize("stride_in_1x1", [False, True])
def test_parts_of_a_strided_block(stride_in_1x1: bool) -> None:
    """The first 1x1 runs on the large map, unless it carries the stride."""
    macs = all_block_macs(one_block(stride_in_1x1=stride_in_1x1), MapSize(26, 26))[1]
    assert macs.conv1 == 16 * 6 * (16 if stride_in_1x1 else 49)
    assert macs.conv2 == 6 * 6 * 9 * 16
    assert macs.conv3 == 6 * 24 * 16
    assert macs.projection == 16 * 24 * 16
    assert macs.static == macs.skippable + macs.projection
    # Four patches, each a pooled value and a weight per channel.
    assert macs.spatial_masker == 4 * 2 * 16
    # A sum over the input, then 16 hidden units, then three groups.
    assert macs.channel_masker == 16 * 49 + 16 * 16 + 16 * 3


def test_maskers_that_are_not_there_cost_nothing() -> None:
    for net in (one_block(Paradigm.STATIC), one_block(Paradigm.LAYER)):
        macs = all_block_macs(net, MapSize(26, 26))
        assert [m.channel_masker for m in macs] == [0, 0]
        assert macs[0].spatial_masker == 0
    assert all_block_macs(one_block(Paradigm.LAYER), MapSize(26, 26))[1].spatial_masker == 2 * 16


def test_units_of_each_masker() -> None:
    block = one_block().blocks[1]
    assert masker_units(block, MapSize(5, 4), "spatial") == 3 * 2
    assert masker_units(block, MapSize(5, 4), "channel") == 3
    layer = one_block(Paradigm.LAYER).blocks[1]
    assert masker_units(layer, MapSize(5, 4), "spatial") == 1


# As rates change


def test_everything_active_and_no_masker_asked_is_the_static_network() -> None:
    net = one_block()
    assert executed_macs(net, IMAGE, [BlockRates()] * 2) == static_macs(net, IMAGE)


def test_nothing_active_leaves_fixed_parts_and_projections() -> None:
    net = one_block()
    rest = executed_macs(net, IMAGE, [BlockRates(spatial=0.0, dilated=0.0, channel=0.0)] * 2)
    projections = sum(macs.projection for macs in all_block_macs(net, IMAGE))
    assert rest == fixed_macs(net, IMAGE) + projections


def test_channels_count_once_in_the_outer_and_twice_in_the_inner_convolution() -> None:
    net = one_block()
    macs = all_block_macs(net, IMAGE)[1]
    saved = static_macs(net, IMAGE) - executed_macs(
        net, IMAGE, [BlockRates(), BlockRates(channel=0.5)]
    )
    assert saved == macs.conv1 / 2 + macs.conv2 * 3 / 4 + macs.conv3 / 2


def test_space_counts_once_everywhere_and_dilated_in_the_first() -> None:
    net = one_block()
    macs = all_block_macs(net, IMAGE)[1]
    saved = static_macs(net, IMAGE) - executed_macs(
        net, IMAGE, [BlockRates(), BlockRates(spatial=0.25, dilated=0.5)]
    )
    assert saved == macs.conv1 / 2 + macs.conv2 * 3 / 4 + macs.conv3 * 3 / 4


def test_rates_are_squared_per_image_and_not_on_average() -> None:
    """An image with all channels and one with none cost half the 3x3 on average, not a quarter."""
    net = one_block()
    macs = all_block_macs(net, IMAGE)[1]
    each = executed_macs(net, IMAGE, [BlockRates(), BlockRates(channel=np.array([1.0, 0.0]))])
    assert static_macs(net, IMAGE) - each.mean() == macs.skippable / 2


shares = st.floats(0.0, 1.0)
rates = st.builds(BlockRates, **dict.fromkeys(BLOCK_RATES, shares))


@given(low=st.tuples(rates, rates), more=st.tuples(rates, rates))
def test_no_rate_costs_less_when_it_grows(
    low: tuple[BlockRates, BlockRates], more: tuple[BlockRates, BlockRates]
) -> None:
    net = one_block()
    high = [
        BlockRates(**{name: max(getattr(a, name), getattr(b, name)) for name in BLOCK_RATES})
        for a, b in zip(low, more, strict=True)
    ]
    assert executed_macs(net, IMAGE, low) <= executed_macs(net, IMAGE, high)


def test_rates_are_needed_for_every_block() -> None:
    with pytest.raises(ValueError, match="zip"):
        executed_macs(one_block(), IMAGE, [BlockRates()])
