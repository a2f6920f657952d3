"""The small heads that look at a block's input and say what to compute.

Ours give one logit per unit. `OfficialSpatialMasker` and `OfficialChannelMasker` reproduce the
modules (names, shapes, initialisation) of the official LAUDNet release; their logit is on - off.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.architecture import Block, MapSize

CLIP = 5.0


class _Standardise(nn.Module):
    """(x - mean) / std per channel, clipped at +-5, with statistics of the static network."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def standardise(self, pooled: Tensor) -> Tensor:
        """Pooled inputs (..., C), standardised; no gradient flows back into the trunk."""
        return ((pooled.detach() - self.mean) / self.std).clamp(-CLIP, CLIP)


def pool_patches(x: Tensor, window: int | None) -> Tensor:
    """Means over windows of pixels, (N, patches, C); partial windows average what they cover."""
    if window is None:
        return x.mean(dim=(2, 3))[:, None, :]
    if window > 1:
        x = F.avg_pool2d(x, window, ceil_mode=True, count_include_pad=False)
    return x.flatten(2).transpose(1, 2)


class PatchMasker(_Standardise):
    """One logit per patch: w . standardised mean of the patch / sqrt(C). All zero at first.

    window: pixels on a side of a patch of the map that it looks at; None is the whole map.
    """

    def __init__(self, channels: int, window: int | None) -> None:
        super().__init__(channels)
        self.weight = nn.Parameter(torch.zeros(channels))
        self.window = window

    def ask(self, x: Tensor) -> Tensor:
        """A map (N, C, H, W) to logits (N, patches)."""
        pooled = self.standardise(pool_patches(x, self.window))
        return (pooled @ self.weight) / math.sqrt(self.weight.shape[0])


class SpatialMasker(PatchMasker):
    """Of a block. The window of a stride-2 block is twice the patch: patches live on the block's
    output."""

    def __init__(self, block: Block) -> None:
        patch = block.granularity.spatial
        super().__init__(block.in_channels, None if patch is None else patch * block.stride)

    def forward(self, x: Tensor, size: MapSize) -> Tensor:
        """Block input (N, C, H, W) to logits (N, patches)."""
        return self.ask(x)


class ChannelMasker(_Standardise):
    """One logit per channel group: global mean -> linear, ReLU -> linear. Output zero at first."""

    def __init__(self, block: Block) -> None:
        super().__init__(block.in_channels)
        self.hidden = nn.Linear(block.in_channels, block.channel_masker_hidden)
        self.out = nn.Linear(block.channel_masker_hidden, block.num_groups)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, size: MapSize) -> Tensor:
        """Block input (N, C, H, W) to logits (N, groups)."""
        pooled = self.standardise(x.mean(dim=(2, 3)))
        logits: Tensor = self.out(F.relu(self.hidden(pooled)))
        return logits


def official_grid(size: MapSize, patch: int | None) -> MapSize:
    """The official mask resolution: integer division, so only whole patches."""
    if patch is None:
        return MapSize(1, 1)
    return MapSize(max(size.height // patch, 1), max(size.width // patch, 1))


class OfficialSpatialMasker(nn.Module):
    """Adaptive pool, then a 1x1 convolution to an on and an off logit per patch."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.conv = nn.Conv2d(block.in_channels, 2, 1)
        with torch.no_grad():
            bias = cast(Tensor, self.conv.bias)
            # The official slice for "off" starts one late: that bias keeps its random start.
            bias[:1] = 5.0
        self.patch = block.granularity.spatial

    def forward(self, x: Tensor, size: MapSize) -> Tensor:
        """Block input to on - off, (N, patches of the official grid)."""
        grid = official_grid(size, self.patch)
        if grid.height < x.shape[2] or grid.width < x.shape[3]:
            x = F.adaptive_avg_pool2d(x, (grid.height, grid.width))
        logits = self.conv(x)
        return torch.flatten(logits[:, 0] - logits[:, 1], 1)


class OfficialChannelMasker(nn.Module):
    """Global pool, two linear layers, then all on logits followed by all off logits."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Linear(block.in_channels, block.channel_masker_hidden),
            nn.ReLU(),
            nn.Linear(block.channel_masker_hidden, 2 * block.num_groups),
        )
        with torch.no_grad():
            bias = cast(Tensor, self.conv[2].bias)
            bias[: block.num_groups] = 2.0
            # Starts one late, as the official code does: bias[num_groups] keeps its random start.
            bias[block.num_groups + 1 :] = -2.0

    def forward(self, x: Tensor, size: MapSize) -> Tensor:
        """Block input to on - off, (N, groups)."""
        logits: Tensor = self.conv(x.mean(dim=(2, 3)))
        on, off = logits.chunk(2, dim=1)
        return on - off
