"""Mask algebra: from logits to decisions, and from decisions to pixels and channels.

Shapes: N images, U units of a masker (patches row by row, or channel groups), H x W pixels of the
block's output, C inner channels. Decisions are floats, 1 active and 0 skipped, so that gradients
can pass straight through them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from engines.architecture import MapSize

Decide = Callable[[int, Tensor], Tensor]
"""(masker index, logits (N, U)) -> decisions (N, U)."""


@dataclass(frozen=True)
class Mask:
    """What one masker decided.

    units: decisions (N, U). pixels: (N, 1, H, W) for a spatial mask, else None.
    dilated: where the first convolution is needed, for a spatial mask, else None.
    """

    masker: int
    block: int
    kind: Literal["spatial", "channel"]
    logits: Tensor
    units: Tensor
    pixels: Tensor | None = None
    dilated: Tensor | None = None

    @property
    def active(self) -> Tensor:
        """Active units per image, (N,)."""
        return self.units.sum(dim=1)

    @property
    def total(self) -> int:
        """Units per image."""
        return self.units.shape[1]

    @property
    def rate(self) -> Tensor:
        """Activation rate per image, (N,)."""
        return self.units.mean(dim=1)


def decide(logits: Tensor, thresholds: Tensor, caps: Tensor | None = None) -> Tensor:
    """Decisions (N, U) of logits (N, U) at thresholds (N,): active = logit >= threshold.

    Under caps (N,) at most that many units stay active: higher logits first, ties to the lower
    index. Every engine follows this rule.
    """
    active = logits >= thresholds[:, None]
    if caps is not None:
        order = torch.sort(logits, dim=1, descending=True, stable=True).indices
        rank = torch.empty_like(order)
        rank.scatter_(1, order, torch.arange(logits.shape[1]).expand_as(order))
        active &= rank < caps[:, None]
    return active.to(logits.dtype)


class Thresholds:
    """Decides by thresholds and caps, one row per image and one column per masker."""

    def __init__(self, thresholds: Tensor, caps: Tensor | None = None) -> None:
        self._thresholds = thresholds
        self._caps = caps

    def __call__(self, masker: int, logits: Tensor) -> Tensor:
        caps = None if self._caps is None else self._caps[:, masker]
        return decide(logits, self._thresholds[:, masker], caps)


def decide_at_zero(masker: int, logits: Tensor) -> Tensor:
    """The network's own rule: active = logit >= 0."""
    return (logits >= 0).to(logits.dtype)


def expand_patches(units: Tensor, grid: MapSize, patch: int | None, size: MapSize) -> Tensor:
    """Patch decisions (N, grid) to pixels (N, 1, H, W); partial patches end at the map's border."""
    coarse = units.view(units.shape[0], 1, grid.height, grid.width)
    if patch is None:
        return coarse.expand(-1, 1, size.height, size.width)
    fine = coarse.repeat_interleave(patch, dim=2).repeat_interleave(patch, dim=3)
    return fine[:, :, : size.height, : size.width]


def expand_groups(units: Tensor, group: int) -> Tensor:
    """Group decisions (N, C/G) to channels (N, C, 1, 1): G consecutive channels share one."""
    return units.repeat_interleave(group, dim=1)[:, :, None, None]


def dilate(pixels: Tensor, stride: int, size: MapSize) -> Tensor:
    """Pixels (N, 1, H, W) of a 3x3's output to the input pixels (N, 1, size) that it reads."""
    if stride > 1:
        spread = pixels.new_zeros(pixels.shape[0], 1, size.height, size.width)
        spread[:, :, ::stride, ::stride] = pixels
        pixels = spread
    return F.max_pool2d(pixels, kernel_size=3, stride=1, padding=1)
