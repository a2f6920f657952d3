"""Counting multiply-accumulates of a dynamic ResNet, from shapes and activation rates.

Plain arithmetic: rates may be floats, numpy arrays or tensors with gradients, one value per image.
The count follows LAUDNet (arXiv:2308.15949 and its code) with two deviations. Rates are kept per
image, so a 3x3 under channel skipping costs the mean of d^2, not the square of the mean d. A masker
costs what its one logit per unit needs, and nothing where it is not evaluated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engines.architecture import Block, MapSize, ResNet


@dataclass(frozen=True, slots=True)
class BlockRates:
    """What a block executes, each 0 to 1 per image.

    spatial: share of its output pixels. dilated: share of the pixels on which its first convolution
    is needed (their 3x3 neighbourhood). channel: share of its inner channels.
    spatial_masker, channel_masker: 1 where that masker is evaluated, else 0.
    """

    spatial: Any = 1.0
    dilated: Any = 1.0
    channel: Any = 1.0
    spatial_masker: Any = 0.0
    channel_masker: Any = 0.0


@dataclass(frozen=True, slots=True)
class BlockMacs:
    """Multiply-accumulates of a block's parts with everything active."""

    conv1: int
    conv2: int
    conv3: int
    projection: int
    spatial_masker: int
    channel_masker: int

    @property
    def static(self) -> int:
        """Without maskers."""
        return self.conv1 + self.conv2 + self.conv3 + self.projection

    @property
    def skippable(self) -> int:
        """The residual branch, all that a mask can save."""
        return self.conv1 + self.conv2 + self.conv3


def block_macs(block: Block, size_in: MapSize, size_out: MapSize, stride_in_1x1: bool) -> BlockMacs:
    """Parts of one block for the given input and output map sizes."""
    inner = size_out if stride_in_1x1 else size_in
    patches = size_out.patches(block.granularity.spatial).area
    hidden, groups = block.channel_masker_hidden, block.num_groups
    return BlockMacs(
        conv1=block.in_channels * block.width * inner.area,
        conv2=9 * block.width * block.width * size_out.area,
        conv3=block.width * block.out_channels * size_out.area,
        projection=block.in_channels * block.out_channels * size_out.area * block.projection,
        spatial_masker=2 * block.in_channels * patches * block.paradigm.masks_space,
        channel_masker=(block.in_channels * (size_in.area + hidden) + hidden * groups)
        * block.paradigm.masks_channels,
    )


def all_block_macs(net: ResNet, image: MapSize) -> tuple[BlockMacs, ...]:
    """`block_macs` of every block for an image of that size."""
    return tuple(
        block_macs(block, *sizes, net.stride_in_1x1)
        for block, sizes in zip(net.blocks, net.block_sizes(image), strict=True)
    )


def fixed_macs(net: ResNet, image: MapSize) -> int:
    """Stem, max pool (9 per output), average pool and classifier: never skipped."""
    conv, pooled = net.stem_sizes(image)
    last = net.block_sizes(image)[-1][1]
    stem = 3 * 49 * net.stem_width * conv.area + 9 * net.stem_width * pooled.area
    return stem + net.num_features * last.area + net.num_features * net.num_classes


def static_macs(net: ResNet, image: MapSize) -> int:
    """The whole network with nothing skipped and no masker evaluated."""
    return fixed_macs(net, image) + sum(b.static for b in all_block_macs(net, image))


def executed_macs(net: ResNet, image: MapSize, rates: Sequence[BlockRates]) -> Any:
    """The whole network at the given rates per block; the type follows the rates'."""
    total: Any = float(fixed_macs(net, image))
    for macs, rate in zip(all_block_macs(net, image), rates, strict=True):
        total = (
            total
            + macs.projection
            + macs.conv1 * rate.dilated * rate.channel
            + macs.conv2 * rate.spatial * rate.channel * rate.channel
            + macs.conv3 * rate.spatial * rate.channel
            + macs.spatial_masker * rate.spatial_masker
            + macs.channel_masker * rate.channel_masker
        )
    return total


def masker_units(block: Block, size_out: MapSize, kind: str) -> int:
    """How many units (patches or channel groups) one of its maskers decides on."""
    if kind == "spatial":
        return size_out.patches(block.granularity.spatial).area
    return block.num_groups
