"""An engine with two maskers that decide by brightness, and that takes decisions from outside."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

import numpy as np

from engines.core import OperatingPoint, Output, UInt8Array, check_batch, static_point
from engines.evaluation.points import BoolArray, Float64Array

COUNTS = (3, 2)
UNIT_MACS = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
FIXED_MACS = 100.0
SIZE = 4
SKIP = OperatingPoint(name="skip", image_size=SIZE, thresholds=(0.0, 0.0), caps=(None, None))
FULL = static_point("full", SIZE, 2)


class Masking:
    """Unit i is active in images brighter than 50 i. The more units, the surer of class 0."""

    name = "masking"
    precision = "exact"

    def __init__(self) -> None:
        self.calls = 0

    def infer(
        self,
        images: UInt8Array,
        points: Sequence[OperatingPoint],
        decisions: Sequence[BoolArray] | None = None,
    ) -> Output:
        check_batch(images, points, 2)
        self.calls += 1
        if decisions is not None:
            assert [array.shape for array in decisions] == [(len(images), n) for n in COUNTS]
            active = np.concatenate(decisions, axis=1)
        else:
            brightness = images.mean(axis=(1, 2, 3))[:, None]
            active = brightness > 50.0 * np.arange(5)
            active[[point.skips_nothing for point in points]] = True
        sure = 0.5 + 0.08 * active.sum(axis=1)
        asked = [0.0 if point.skips_nothing else 5.0 for point in points]
        return Output(
            arrays={
                "probabilities": np.stack([sure, 1.0 - sure], axis=1).astype(np.float32),
                "decisions": active,
            },
            activation=np.stack(
                [part.mean(axis=1) for part in np.split(active, [3], axis=1)], axis=1
            ).astype(np.float32),
            macs=macs_of(active) + asked,
            durations_s={},
        )

    def close(self) -> None:
        """Nothing to release."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def macs_of(active: BoolArray) -> Float64Array:
    """Per image, without maskers."""
    found: Float64Array = FIXED_MACS + active @ UNIT_MACS
    return found
