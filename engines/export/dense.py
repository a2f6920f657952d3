"""What a detector's budgets are of: everything before its objects are chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from engines.closing import Closing
from engines.core import Engine, OperatingPoint, Output, UInt8Array
from engines.detection.scenes import Scene
from engines.evaluation.detection import square
from engines.export.pictures import Say

_PICTURES = 24
"""Pictures that thresholds are calibrated on and latency is measured on, evenly from all: a search
runs them a dozen times."""


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


class Squares:
    """Some pictures as a network sees them, evenly from all; decoded once per image size."""

    def __init__(self, scenes: Sequence[Scene], say: Say) -> None:
        self._scenes = [scenes[i] for i in some_scenes(scenes)]
        self._say = say
        self._found: dict[int, UInt8Array] = {}

    def at(self, size: int) -> UInt8Array:
        """uint8 (N, size, size, 3)."""
        if size not in self._found:
            self._say(f"preparing {len(self._scenes)} validation images at {size} px")
            self._found[size] = np.stack([square(scene, size) for scene in self._scenes])
        return self._found[size]
