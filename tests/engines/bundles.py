"""Small valid manifests and weights to write bundles from. Needs no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engines.architecture import ResNet, Stage
from engines.bundle import (
    Accuracy,
    Manifest,
    PointRecord,
    Preprocessing,
    Provenance,
    WeightsFile,
)
from engines.core import OperatingPoint, Paradigm, static_point

SIZE = 24
NET = ResNet(
    stem_width=4,
    stages=(
        Stage(depth=1, width=2, paradigm=Paradigm.SPATIAL, spatial_granularity=2),
        Stage(depth=1, width=2, paradigm=Paradigm.CHANNEL, channel_granularity=1),
    ),
    num_classes=2,
    folded=True,
)
SKIP = OperatingPoint(name="skip", image_size=SIZE, thresholds=(0.1, None), caps=(None, 1))


def manifest(**changes: Any) -> Manifest:
    """Two labels, two maskers and two points, with fields replaced."""
    content: dict[str, Any] = {
        "name": "small",
        "labels": ("cat", "dog"),
        "preprocessing": Preprocessing(
            crop_ratio=0.9, channel_order="rgb", mean=(120.0, 110.0, 100.0), std=(58.0, 57.0, 56.0)
        ),
        "architecture": NET,
        "points": (
            PointRecord(
                point=static_point("full", SIZE, 2), activation=(1.0, 1.0), macs=1e6, macs_ratio=1.0
            ),
            PointRecord(
                point=SKIP,
                accuracy=Accuracy(value=0.9, low=0.83, high=0.94, images=100, split="validation"),
                agreement=0.95,
                activation=(0.30000000000000004, 0.5),
                macs=6.5e5,
                macs_ratio=0.65,
            ),
        ),
        "weights": WeightsFile(dtype="fp32", sha256="0" * 64),
        "provenance": Provenance(
            config={"rate": 1e-05, "größe": [24, None]}, notices=("Somebody's notice.",)
        ),
        "versions": {"laudserve": "0.1.0"},
    }
    return Manifest.model_validate({**content, **changes})


def weights(dtype: npt.DTypeLike = np.float32) -> dict[str, npt.NDArray[np.generic]]:
    """Arrays of several ranks; they are no network."""
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "conv1.weight": (4, 3, 2, 2),
        "conv1.bias": (4,),
        "scale": (),
    }
    return {name: np.array(rng.normal(size=shape), dtype) for name, shape in shapes.items()}
