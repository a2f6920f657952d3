"""A tiny training: pictures of three colours, a network of 16 channels, three short phases."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

SIZE = 32
PER_CLASS = {"train": 8, "validation": 4}
COLOURS = {"blue": (40, 60, 200), "green": (40, 180, 60), "red": (210, 50, 40)}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are slower on two threads."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder with the splits train and validation: noisy pictures of three colours."""
    root = tmp_path_factory.mktemp("pictures")
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


@pytest.fixture(scope="session")
def content(pictures: Path) -> Callable[[], dict[str, Any]]:
    """What the YAML file of the tiny training holds, made anew by every call."""

    def make() -> dict[str, Any]:
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

    return make


@pytest.fixture
def write_config(tmp_path: Path, content: Callable[[], dict[str, Any]]) -> Callable[..., Path]:
    """Writes the tiny training's file with sections replaced: `write_config(seed=3)`."""

    def write(**sections: Any) -> Path:
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump({**content(), **sections}), encoding="utf-8")
        return path

    return write
