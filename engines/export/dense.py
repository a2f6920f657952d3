"""What a detector's budgets are of: everything before its objects are chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from engines.closing import Closing
from engines.core import Engine, OperatingPoint, Output, UInt8Array
from engines.detection.scenes import Scene
from engines.evaluation.detection import square

_PICTURES = 24
"""Pictures that thresholds are calibrated on, evenly from all: a search runs them a dozen times."""


class Dense(Closing):
    """An engine that counts no mask head. Whoever loaded it closes it."""

    def __init__(self, engine: Engine, per_object: int) -> None:
        self.engine, self.per_object = engine, per_object
        self.name, self.precision = engine.name, engine.precision

    def infer(self, images: UInt8Array, points: Sequence[OperatingPoint]) -> Output:
        """See `engines.core.Engine`."""
        output = self.engine.infer(images, points)
        counts = np.asarray(output.arrays["counts"], np.float64)
        macs = output.macs - self.per_object * counts
        return replace(output, macs=macs)

    def close(self) -> None:
        """Nothing of its own."""


def some_scenes(scenes: Sequence[Scene]) -> list[int]:
    """Places of a few pictures, evenly from all."""
    chosen = np.linspace(0, len(scenes) - 1, min(_PICTURES, len(scenes)))
    places: list[int] = chosen.astype(int).tolist()
    return places


def some_squares(scenes: Sequence[Scene], size: int) -> UInt8Array:
    """Those as the network sees them, (N, size, size, 3)."""
    return np.stack([square(scenes[i], size) for i in some_scenes(scenes)])
