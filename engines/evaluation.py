"""Accuracy of operating points on labelled pictures, over any engine. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engines.bundle import Accuracy
from engines.core import Engine, OperatingPoint, UInt8Array
from engines.errors import InvalidInput

_Z_95 = 1.959963984540054

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PointResult:
    """What one point answered on N images.

    predictions: class per image. log_loss: mean natural-log loss of the right class. macs: per
    image. activation: (N, maskers).
    """

    point: OperatingPoint
    predictions: Int64Array
    log_loss: float
    macs: npt.NDArray[np.float64]
    activation: npt.NDArray[np.float32]

    def right(self, labels: Int64Array) -> int:
        """How many images it labels as `labels` does."""
        return int((self.predictions == labels).sum())


def wilson(right: int, total: int) -> tuple[float, float]:
    """95 % interval of a share `right / total` (Wilson 1927)."""
    if total < 1 or not 0 <= right <= total:
        raise InvalidInput(f"{right} of {total} is not a share")
    share, z2 = right / total, _Z_95**2
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z_95 / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def accuracy_of(right: int, total: int, split: str) -> Accuracy:
    """The share with its interval, as manifests keep it."""
    low, high = wilson(right, total)
    return Accuracy(value=right / total, low=low, high=high, images=total, split=split)


def run_point(
    engine: Engine,
    point: OperatingPoint,
    images: UInt8Array | Sequence[UInt8Array],
    labels: Int64Array,
    progress: Callable[[int], None] = lambda done: None,
    batch: int = 8,
) -> PointResult:
    """Run every image (N, S, S, 3) at one point; `progress` hears how many are done."""
    predictions, losses, macs, activation = [], [], [], []
    for start in range(0, len(images), batch):
        some = np.asarray(images[start : start + batch])
        output = engine.infer(some, [point] * len(some))
        probabilities = np.asarray(output.arrays["probabilities"], np.float64)
        wanted = labels[start : start + len(some)]
        predictions.append(probabilities.argmax(axis=1))
        losses.append(-np.log(np.maximum(probabilities[np.arange(len(some)), wanted], 1e-12)))
        macs.append(output.macs)
        activation.append(output.activation)
        progress(start + len(some))
    return PointResult(
        point=point,
        predictions=np.concatenate(predictions),
        log_loss=float(np.concatenate(losses).mean()),
        macs=np.concatenate(macs),
        activation=np.concatenate(activation),
    )
