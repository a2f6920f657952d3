"""An engine that answers by colour, and pictures of one colour each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from PIL import Image

from engines.core import OperatingPoint, Output, UInt8Array, check_batch, static_point

LABELS = ("blue", "green", "red")
FULL = static_point("full", 16, 1)
SMALL = static_point("small", 8, 1)
SKIP = OperatingPoint(name="skip", image_size=16, thresholds=(0.5,), caps=(None,))


class ByColour:
    """Sure at `full`; unsure at `small`; says red to everything at `skip`."""

    name = "by colour"
    precision = "exact"

    def __init__(self) -> None:
        self.batches: list[tuple[str, int]] = []

    def infer(self, images: UInt8Array, points: Sequence[OperatingPoint]) -> Output:
        check_batch(images, points, 1)
        self.batches.append((points[0].name, len(images)))
        share = {"full": 1.0, "small": 0.6, "skip": 0.0}[points[0].name]
        colours = images.mean(axis=(1, 2))[:, ::-1].argmax(axis=1)
        red = np.eye(3)[np.full(len(images), 2)]
        probabilities = share * np.eye(3)[colours] + (1 - share) * red
        return Output(
            arrays={"probabilities": probabilities.astype(np.float32)},
            activation=np.full((len(images), 1), 1.0 if share else 0.25, np.float32),
            macs=np.full(len(images), 100.0 if points[0].image_size == 16 else 30.0),
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


def write_pictures(root: Path) -> Path:
    """Two blue, four green and three red ones, the last of which is labelled red but blue."""
    colours = {"blue": (20, 30, 220), "green": (10, 210, 30), "red": (230, 20, 10)}
    for label, count in (("blue", 2), ("green", 4), ("red", 3)):
        (root / label).mkdir(parents=True)
        for i in range(count):
            colour = colours["blue"] if (label, i) == ("red", 2) else colours[label]
            Image.new("RGB", (24, 20), colour).save(root / label / f"{i}.png")
    return root
