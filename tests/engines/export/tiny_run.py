"""A run folder that no training made: random weights, and pictures of noise. Needs torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from PIL import Image

from engines.architecture import ResNet, Stage
from engines.bundle import Preprocessing
from engines.core import Paradigm
from engines.models.resnet import LaudResNet
from engines.runs import PointRequest, Run

SIZE = 32
LABELS = ("blue", "green", "red")
BUDGET = 0.75


def write_pictures(place: Path) -> Path:
    """Noise in three colours, six validation pictures a class."""
    rng = np.random.default_rng(0)
    for i, label in enumerate(LABELS):
        folder = place / "pictures" / "validation" / label
        folder.mkdir(parents=True)
        for k in range(6):
            pixels = rng.integers(0, 150, (40, 48, 3), np.uint8)
            pixels[:, :, 2 - i] += 100
            Image.fromarray(pixels).save(folder / f"{k}.png")
    return place / "pictures"


def write_run(place: Path, pictures: Path) -> Path:
    """A run folder with random weights whose maskers look at the image."""
    stages = (
        Stage(depth=2, width=8, paradigm=Paradigm.SPATIAL, spatial_granularity=2),
        Stage(depth=2, width=16, paradigm=Paradigm.CHANNEL, channel_granularity=2),
    )
    net = ResNet(stem_width=8, stages=stages, num_classes=len(LABELS), folded=True)
    torch.manual_seed(0)
    model = LaudResNet(net)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if "masker" in name and not name.endswith("std"):
                value.normal_(0, 0.5)
    folder = place / "run"
    folder.mkdir()
    safetensors.torch.save_file(model.state_dict(), folder / "model-dynamic.safetensors")
    description = Run(
        name="tiny",
        labels=LABELS,
        preprocessing=Preprocessing(
            crop_ratio=1.0, channel_order="rgb", mean=(128, 128, 128), std=(64, 64, 64)
        ),
        architecture=net,
        points=(
            PointRequest(name="full", image_size=SIZE),
            PointRequest(name="small", image_size=24),
            PointRequest(name="skip", image_size=SIZE, budget=BUDGET),
        ),
        last_phase="dynamic",
        data=pictures,
        config={"seed": 0},
        notices=("made of noise",),
    )
    (folder / "run.json").write_text(description.model_dump_json())
    thresholds = {f"{BUDGET:g}": [0.0] * len(net.maskers)}
    (folder / "thresholds.json").write_text(json.dumps(thresholds))
    return folder


def quiet(line: str) -> None:
    """Takes progress lines."""


def below(place: Path) -> set[Path]:
    return {path.relative_to(place) for path in place.rglob("*")}
