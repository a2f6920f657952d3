"""What an operating point asks of maskers, in torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engines.core import OperatingPoint
from engines.models.masks import Mask, Thresholds

_NO_CAP = 2**62


def point_decision(point: OperatingPoint) -> Thresholds | None:
    """How a point decides for one image; None when it skips nothing, so no masker is asked."""
    if point.skips_nothing:
        return None
    thresholds = [-float("inf") if t is None else t for t in point.thresholds]
    caps = [_NO_CAP if cap is None else cap for cap in point.caps]
    return Thresholds(torch.tensor([thresholds]), torch.tensor([caps]))


def evaluated(point: OperatingPoint) -> Tensor:
    """Which maskers it asks, (1, maskers), 1 or 0."""
    asked = [
        t is not None or cap is not None
        for t, cap in zip(point.thresholds, point.caps, strict=True)
    ]
    return torch.tensor([asked], dtype=torch.float32)


def mask_rates(masks: Sequence[Mask], count: int) -> Tensor:
    """Activation rates of one image, (maskers,); all 1 where none was asked."""
    if not masks:
        return torch.ones(count)
    return torch.cat([mask.rate for mask in masks])
