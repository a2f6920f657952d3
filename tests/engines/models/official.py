"""Names and shapes in the official LAUDNet checkpoints, and states of random numbers under them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[3]
NAMES = Path(os.environ.get("LAUD_SHARED", ROOT.parent / "shared")) / (
    "data/official-parameter-names.json"
)


def official_names(family: str) -> dict[str, dict[str, list[int]]]:
    """Shapes by name, per configuration that starts with `family`; {} where the file is not."""
    if not NAMES.is_file():
        return {}
    content: dict[str, dict[str, list[int]]] = json.loads(NAMES.read_text("utf-8"))
    return {name: shapes for name, shapes in content.items() if name.startswith(family)}


def official_state(shapes: dict[str, list[int]], seed: int = 0) -> dict[str, Any]:
    """Random weights under the official names, as numpy arrays."""
    rng = np.random.default_rng(seed)
    state: dict[str, Any] = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = np.array(1, np.int64)
        elif name.endswith("running_var"):
            state[name] = rng.random(shape, np.float32) + np.float32(0.5)
        else:
            scale = 2 / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.6
            state[name] = (rng.random(shape, np.float32) - np.float32(0.5)) * np.float32(scale)
    return state
