"""The bottleneck that every family is made of, with the maskers of its paradigm.

This is the masked-dense form: everything is computed and then masked, exactly what an engine that
skips must reproduce. Masks multiply after the last normalisation (spatial, layer) and after ReLU
(channel), so skipping is exact; the official layout masks a ResNet's channels between convolution
and batch norm and pools patches as the official code does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.architecture import Block, MapSize, RegNet, ResNet
from engines.models.maskers import (
    ChannelMasker,
    OfficialChannelMasker,
    OfficialSpatialMasker,
    SpatialMasker,
    official_grid,
)
from engines.models.masks import Decide, Mask, dilate, expand_groups, expand_patches


def norm(channels: int, folded: bool) -> nn.Module:
    """Batch norm, or nothing where it is folded."""
    return nn.Identity() if folded else nn.BatchNorm2d(channels)


@dataclass(frozen=True)
class _Skip:
    """What a block computes: pixels (N, 1, H, W) and channels (N, C, 1, 1); None means all."""

    pixels: Tensor | None
    channels: Tensor | None
    masks: list[Mask]


class SqueezeExcitation(nn.Module):
    """Scales every channel by what two layers make of all channels' means (arXiv:1709.01507)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, y: Tensor, pixels: Tensor | None) -> Tensor:
        """A map (N, C, H, W), scaled; the means are over `pixels` (N, 1, H, W), None means all.

        Where an image has no such pixel they are 0: what comes of it has to be masked anyway.
        """
        if pixels is None:
            mean = y.mean(dim=(2, 3), keepdim=True)
        else:
            count = pixels.sum(dim=(2, 3), keepdim=True).clamp(min=1.0)
            mean = (y * pixels).sum(dim=(2, 3), keepdim=True) / count
        return y * torch.sigmoid(self.fc2(F.relu(self.fc1(mean))))


class Bottleneck(nn.Module):
    """1x1 -> 3x3 (-> squeeze-and-excitation) -> 1x1 plus shortcut."""

    def __init__(self, block: Block, index: int, net: ResNet | RegNet, first_masker: int) -> None:
        super().__init__()
        self.block = block
        self.index = index
        self.official = net.official_layout
        # The official RegNet masks channels after ReLU, as our own layout does in every family.
        self.masks_before_norm = net.official_layout and isinstance(net, ResNet)
        self.squeezes_map = isinstance(net, RegNet) and net.squeeze_over == "map"
        self.stride1, self.stride2 = (block.stride, 1) if net.stride_in_1x1 else (1, block.stride)
        self._indices = range(first_masker, first_masker + 2)
        width, out, bias = block.width, block.out_channels, net.folded
        self.conv1 = nn.Conv2d(block.in_channels, width, 1, self.stride1, bias=bias)
        self.bn1 = norm(width, net.folded)
        self.conv2 = nn.Conv2d(
            width, width, 3, self.stride2, padding=1, groups=block.conv_groups, bias=bias
        )
        self.bn2 = norm(width, net.folded)
        self.se = SqueezeExcitation(width, block.squeeze_width) if block.squeeze_width else None
        self.conv3 = nn.Conv2d(width, out, 1, bias=bias)
        self.bn3 = norm(out, net.folded)
        self.downsample = (
            nn.Sequential(
                nn.Conv2d(block.in_channels, out, 1, block.stride, bias=bias),
                norm(out, net.folded),
            )
            if block.projection
            else None
        )
        if block.paradigm.masks_space:
            self.masker_spatial = (OfficialSpatialMasker if self.official else SpatialMasker)(block)
        if block.paradigm.masks_channels:
            self.masker_channel = (OfficialChannelMasker if self.official else ChannelMasker)(block)

    def forward(self, x: Tensor, decide: Decide | None) -> tuple[Tensor, list[Mask]]:
        """Block input to block output; `decide` None computes everything and asks no masker."""
        skip = _Skip(None, None, []) if decide is None else self._ask(x, decide)
        y = self._residual(x, skip)
        if skip.pixels is not None:
            y = y * skip.pixels
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(shortcut + y), skip.masks

    def _residual(self, x: Tensor, skip: _Skip) -> Tensor:
        y = self._convolve(x, self.conv1, self.bn1, skip.channels)
        y = self._convolve(y, self.conv2, self.bn2, skip.channels)
        if self.se is not None:
            y = self.se(y, None if self.squeezes_map else skip.pixels)
        return cast(Tensor, self.bn3(self.conv3(y)))

    def _convolve(
        self, x: Tensor, conv: nn.Module, bn: nn.Module, channels: Tensor | None
    ) -> Tensor:
        y: Tensor = conv(x)
        if channels is None:
            return F.relu(bn(y))
        if self.masks_before_norm:
            return F.relu(bn(y * channels))
        return F.relu(bn(y)) * channels

    def _ask(self, x: Tensor, decide: Decide) -> _Skip:
        masks: list[Mask] = []
        pixels = channels = None
        size_in = MapSize(x.shape[2], x.shape[3])
        size = size_in.halved() if self.block.stride == 2 else size_in
        if self.block.paradigm.masks_space:
            logits = self.masker_spatial(x, size)
            units = decide(self._masker("spatial"), logits)
            pixels = self._pixels(units, size)
            reach = size if self.stride2 == 1 else size_in
            masks.append(
                self._mask("spatial", logits, units, pixels, dilate(pixels, self.stride2, reach))
            )
        if self.block.paradigm.masks_channels:
            logits = self.masker_channel(x, size)
            units = decide(self._masker("channel"), logits)
            channels = expand_groups(units, self.block.width // self.block.num_groups)
            masks.append(self._mask("channel", logits, units))
        return _Skip(pixels, channels, masks)

    def _masker(self, kind: Literal["spatial", "channel"]) -> int:
        both = self.block.paradigm.masks_space and self.block.paradigm.masks_channels
        return self._indices[1 if both and kind == "channel" else 0]

    def _mask(
        self,
        kind: Literal["spatial", "channel"],
        logits: Tensor,
        units: Tensor,
        pixels: Tensor | None = None,
        dilated: Tensor | None = None,
    ) -> Mask:
        return Mask(self._masker(kind), self.index, kind, logits, units, pixels, dilated)

    def _pixels(self, units: Tensor, size: MapSize) -> Tensor:
        patch = self.block.granularity.spatial
        if not self.official:
            return expand_patches(units, size.patches(patch), patch, size)
        grid = official_grid(size, patch)
        coarse = units.view(-1, 1, grid.height, grid.width)
        return F.interpolate(coarse, size=(size.height, size.width), mode="nearest")
