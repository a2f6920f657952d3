"""Counting multiply-accumulates of a RegNet: published numbers, by hand, and as rates change.

That they equal the multiplications an oracle executes is tested in
`tests/engines/models/test_regnet_masked_dense`.
"""

from __future__ import annotations

import numpy as np
import pytest

from engines.architecture import REGNET_STAGES, MapSize, RegNet, RegNetStage
from engines.core import Paradigm
from engines.macs import BlockRates, all_block_macs, executed_macs, fixed_macs, static_macs

IMAGE = MapSize(224, 224)
SIZE = MapSize(26, 26)
"""13x13 after the stem, 7x7 after the block."""
NET = RegNet(
    stem_width=8,
    stages=(
        RegNetStage(
            depth=1,
            width=12,
            group_width=3,
            paradigm=Paradigm.SPATIAL_CHANNEL,
            spatial_granularity=2,
            channel_granularity=3,
        ),
    ),
    num_classes=5,
)


def at(**rates: float | np.ndarray) -> float | np.ndarray:
    """Of the whole network, at the given rates of its one block."""
    found: float | np.ndarray = executed_macs(NET, SIZE, [BlockRates(**rates)])
    return found


@pytest.mark.parametrize(
    ("name", "published", "without_squeeze_map"),
    [("regnet_y_400mf", 0.403, 0.402), ("regnet_y_800mf", 0.835, 0.834)],
)
def test_published_counts_at_224_pixels(
    name: str, published: float, without_squeeze_map: float
) -> None:
    """The means and products of squeeze-and-excitation come to two thousandths, which torchvision's
    figures leave out."""
    net = RegNet(stages=REGNET_STAGES[name], num_classes=1000)
    count = static_macs(net, IMAGE)
    assert count / 1e9 == pytest.approx(published, abs=0.002)
    maps = sum(2 * macs.squeeze_map for macs in all_block_macs(net, IMAGE))
    assert (count - maps) / 1e9 == pytest.approx(without_squeeze_map, abs=0.0005)


def test_parts_by_hand() -> None:
    assert fixed_macs(NET, SIZE) == 3 * 9 * 8 * 13 * 13 + 12 * 7 * 7 + 12 * 5, "there is no pool"
    [macs] = all_block_macs(NET, SIZE)
    assert macs.conv1 == 8 * 12 * 13 * 13
    assert macs.conv2 == 12 * 3 * 9 * 7 * 7, "each channel reads the three of its group"
    assert macs.conv3 == 12 * 12 * 7 * 7
    assert macs.projection == 8 * 12 * 7 * 7
    assert macs.squeeze == 2 * 12 * 2, "a quarter of eight inputs"
    assert macs.squeeze_map == 12 * 7 * 7
    assert macs.static == macs.skippable + macs.projection
    assert static_macs(NET, SIZE) == fixed_macs(NET, SIZE) + macs.static


def test_without_squeeze_there_is_nothing_of_it() -> None:
    [macs] = all_block_macs(NET.model_copy(update={"squeeze_ratio": 0.0}), SIZE)
    assert (macs.squeeze, macs.squeeze_map) == (0, 0)


def test_nothing_skipped_is_the_static_network_and_nothing_active_the_shortcut() -> None:
    [macs] = all_block_macs(NET, SIZE)
    assert at() == static_macs(NET, SIZE)
    rest = fixed_macs(NET, SIZE) + macs.projection
    assert at(spatial=0.0, dilated=0.0) == rest
    assert at(channel=0.0) == rest


def test_whole_groups_cost_their_share_once_everywhere() -> None:
    """Unlike a 3x3 without groups, which half of the channels make four times cheaper."""
    [macs] = all_block_macs(NET, SIZE)
    assert static_macs(NET, SIZE) - at(channel=0.5) == macs.skippable / 2


def test_groups_that_are_active_in_part_cost_their_pairs() -> None:
    [macs] = all_block_macs(NET, SIZE)
    rest = macs.skippable - macs.conv2
    assert static_macs(NET, SIZE) - at(channel=0.5, pairs=0.25) == rest / 2 + macs.conv2 * 3 / 4


def test_squeeze_sees_active_pixels_and_runs_once_if_there_is_any() -> None:
    [macs] = all_block_macs(NET, SIZE)
    saved = static_macs(NET, SIZE) - at(spatial=0.25, dilated=0.5)
    assert saved == macs.conv1 / 2 + (macs.conv2 + macs.conv3 + 2 * macs.squeeze_map) * 3 / 4


def test_a_mean_over_the_map_saves_the_last_convolution_only() -> None:
    """And the product: its result is read at active pixels."""
    [macs] = all_block_macs(NET, SIZE)
    saved = static_macs(NET, SIZE) - at(spatial=0.25, dilated=1.0, middle=1.0)
    assert saved == (macs.conv3 + macs.squeeze_map) * 3 / 4


def test_rates_of_several_images_are_counted_each_by_itself() -> None:
    some = np.array([0.0, 0.25, 1.0])
    found = at(spatial=some, dilated=some)
    assert isinstance(found, np.ndarray)
    assert found.tolist() == [at(spatial=rate, dilated=rate) for rate in some.tolist()]
