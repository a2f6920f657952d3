"""What follows from a RegNet's stages, and what is refused; both families in one manifest field."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from engines.architecture import (
    REGNET_STAGES,
    Architecture,
    MapSize,
    RegNet,
    RegNetStage,
    ResNet,
    Stage,
    only_resnet,
)
from engines.core import Paradigm
from engines.errors import BundleError

SMALL = RegNet(stages=REGNET_STAGES["regnet_y_400mf"], num_classes=1000)
LARGE = RegNet(stages=REGNET_STAGES["regnet_y_800mf"], num_classes=1000)


# Published networks


def test_blocks_of_regnet_y_400mf() -> None:
    assert [block.name for block in SMALL.blocks[:5]] == [
        "layer1.0",
        *("layer2.0", "layer2.1", "layer2.2"),
        "layer3.0",
    ]
    assert len(SMALL.blocks) == 16
    assert [block.name for block in SMALL.blocks if block.stride == 2] == [
        f"layer{stage}.0" for stage in (1, 2, 3, 4)
    ]
    assert [block.projection for block in SMALL.blocks] == [
        block.stride == 2 for block in SMALL.blocks
    ]
    first, last = SMALL.blocks[0], SMALL.blocks[-1]
    assert (first.in_channels, first.width, first.out_channels) == (32, 48, 48)
    assert (last.in_channels, last.width, last.out_channels) == (440, 440, 440)
    assert SMALL.num_features == 440
    assert SMALL.maskers == ()


def test_groups_of_the_3x3() -> None:
    assert [SMALL.blocks[i].conv_groups for i in (0, 1, 4, 10)] == [6, 13, 26, 55]
    assert [LARGE.blocks[i].conv_groups for i in (0, 1, 4, 12)] == [4, 9, 20, 49]


def test_squeeze_is_a_quarter_of_the_blocks_input() -> None:
    """Not of the width it acts on: the first block of a stage is narrower than the others."""
    assert [block.squeeze_width for block in SMALL.blocks[:6]] == [8, 12, 26, 26, 26, 52]
    assert [block.squeeze_width for block in LARGE.blocks[-2:]] == [80, 196]


def test_a_small_ratio_leaves_one_unit_and_none_leaves_none() -> None:
    tiny = SMALL.model_copy(update={"squeeze_ratio": 1e-3})
    assert {block.squeeze_width for block in tiny.blocks} == {1}
    none = SMALL.model_copy(update={"squeeze_ratio": 0.0})
    assert {block.squeeze_width for block in none.blocks} == {0}


@pytest.mark.parametrize("size", [*range(1, 12), 33, 50, 224])
def test_map_sizes_are_those_of_the_convolutions(size: int) -> None:
    """Five strided 3x3: (n + 2 - 3) // 2 + 1, and no pool."""
    heights = [size]
    for _ in range(5):
        heights.append((heights[-1] + 2 * 1 - 3) // 2 + 1)
    image = MapSize(size, 7)
    assert [found.height for found in SMALL.stem_sizes(image)] == [heights[1]] * 2
    sizes = SMALL.block_sizes(image)
    assert [sizes[i][0].height for i in (0, 1, 4, 10)] == heights[1:5]
    assert [sizes[i][1].height for i in (0, 1, 4, 10)] == heights[2:]


def test_a_resnet_has_neither_groups_nor_squeeze() -> None:
    block = ResNet(stages=(Stage(depth=1, width=4),), num_classes=2).blocks[0]
    assert (block.conv_groups, block.squeeze_width) == (1, 0)


# What is refused


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"group_width": 3}, "group_width 3 does not divide width 8"),
        ({"group_width": 16}, "group_width 16 does not divide width 8"),
        ({"group_width": 0}, "greater than or equal to 1"),
        ({}, "Field required"),
        ({"group_width": 2, "paradigm": "channel"}, "'channel' needs channel_granularity"),
    ],
    ids=str,
)
def test_a_wrong_stage_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        RegNetStage.model_validate({"depth": 1, "width": 8, **fields})


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"squeeze_over": "patch"}, "'active' or 'map'"),
        ({"squeeze_ratio": -0.1}, "greater than or equal to 0"),
        ({"stem_pool": "padded"}, "Extra inputs"),
        ({"stride_in_1x1": True}, "Extra inputs"),
        ({"stages": []}, "at least 1"),
    ],
    ids=str,
)
def test_a_wrong_network_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        RegNet.model_validate({**SMALL.model_dump(), **fields})


@pytest.mark.parametrize(("group", "fits"), [(8, True), (24, True), (2, False), (12, False)])
def test_a_decision_covers_whole_groups_of_the_3x3(group: int, fits: bool) -> None:
    """Only the official layout, whose checkpoints have two channels a decision, cuts through."""
    stage = RegNetStage(
        depth=1, width=48, group_width=8, paradigm=Paradigm.CHANNEL, channel_granularity=group
    )
    RegNet(stages=(stage,), num_classes=2, official_layout=True)
    if fits:
        RegNet(stages=(stage,), num_classes=2)
        return
    with pytest.raises(ValidationError, match=f"{group} is not a multiple of group_width 8"):
        RegNet(stages=(stage,), num_classes=2)


# Two families


def test_the_family_in_json_says_which_network_it_is() -> None:
    either = TypeAdapter[ResNet | RegNet](Architecture)
    resnet = ResNet(stages=(Stage(depth=1, width=4),), num_classes=2)
    for net in (SMALL, resnet):
        assert either.validate_json(net.model_dump_json()) == net
    with pytest.raises(ValidationError, match=r"'resnet', 'regnet'"):
        either.validate_python({**resnet.model_dump(), "family": "vgg"})


def test_who_takes_one_family_refuses_the_other_in_a_line() -> None:
    resnet = ResNet(stages=(Stage(depth=1, width=4),), num_classes=2)
    assert only_resnet(resnet, "the test") is resnet
    with pytest.raises(BundleError, match=r"the test takes .* 'resnet', .* 'regnet': .*reference"):
        only_resnet(SMALL, "the test")
