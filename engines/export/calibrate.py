"""Thresholds that hit a budget on held-out images, on the very weights that ship."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from engines.bundle import Preprocessing
from engines.core import UInt8Array
from engines.models.measuring import measure
from engines.models.resnet import LaudResNet

_TOLERANCE = 0.002
_MAX_STEPS = 14
_REACH = 4.0


def calibrate(
    model: LaudResNet,
    thresholds: Sequence[float],
    budget: float,
    images: UInt8Array,
    preprocessing: Preprocessing,
) -> tuple[float, ...]:
    """Shift all thresholds (maskers,) alike until mean MACs are `budget` of the static network's.

    images: uint8 (N, S, S, 3) at the point's size. Bisection within +-4 logits, to 0.2 % of MACs or
    as close as the decisions allow; labels are not looked at.
    """
    start = torch.tensor(thresholds)
    nobody: npt.NDArray[np.int64] = np.zeros(len(images), np.int64)
    low, high = -_REACH, _REACH
    best, best_error = 0.0, float("inf")
    shift = 0.0
    for _ in range(_MAX_STEPS):
        found = measure(model, images, nobody, preprocessing, start + shift).macs_ratio
        if abs(found - budget) < best_error:
            best, best_error = shift, abs(found - budget)
        if best_error <= _TOLERANCE:
            break
        low, high = (shift, high) if found > budget else (low, shift)
        shift = (low + high) / 2
    return tuple(float(value) for value in start + best)
