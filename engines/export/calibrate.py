"""Thresholds that hit a budget on held-out images, on the engine and precision that serve them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engines.core import Engine, OperatingPoint, UInt8Array

_TOLERANCE = 0.0025
_NEAR = 0.01
_MAX_STEPS = 14
_REACH = 4.0
_BATCH = 32


@dataclass(frozen=True)
class Calibrated:
    """A point whose thresholds were moved, the mean MACs per image it has now, and those wanted."""

    point: OperatingPoint
    macs: float
    wanted: float

    @property
    def reached(self) -> bool:
        """Whether it is within 1 % of the budget."""
        return abs(self.macs - self.wanted) <= _NEAR * self.wanted


def calibrate(engine: Engine, point: OperatingPoint, macs: float, images: UInt8Array) -> Calibrated:
    """Shift all thresholds of `point` alike until images take `macs` multiply-accumulates on
    average.

    images: uint8 (N, S, S, 3) at the point's size. Bisection within +-4 logits, to 0.25 % or as
    close as the decisions allow; labels are not looked at.
    """
    low, high = -_REACH, _REACH
    best = Calibrated(point, float("inf"), macs)
    shift = 0.0
    for _ in range(_MAX_STEPS):
        moved = shifted(point, shift)
        found = mean_macs(engine, moved, images)
        if abs(found - macs) < abs(best.macs - macs):
            best = Calibrated(moved, found, macs)
        if abs(best.macs - macs) <= _TOLERANCE * macs:
            break
        low, high = (shift, high) if found > macs else (low, shift)
        shift = (low + high) / 2
    return best


def shifted(point: OperatingPoint, shift: float) -> OperatingPoint:
    """The point with every threshold moved by `shift` logits, as float32; caps stay."""
    thresholds = tuple(
        None if t is None else float(np.float32(t) + np.float32(shift)) for t in point.thresholds
    )
    return point.model_copy(update={"thresholds": thresholds})


def mean_macs(engine: Engine, point: OperatingPoint, images: UInt8Array) -> float:
    """Multiply-accumulates per image at that point."""
    total = 0.0
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH]
        total += float(engine.infer(batch, [point] * len(batch)).macs.sum())
    return total / len(images)
