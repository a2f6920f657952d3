"""What the kernels compute, slowly and exactly, on the masks of the reference engine.

Maps are dense (N, H, W, C) here, without pitch; everything is computed, in float64, and then
masked. Legend: N images, U units of a masker, Q pixels of the map that a 3x3 reads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from engines.architecture import MapSize
from engines.models.masks import decide, expand_groups, expand_patches
from engines.models.masks import dilate as dilate_pixels


@dataclass(frozen=True, eq=False)
class Listed:
    """A list: index and place (N, U), of which the first `count` (N,) are active; int32."""

    index: Tensor
    place: Tensor
    count: Tensor

    @property
    def units(self) -> Tensor:
        """Decisions, float64 (N, U); counts and indices out of range are left out."""
        active = torch.zeros(self.index.shape, dtype=torch.float64)
        rows = zip(self.index.tolist(), self.count.tolist(), strict=True)
        for image, (row, count) in enumerate(rows):
            for unit in row[: max(count, 0)]:
                if 0 <= unit < len(row):
                    active[image, unit] = 1.0
        return active

    def equals(self, other: Listed) -> bool:
        """Whether all three are the same."""
        return (
            torch.equal(self.index, other.index)
            and torch.equal(self.place, other.place)
            and torch.equal(self.count, other.count)
        )


@dataclass(frozen=True, eq=False)
class Computed:
    """A map (N, H, W, C) in float64, and where a kernel writes it: bool, the same shape."""

    values: Tensor
    written: Tensor


def partition(logits: Tensor, thresholds: Tensor, caps: Tensor) -> Listed:
    """Active units of logits (N, U) in rising order, then the others; thresholds, caps (N,)."""
    active = decide(logits, thresholds, caps).bool()
    index = torch.argsort((~active).int(), dim=1, stable=True)
    return Listed(index.int(), torch.argsort(index, dim=1).int(), active.sum(dim=1).int())


def dilate(place: Tensor, count: Tensor, patch: int, stride: int, read: MapSize) -> list[Tensor]:
    """Per image the pixels of the map `read`, numbered row by row, that a 3x3 of `stride` reads."""
    size = MapSize(-(-read.height // stride), -(-read.width // stride))
    decisions = (place < count[:, None]).double()
    pixels = expand_patches(decisions, size.patches(patch), patch, size)
    return [each.flatten().nonzero()[:, 0].int() for each in dilate_pixels(pixels, stride, read)]


def sparse_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    stride: int = 1,
    patches: Tensor | None = None,
    patch: int | None = None,
    read: Tensor | None = None,
    wanted: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = True,
) -> Computed:
    """ReLU(convolution + bias) of active patches and groups, or with a residual added before ReLU.
    Not `relu`: the sums.

    x (N, H, W, C), weight (kernel, kernel, inputs, outputs). patches: decisions (N, U) on patches
    of `patch` pixels, None for the whole map. read, wanted: decisions (N, groups) on inputs, on
    outputs.
    """
    kernel = weight.shape[0]
    maps = x.double().permute(0, 3, 1, 2)
    if read is not None:
        maps = maps * expand_groups(read, maps.shape[1] // read.shape[1])
    sums = F.conv2d(
        maps, weight.double().permute(3, 2, 0, 1), bias.double(), stride, padding=kernel // 2
    )
    size = MapSize(sums.shape[2], sums.shape[3])
    written = torch.ones_like(sums)
    if patches is not None:
        written = written * expand_patches(patches, size.patches(patch), patch, size)
    if wanted is not None:
        written = written * expand_groups(wanted, sums.shape[1] // wanted.shape[1])
    if residual is not None:
        sums = sums * written + residual.double().permute(0, 3, 1, 2)
        written = torch.ones_like(sums)
    values = (F.relu(sums) if relu else sums) * written
    return Computed(values.permute(0, 2, 3, 1), written.permute(0, 2, 3, 1).bool())
