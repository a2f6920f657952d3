"""A tiny training of a detector: bright discs on dark noise, a backbone of four small stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from engines.detection.read import read_scenes
from engines.training.scene_batches import ScenePixels


def tiny_detection(root: Path) -> dict[str, Any]:
    """What the YAML file of the tiny training holds."""
    return {
        "task": "segmentation",
        "name": "tiny",
        "data": {"root": str(root), "zoom": [0.8, 1.25]},
        "init": {"source": "random", "stem_width": 8},
        "stages": [{"depth": 1, "width": width} for width in (4, 4, 8, 8)],
        "detector": {"width": 16, "head_convs": 1, "mask_convs": 1},
        "image_size": 64,
        "crop_size": 64,
        "sizes": [32],
        "batch_size": 2,
        "epochs": 3,
        "rate": 0.005,
        "measure_every": 3,
    }


def tiny_dynamic(root: Path) -> dict[str, Any]:
    """The same, whose stages 2 to 4 and levels skip patches."""
    masked = {"paradigm": "spatial", "spatial_granularity": 1}
    plain = tiny_detection(root)
    return {
        **plain,
        "stages": [plain["stages"][0], *({**stage, **masked} for stage in plain["stages"][1:])],
        "detector": {**plain["detector"], "level_patches": [4, 2, 1, 1]},
        "dynamic": {"epochs": 2, "budgets": [0.7, 0.5], "statistics_images": 2},
    }


def write_dynamic(path: Path, root: Path, **changes: Any) -> Path:
    """A file with what `tiny_dynamic` holds, sections replaced."""
    path.write_text(yaml.safe_dump({**tiny_dynamic(root), **changes}), encoding="utf-8")
    return path


def read_tiny(root: Path, split: str) -> ScenePixels:
    """The pictures of a split of the tiny set."""
    return ScenePixels(read_scenes(root, split).scenes)
