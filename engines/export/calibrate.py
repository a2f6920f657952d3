"""Thresholds that hit a budget on held-out images, on the engine and precision that serve them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engines.architecture import RegNet, ResNet
from engines.caps import capped
from engines.core import Engine, OperatingPoint, UInt8Array

_TOLERANCE = 0.0025
_NEAR = 0.01
_MAX_STEPS = 14
_REACH = 4.0
_FIRST_STEP = 0.125
_GROWTH = 4.0
_EDGE = 0.1
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


def settle(
    engine: Engine, net: ResNet | RegNet, point: OperatingPoint, macs: float, images: UInt8Array
) -> Calibrated:
    """Calibrate without caps, cap what images then ask for, and calibrate once more under the caps.

    Arguments as in `calibrate`; caps that `point` has are replaced.
    """
    free = point.model_copy(update={"caps": (None,) * len(point.caps)})
    first = calibrate(engine, free, macs, images)
    rates, _ = _answered(engine, first.point, images)
    return calibrate(engine, capped(net, first.point, rates), macs, images)


def calibrate(engine: Engine, point: OperatingPoint, macs: float, images: UInt8Array) -> Calibrated:
    """Shift all thresholds of `point` alike until images take `macs` multiply-accumulates on
    average.

    images: uint8 (N, S, S, 3) at the point's size. Searched within +-4 logits, to 0.25 % or as
    close as the decisions allow; labels are not looked at.
    """
    best = Calibrated(point, float("inf"), macs)

    def excess(shift: float) -> float:
        nonlocal best
        moved = shifted(point, shift)
        found = mean_macs(engine, moved, images)
        if abs(found - macs) < abs(best.macs - macs):
            best = Calibrated(moved, found, macs)
        return found - macs

    _search(excess, lambda: abs(best.macs - macs) <= _TOLERANCE * macs)
    return best


def _search(excess: Callable[[float], float], done: Callable[[], bool]) -> None:
    """Ask for `excess`, which falls as its argument grows, near where it is 0, until `done`.

    Steps out from 0 until the sign changes, since thresholds come nearly right; then between the
    two ends by their values, or halfway where that is not getting anywhere.
    """
    here, value = 0.0, excess(0.0)
    way, step, steps = (1.0 if value > 0 else -1.0), _FIRST_STEP, 1
    there, other = here, value
    while not done() and (other > 0) == (value > 0):
        if abs(there) >= _REACH:
            return
        here, value = there, other
        there = way * min(abs(there) + step, _REACH)
        other, step, steps = excess(there), step * _GROWTH, steps + 1
    halve = False
    while not done() and steps < _MAX_STEPS:
        share = 0.5 if halve else value / (value - other)
        middle = here + (there - here) * min(max(share, _EDGE), 1 - _EDGE)
        between = excess(middle)
        width = abs(there - here)
        if (between > 0) == (value > 0):
            here, value = middle, between
        else:
            there, other = middle, between
        halve, steps = abs(there - here) > width / 2, steps + 1


def shifted(point: OperatingPoint, shift: float) -> OperatingPoint:
    """The point with every threshold moved by `shift` logits, as float32; caps stay."""
    thresholds = tuple(
        None if t is None else float(np.float32(t) + np.float32(shift)) for t in point.thresholds
    )
    return point.model_copy(update={"thresholds": thresholds})


def mean_macs(engine: Engine, point: OperatingPoint, images: UInt8Array) -> float:
    """Multiply-accumulates per image at that point."""
    return float(_answered(engine, point, images)[1].mean())


def _answered(
    engine: Engine, point: OperatingPoint, images: UInt8Array
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Activation (N, maskers) and multiply-accumulates (N,)."""
    outputs = [
        engine.infer(batch, [point] * len(batch))
        for batch in (images[i : i + _BATCH] for i in range(0, len(images), _BATCH))
    ]
    return (
        np.concatenate([output.activation for output in outputs]),
        np.concatenate([output.macs for output in outputs]),
    )
