"""Shapes of networks: published ones, ours, and what no block can be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from engines.architecture import DEPTHS, MapSize, ResNet, Stage
from engines.core import Granularity, Paradigm
from engines.errors import InvalidInput
from engines.latency.core import uniform_rates
from engines.latency.shapes import (
    NETWORK_NAMES,
    BlockShape,
    NetworkShape,
    named_shape,
    shape_of,
    uniform_shape_rates,
)

IMAGE = MapSize(224, 224)
SPATIAL = {"paradigm": Paradigm.SPATIAL, "granularity": Granularity(spatial=4)}
CHANNEL = {"paradigm": Paradigm.CHANNEL, "granularity": Granularity(channel=2)}


def macs(shape: NetworkShape) -> int:
    """Multiply-accumulates of convolutions, squeeze-and-excitation and classifier."""
    stem = shape.stem
    total = 3 * stem.kernel**2 * stem.out_channels * stem.height * stem.width
    for block in shape.blocks:
        mid, out = block.mid_channels, block.out_size.area
        total += block.in_channels * mid * block.mid_size.area
        total += 9 * mid * mid // block.groups * out + mid * block.out_channels * out
        total += block.in_channels * block.out_channels * out * block.projection
        total += 2 * mid * block.se_channels
    return total + shape.num_features * shape.num_classes


@pytest.mark.parametrize(
    ("name", "giga"),
    [
        ("resnet50", 4.09),
        ("resnet101", 7.80),
        ("regnet_y_400mf", 0.403),
        ("regnet_y_800mf", 0.835),
    ],
)
def test_published_networks_have_their_published_arithmetic(name: str, giga: float) -> None:
    assert macs(named_shape(name)) / 1e9 == pytest.approx(giga, rel=0.01)


def test_a_regnet_is_strided_from_the_first_stage_and_squeezes_a_quarter_of_its_input() -> None:
    shape = named_shape("regnet_y_400mf")
    assert [b.stride for b in shape.blocks] == [2, 2, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1, 1]
    assert [b.se_channels for b in shape.blocks[:3]] == [8, 12, 26]
    assert [b.groups for b in shape.blocks if b.stride == 2] == [6, 13, 26, 55]
    assert shape.stem.pooled is None
    assert [b.height for b in shape.blocks if b.stride == 2] == [56, 28, 14, 7]


@pytest.mark.parametrize("image", [IMAGE, MapSize(225, 97)], ids=["224x224", "225x97"])
@pytest.mark.parametrize("name", DEPTHS)
def test_a_named_resnet_is_ours(name: str, image: MapSize) -> None:
    stages = tuple(
        Stage(depth=d, width=64 * 2**i, paradigm=Paradigm.SPATIAL, spatial_granularity=s)
        for i, (d, s) in enumerate(zip(DEPTHS[name], (8, 4, 7, 1), strict=True))
    )
    net = ResNet(stages=stages, num_classes=10)
    named = named_shape(
        name, Paradigm.SPATIAL, spatial_granularity=(8, 4, 7, 1), image=image, num_classes=10
    )
    assert shape_of(net, image, name) == named
    assert uniform_shape_rates(named, 0.3) == uniform_rates(net, 0.3, image)


def test_a_stride_in_the_first_1x1_halves_the_map_before_the_3x3() -> None:
    stage = Stage(depth=1, width=8, paradigm=Paradigm.SPATIAL, spatial_granularity=2)
    stages = (stage, stage)
    net = ResNet(stem_width=8, stages=stages, num_classes=2, stride_in_1x1=True)
    shape = shape_of(net, MapSize(64, 64))
    first, second = shape.blocks
    assert (first.in_size, first.mid_size) == (MapSize(16, 16), MapSize(16, 16))
    assert (second.in_size, second.mid_size) == (MapSize(16, 16), MapSize(8, 8))
    assert uniform_shape_rates(shape, 0.3) == uniform_rates(net, 0.3, MapSize(64, 64))


def test_stages_can_differ_and_ignore_granularities_that_they_cannot_use() -> None:
    shape = named_shape(
        "resnet50",
        (Paradigm.SPATIAL, Paradigm.CHANNEL, Paradigm.LAYER, Paradigm.STATIC),
        spatial_granularity=8,
        channel_granularity=(1, 4, 1, 1),
    )
    of_stages = [shape.blocks[i] for i in (0, 3, 7, 13)]
    assert [b.granularity for b in of_stages] == [
        Granularity(spatial=8),
        Granularity(channel=4),
        Granularity(),
        Granularity(),
    ]
    assert of_stages[1].num_groups == 32


def test_a_patch_larger_than_the_map_is_the_whole_map() -> None:
    shape = named_shape("resnet50", Paradigm.SPATIAL, spatial_granularity=10_000)
    assert {block.patch for block in shape.blocks} == {None}
    rates = uniform_shape_rates(shape, 0.4)
    assert {(r.spatial, r.dilated) for r in rates} == {(0.4, 0.4)}


# Bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"in_channels": 0}, "in_channels must be at least 1"),
        ({"height": 0}, "height must be at least 1"),
        ({"stride": 0}, "stride must be at least 1"),
        ({"groups": 3}, "3 groups do not divide 8 channels"),
        ({"se_channels": -1}, "se_channels must be 0"),
        ({**SPATIAL, "granularity": Granularity(spatial=0)}, "spatial granularity must be at le"),
        ({**SPATIAL, "granularity": Granularity()}, "takes a spatial and no channel granularity"),
        ({**CHANNEL, "granularity": Granularity(channel=0)}, "channel granularity 0 does not"),
        ({**CHANNEL, "granularity": Granularity(channel=3)}, "3 does not divide 8 channels"),
        ({**CHANNEL, "paradigm": Paradigm.LAYER}, "takes no spatial and no channel granularity"),
    ],
)
def test_blocks_that_cannot_be_are_refused(change: dict[str, Any], message: str) -> None:
    block = BlockShape("layer1.0", 8, 8, 8, 4, 4)
    with pytest.raises(InvalidInput, match=rf"layer1\.0: .*{message}"):
        replace(block, **change)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet18", {}, "unknown network 'resnet18'; there are resnet50"),
        ("resnet50", {"image": MapSize(0, 224)}, "1 to 4096 pixels on a side, got 0x224"),
        ("resnet50", {"image": MapSize(224, 5000)}, "got 224x5000"),
        ("resnet50", {"num_classes": 0}, "num_classes must be at least 1"),
        ("resnet50", {"paradigm": [Paradigm.LAYER]}, "4 stages, got 1 paradigms"),
        ("resnet50", {"channel_granularity": (1, 2)}, "got 2 channel granularities"),
        ("resnet50", {"paradigm": Paradigm.SPATIAL, "spatial_granularity": 0}, "at least 1"),
        ("regnet_y_400mf", {"paradigm": Paradigm.CHANNEL, "channel_granularity": 16}, "divide"),
    ],
)
def test_networks_that_cannot_be_are_refused(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        named_shape(name, **options)


def test_blocks_must_follow_one_another() -> None:
    shape = named_shape("resnet50")
    assert len(NETWORK_NAMES) == 4
    with pytest.raises(InvalidInput, match=r"layer1\.1: takes 256 channels, but 64 come in"):
        replace(shape, blocks=shape.blocks[1:])
    with pytest.raises(InvalidInput, match="at least one block"):
        replace(shape, blocks=())


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_rates_outside_0_to_1_are_refused(rate: float) -> None:
    with pytest.raises(InvalidInput, match="rate must be 0 to 1"):
        uniform_shape_rates(named_shape("resnet50", Paradigm.LAYER), rate)
