"""What follows from an architecture: blocks, maskers, map sizes; and what is none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from engines.architecture import DEPTHS, MapSize, ResNet, Stage
from engines.core import Paradigm

IMAGENET = ResNet(
    stages=tuple(
        Stage(depth=depth, width=width)
        for depth, width in zip(DEPTHS["resnet50"], (64, 128, 256, 512), strict=True)
    ),
    num_classes=1000,
)
EVERY = ResNet(
    stem_width=16,
    stages=(
        Stage(depth=2, width=4, paradigm=Paradigm.SPATIAL, spatial_granularity=4),
        Stage(depth=1, width=8),
        Stage(depth=1, width=64, paradigm=Paradigm.CHANNEL, channel_granularity=2),
        Stage(depth=1, width=8, paradigm=Paradigm.LAYER),
        Stage(
            depth=1,
            width=1024,
            paradigm=Paradigm.SPATIAL_CHANNEL,
            spatial_granularity=1,
            channel_granularity=1,
        ),
    ),
    num_classes=5,
)


# Stages


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"paradigm": "spatial"}, "'spatial' needs spatial_granularity"),
        ({"paradigm": "spatial+channel", "channel_granularity": 2}, "needs spatial_granularity"),
        ({"paradigm": "static", "spatial_granularity": 2}, "'static' takes no spatial_granularity"),
        ({"paradigm": "layer", "spatial_granularity": 2}, "'layer' takes no spatial_granularity"),
        ({"paradigm": "channel", "spatial_granularity": 2}, "takes no spatial_granularity"),
        ({"paradigm": "channel"}, "'channel' needs channel_granularity"),
        ({"paradigm": "layer", "channel_granularity": 2}, "takes no channel_granularity"),
        ({"paradigm": "channel", "channel_granularity": 3}, "3 does not divide width 8"),
        ({"paradigm": "channel", "channel_granularity": 16}, "16 does not divide width 8"),
        ({"paradigm": "channel", "channel_granularity": 0}, "greater than or equal to 1"),
        ({"paradigm": "spatial", "spatial_granularity": 0}, "greater than or equal to 1"),
        ({"paradigm": "tokens"}, "'static', 'spatial', 'channel', 'layer' or 'spatial"),
        ({"depth": 0}, "greater than or equal to 1"),
        ({"width": 0}, "greater than or equal to 1"),
        ({"groups": 2}, "Extra inputs are not permitted"),
    ],
    ids=str,
)
def test_a_wrong_stage_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Stage.model_validate({"depth": 1, "width": 8, **fields})


@pytest.mark.parametrize("count", [0, 9])
def test_a_network_has_one_to_eight_stages(count: int) -> None:
    with pytest.raises(ValidationError, match=r"at (least|most)"):
        ResNet(stages=(Stage(depth=1, width=1),) * count, num_classes=2)


def test_an_architecture_survives_json() -> None:
    assert ResNet.model_validate_json(EVERY.model_dump_json()) == EVERY


def test_a_changed_copy_has_its_own_blocks() -> None:
    assert len(EVERY.blocks) > 1
    copied = EVERY.model_copy(update={"stages": (Stage(depth=1, width=1),)})
    assert len(copied.blocks) == 1
    assert copied.maskers == ()


# Blocks and maskers


def test_blocks_of_resnet50() -> None:
    blocks = IMAGENET.blocks
    assert [block.name for block in blocks[:4]] == ["layer1.0", "layer1.1", "layer1.2", "layer2.0"]
    assert len(blocks) == 16
    assert [block.stride for block in blocks] == [1, 1, 1] + [2, 1, 1, 1] + [2] + [1] * 5 + [
        2,
        1,
        1,
    ]
    assert [block.name for block in blocks if block.projection] == [
        f"layer{stage}.0" for stage in (1, 2, 3, 4)
    ]
    first, last = blocks[0], blocks[-1]
    assert (first.in_channels, first.width, first.out_channels) == (64, 64, 256)
    assert (last.in_channels, last.width, last.out_channels) == (2048, 512, 2048)
    assert IMAGENET.num_features == 2048
    assert IMAGENET.maskers == ()


def test_a_first_block_as_wide_as_the_stem_has_no_projection() -> None:
    assert [block.projection for block in EVERY.blocks[:2]] == [False, False]


def test_maskers_stand_in_execution_order_space_before_channels() -> None:
    assert [(m.block, m.name, m.kind) for m in EVERY.maskers] == [
        (0, "layer1.0.spatial", "spatial"),
        (1, "layer1.1.spatial", "spatial"),
        (3, "layer3.0.channel", "channel"),
        (4, "layer4.0.spatial", "spatial"),
        (5, "layer5.0.spatial", "spatial"),
        (5, "layer5.0.channel", "channel"),
    ]


def test_groups_and_hidden_units_of_channel_maskers() -> None:
    """A sixteenth of the groups, but sixteen at least."""
    assert [block.num_groups for block in EVERY.blocks] == [0, 0, 0, 32, 0, 1024]
    assert [EVERY.blocks[i].channel_masker_hidden for i in (3, 5)] == [16, 64]


# Map sizes


@pytest.mark.parametrize("size", [*range(1, 12), 33, 50, 224])
def test_map_sizes_are_those_of_the_convolutions(size: int) -> None:
    """By the formula of a convolution, (n + 2 padding - kernel) // stride + 1, term by term."""
    conv = (size + 2 * 3 - 7) // 2 + 1
    padded = (conv + 2 * 1 - 3) // 2 + 1
    trailing = (max(conv + 1, 3) - 3) // 2 + 1
    image = MapSize(size, 7)
    assert [s.height for s in IMAGENET.stem_sizes(image)] == [conv, padded]
    other = IMAGENET.model_copy(update={"stem_pool": "trailing"})
    assert [s.height for s in other.stem_sizes(image)] == [conv, trailing]
    heights = [padded]
    for _ in range(3):
        heights.append((heights[-1] + 2 * 1 - 3) // 2 + 1)
    sizes = IMAGENET.block_sizes(image)
    assert [sizes[i][1].height for i in (0, 3, 7, 13)] == heights
    assert [sizes[i][0].height for i in (3, 7, 13)] == heights[:3]


def test_map_sizes_of_an_image_of_224() -> None:
    image = MapSize(224, 224)
    assert IMAGENET.stem_sizes(image) == (MapSize(112, 112), MapSize(56, 56))
    outs = [out for _, out in IMAGENET.block_sizes(image)]
    assert [out.height for out in outs] == [56] * 3 + [28] * 4 + [14] * 6 + [7] * 3


@given(height=st.integers(1, 60), width=st.integers(1, 60), patch=st.integers(1, 70))
def test_patches_cover_the_map_and_none_is_outside(height: int, width: int, patch: int) -> None:
    grid = MapSize(height, width).patches(patch)
    starts = {(i // patch, j // patch) for i in range(height) for j in range(width)}
    assert grid.area == len(starts)
    assert max(starts) == (grid.height - 1, grid.width - 1)


def test_layer_skipping_has_one_patch() -> None:
    assert MapSize(9, 13).patches(None) == MapSize(1, 1)
