"""A tiny training: pictures of three colours, a network of 16 channels, three short phases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = 32
PER_CLASS = {"train": 8, "validation": 4}
COLOURS = {"blue": (40, 60, 200), "green": (40, 180, 60), "red": (210, 50, 40)}


def write_pictures(root: Path) -> Path:
    """An image folder with the splits train and validation: noisy pictures of three colours."""
    rng = np.random.default_rng(1)
    for split, count in PER_CLASS.items():
        for name, colour in COLOURS.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.array(colour) + rng.normal(0, 40, (40, 44, 3))
                image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                image.save(folder / f"{i}.png")
    return root


def tiny_training(pictures: Path) -> dict[str, Any]:
    """What the YAML file of the tiny training holds."""
    return {
        "name": "tiny",
        "seed": 0,
        "data": {"root": str(pictures), "crop_ratio": 1.0},
        "init": {"source": "random", "stem_width": 4},
        "image_size": SIZE,
        "batch_size": 8,
        "stages": [
            {"depth": 1, "width": 8, "paradigm": "spatial", "spatial_granularity": 2},
            {
                "depth": 1,
                "width": 8,
                "paradigm": "spatial+channel",
                "spatial_granularity": 2,
                "channel_granularity": 2,
            },
        ],
        "static": {"epochs": 2, "rate": 0.02},
        "sizes": {"epochs": 1, "sizes": [24, 16]},
        "dynamic": {
            "epochs": 2,
            "budgets": [0.8, 0.6],
            "size_shares": {32: 0.5, 24: 0.5},
            "statistics_images": 8,
        },
        "points": [
            {"name": "full", "image_size": SIZE},
            {"name": "less", "image_size": SIZE, "budget": 0.6},
        ],
    }
