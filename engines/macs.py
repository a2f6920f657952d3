"""Counting multiply-accumulates of a dynamic network, from shapes and activation rates.

Plain arithmetic: rates may be floats, numpy arrays or tensors with gradients, one value per image.
The count follows LAUDNet (arXiv:2308.15949 and its code) with two deviations. Rates are kept per
image, so a 3x3 under channel skipping costs the mean of d^2, not the square of the mean d. A masker
costs what its one logit per unit needs, and nothing where it is not evaluated. Means count what
they read and scaling a map one per value: squeeze-and-excitation has both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engines.architecture import Block, MapSize, RegNet, ResNet


@dataclass(frozen=True, slots=True)
class BlockRates:
    """What a block executes, each 0 to 1 per image.

    spatial: share of its output pixels. dilated: share of the pixels on which its first convolution
    is needed (their 3x3 neighbourhood). channel: share of its inner channels.
    spatial_masker, channel_masker: 1 where that masker is evaluated, else 0.
    middle: share of the output pixels on which the 3x3 is computed; None: those of `spatial`.
    pairs: share of the 3x3's pairs of input and output channel; None: all pairs of active channels
    where it has no groups, whole groups where it has.
    """

    spatial: Any = 1.0
    dilated: Any = 1.0
    channel: Any = 1.0
    spatial_masker: Any = 0.0
    channel_masker: Any = 0.0
    middle: Any = None
    pairs: Any = None


@dataclass(frozen=True, slots=True)
class BlockMacs:
    """Multiply-accumulates of a block's parts with everything active.

    squeeze: both layers of squeeze-and-excitation. squeeze_map: its mean over the map, and as much
    again for scaling the map.
    """

    conv1: int
    conv2: int
    conv3: int
    projection: int
    spatial_masker: int
    channel_masker: int
    squeeze: int = 0
    squeeze_map: int = 0

    @property
    def static(self) -> int:
        """Without maskers."""
        return self.skippable + self.projection

    @property
    def skippable(self) -> int:
        """The residual branch, all that a mask can save."""
        return self.conv1 + self.conv2 + self.conv3 + self.squeeze + 2 * self.squeeze_map


def block_macs(block: Block, size_in: MapSize, size_out: MapSize, stride_in_1x1: bool) -> BlockMacs:
    """Parts of one block for the given input and output map sizes."""
    inner = size_out if stride_in_1x1 else size_in
    patches = size_out.patches(block.granularity.spatial).area
    hidden, groups = block.channel_masker_hidden, block.num_groups
    return BlockMacs(
        conv1=block.in_channels * block.width * inner.area,
        conv2=9 * block.width * (block.width // block.conv_groups) * size_out.area,
        conv3=block.width * block.out_channels * size_out.area,
        projection=block.in_channels * block.out_channels * size_out.area * block.projection,
        spatial_masker=2 * block.in_channels * patches * block.paradigm.masks_space,
        channel_masker=(block.in_channels * (size_in.area + hidden) + hidden * groups)
        * block.paradigm.masks_channels,
        squeeze=2 * block.width * block.squeeze_width,
        squeeze_map=block.width * size_out.area * (block.squeeze_width > 0),
    )


def all_block_macs(net: ResNet | RegNet, image: MapSize) -> tuple[BlockMacs, ...]:
    """`block_macs` of every block for an image of that size."""
    return tuple(
        block_macs(block, *sizes, net.stride_in_1x1)
        for block, sizes in zip(net.blocks, net.block_sizes(image), strict=True)
    )


def fixed_macs(net: ResNet | RegNet, image: MapSize) -> int:
    """Stem, max pool if any (9 per output), average pool and classifier: never skipped."""
    conv, pooled = net.stem_sizes(image)
    last = net.block_sizes(image)[-1][1]
    stem = 3 * net.stem_kernel**2 * net.stem_width * conv.area
    if isinstance(net, ResNet):
        stem += 9 * net.stem_width * pooled.area
    return stem + net.num_features * last.area + net.num_features * net.num_classes


def static_macs(net: ResNet | RegNet, image: MapSize) -> int:
    """The whole network with nothing skipped and no masker evaluated."""
    return fixed_macs(net, image) + sum(b.static for b in all_block_macs(net, image))


def executed_macs(net: ResNet | RegNet, image: MapSize, rates: Sequence[BlockRates]) -> Any:
    """The whole network at the given rates per block; the type follows the rates'."""
    total: Any = float(fixed_macs(net, image))
    for block, macs, rate in zip(net.blocks, all_block_macs(net, image), rates, strict=True):
        middle = rate.spatial if rate.middle is None else rate.middle
        total = (
            total
            + macs.projection
            + macs.conv1 * rate.dilated * rate.channel
            + macs.conv2 * middle * _pairs(block, rate)
            + macs.conv3 * rate.spatial * rate.channel
            + macs.spatial_masker * rate.spatial_masker
            + macs.channel_masker * rate.channel_masker
        )
        if macs.squeeze:
            # Its two layers see one vector: they run where any pixel is active.
            total = (
                total
                + macs.squeeze_map * (middle + rate.spatial) * rate.channel
                + macs.squeeze * (rate.spatial > 0) * rate.channel
            )
    return total


def _pairs(block: Block, rate: BlockRates) -> Any:
    if rate.pairs is not None:
        return rate.pairs
    return rate.channel if block.conv_groups > 1 else rate.channel * rate.channel


def masker_units(block: Block, size_out: MapSize, kind: str) -> int:
    """How many units (patches or channel groups) one of its maskers decides on."""
    if kind == "spatial":
        return size_out.patches(block.granularity.spatial).area
    return block.num_groups
