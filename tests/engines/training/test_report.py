"""What a run folder tells: configuration, metrics, curves, and which maskers have collapsed."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from PIL import Image

from engines.architecture import ResNet, Stage
from engines.bundle import Preprocessing
from engines.errors import ConfigError
from engines.runs import Run, read_run
from engines.training.config import TrainConfig
from engines.training.report import RunFolder, masker_verdict

pytestmark = pytest.mark.torch

CLASSES = ("blue", "green", "red")
DEPENDS, ON, OFF, SAME = "depends on the image", "always on", "always off", "same amount"
COLUMNS = {
    ON: [1.0, 1.0, 1.0, 1.0],
    OFF: [0.0, 0.0, 0.0, 0.0],
    SAME: [0.5, 0.5, 0.5, 0.5],
    DEPENDS: [0.25, 0.5, 1.0, 0.0],
}

Rates = npt.NDArray[np.float64]


@pytest.fixture
def open_run(tmp_path: Path, content: Callable[[], dict[str, Any]]) -> Callable[..., RunFolder]:
    """Opens the run folder `run` for the tiny training with sections replaced."""

    def make(classes: tuple[str, ...] = CLASSES, **sections: Any) -> RunFolder:
        config = TrainConfig.model_validate({**content(), **sections})
        description = Run(
            name=config.name,
            labels=classes,
            preprocessing=Preprocessing(
                crop_ratio=1.0, channel_order="rgb", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
            ),
            architecture=ResNet(stages=(Stage(depth=1, width=4),), num_classes=len(classes)),
            points=config.points,
            last_phase="dynamic",
            data=config.data.root,
            config={},
        )
        return RunFolder(tmp_path / "run", config, classes, description)

    return make


def rates(*kinds: str) -> Rates:
    """Activation (images, maskers) of maskers of those kinds."""
    return np.array([COLUMNS[kind] for kind in kinds]).T


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def assert_is_picture(path: Path) -> None:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        picture.load()
        assert min(picture.size) > 200
        assert len(set(picture.convert("L").tobytes())) > 10


# Opening


def test_folder_says_what_is_trained(open_run: Callable[..., RunFolder]) -> None:
    run = open_run()
    run.write_thresholds({0.8: [0.1, 0.2], 0.6: [0.3, 1 / 3]})
    description, thresholds = read_run(run.path)
    assert description.labels == CLASSES
    assert thresholds == {0.8: (0.1, 0.2), 0.6: (0.3, 1 / 3)}


def test_same_configuration_opens_the_folder_again(open_run: Callable[..., RunFolder]) -> None:
    before = (open_run().path / "config.yaml").read_bytes()
    run = open_run()
    assert (run.path / "config.yaml").read_bytes() == before
    assert not list(run.path.glob("*.partial"))


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"static": {"epochs": 2, "rate": 0.03}},
        {"classes": ("blue", "green", "rose")},
        {"notices": ["new"]},
    ],
    ids=lambda other: next(iter(other)),
)
def test_folder_of_another_configuration_is_refused_with_advice(
    open_run: Callable[..., RunFolder], other: dict[str, Any]
) -> None:
    path = open_run().path
    before = {file: file.read_bytes() for file in path.iterdir()}
    with pytest.raises(ConfigError, match="another configuration; choose another folder") as caught:
        open_run(**other)
    assert "--out, or delete it" in str(caught.value)
    assert {file: file.read_bytes() for file in path.iterdir()} == before


# Metrics


def test_metrics_have_a_row_an_epoch_and_every_column(open_run: Callable[..., RunFolder]) -> None:
    run = open_run()
    history = [
        {"phase": "static", "epoch": 1, "loss": 1 / 3, "accuracy_full": 0.5},
        {"phase": "dynamic", "epoch": 1, "loss": 0.25, "accuracy_full": 0.5, "accuracy_0.6": 0.4},
    ]
    run.write_metrics(history)
    rows = read_csv(run.path / "metrics.csv")
    assert list(rows[0]) == ["phase", "epoch", "loss", "accuracy_full", "accuracy_0.6"]
    assert float(rows[0]["loss"]) == 1 / 3
    assert [row["accuracy_0.6"] for row in rows] == ["", "0.4"]
    assert_is_picture(run.path / "curves.png")
    assert not list(run.path.glob("*.partial"))


def test_thresholds_are_kept_to_the_last_bit(open_run: Callable[..., RunFolder]) -> None:
    run = open_run()
    values = np.random.default_rng(0).normal(size=20).astype(np.float32).tolist()
    run.write_thresholds({0.65: values})
    content = json.loads((run.path / "thresholds.json").read_text(encoding="utf-8"))
    assert content == {"0.65": values}


# Collapse


@pytest.mark.parametrize("verdict", list(COLUMNS))
def test_verdict_says_what_a_masker_does(verdict: str) -> None:
    assert masker_verdict(np.array(COLUMNS[verdict])) == verdict


@pytest.mark.parametrize(
    ("column", "verdict"),
    [
        ([1.0, 1.0, 0.98], DEPENDS),
        ([0.0, 0.02, 0.0], DEPENDS),
        ([2 / 3, 2 / 3, 2 / 3], SAME),
        ([1 / 3] * 1000, SAME),
        ([1.0], ON),
    ],
)
def test_one_image_that_differs_is_no_collapse(column: list[float], verdict: str) -> None:
    assert masker_verdict(np.array(column)) == verdict


def test_report_names_collapsed_maskers_per_budget(open_run: Callable[..., RunFolder]) -> None:
    names = ["layer1.0.spatial", "layer1.1.spatial", "layer2.0.channel", "layer2.1.channel"]
    lines = open_run().write_activation(
        names, {0.8: rates(ON, ON, DEPENDS, DEPENDS), 0.6: rates(SAME, OFF, ON, DEPENDS)}
    )
    assert lines == [
        "budget 0.8: 2 of 4 maskers depend on the image",
        "  collapsed, always on for every image: layer1.0.spatial, layer1.1.spatial",
        "budget 0.6: 1 of 4 maskers depend on the image",
        "  collapsed, always off for every image: layer1.1.spatial",
        "  collapsed, always on for every image: layer2.0.channel",
    ]


def test_nothing_is_said_of_maskers_that_work(open_run: Callable[..., RunFolder]) -> None:
    lines = open_run().write_activation(["a", "b"], {0.5: rates(DEPENDS, SAME)})
    assert lines == ["budget 0.5: 1 of 2 maskers depend on the image"]


def test_activation_has_a_row_per_budget_and_masker(open_run: Callable[..., RunFolder]) -> None:
    run = open_run()
    names = ["a.spatial", "b.channel"]
    run.write_activation(names, {0.8: rates(DEPENDS, ON), 0.65: rates(OFF, SAME)})
    rows = read_csv(run.path / "activation.csv")
    assert [(row["budget"], row["masker"]) for row in rows] == [
        ("0.8", "a.spatial"),
        ("0.8", "b.channel"),
        ("0.65", "a.spatial"),
        ("0.65", "b.channel"),
    ]
    assert [row["verdict"] for row in rows] == [DEPENDS, ON, OFF, SAME]
    assert rows[0] | {"spread": ""} == {
        "budget": "0.8",
        "masker": "a.spatial",
        "mean": "0.4375",
        "lowest": "0.0000",
        "highest": "1.0000",
        "spread": "",
        "verdict": DEPENDS,
    }
    assert float(rows[0]["spread"]) == pytest.approx(np.std(COLUMNS[DEPENDS]), abs=1e-4)
    assert_is_picture(run.path / "activation.png")
    assert not list(run.path.glob("*.partial"))
