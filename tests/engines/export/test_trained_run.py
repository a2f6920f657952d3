"""From a configuration file to a bundle: a tiny training from pretrained weights, exported."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch")
pytest.importorskip("matplotlib")

import safetensors.torch

from engines.architecture import Stage
from engines.bundle import Bundle, read_bundle
from engines.errors import CheckpointError, ConfigError
from engines.evaluation import LabelledImages, evaluate_points, summary
from engines.export.run import export
from engines.folders import scan_folder
from engines.models.checkpoints import torchvision_resnet
from engines.models.measuring import measure
from engines.models.resnet import LaudResNet
from engines.reference.engine import ReferenceEngine
from engines.runs import read_run
from engines.training.run import train
from tests.engines.training.tiny import tiny_training, write_pictures

pytestmark = pytest.mark.torch

BUDGETS = {"less": 0.8, "least": 0.6}


def quiet(line: str) -> None:
    """Takes progress lines."""


@dataclass(frozen=True)
class Trained:
    """A finished run, its bundle, and the folder that all of it lies in."""

    place: Path
    run: Path
    pictures: Path
    bundle: Bundle


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("trained")
    pictures = write_pictures(place / "pictures")
    weights = place / "backbone.safetensors"
    stages = [Stage(depth=4, width=32), Stage(depth=1, width=32)]
    torch.manual_seed(0)
    backbone = LaudResNet(torchvision_resnet("resnet50", stages=stages))
    safetensors.torch.save_file(backbone.state_dict(), weights)

    content = tiny_training(pictures)
    content["init"] = {"source": "torchvision", "arch": "resnet50", "path": str(weights)}
    # Many small units, so that a budget can be met closely, and enough of them beside the stem.
    content["stages"] = [
        {"depth": 4, "width": 32, "paradigm": "spatial", "spatial_granularity": 1},
        {"depth": 1, "width": 32, "paradigm": "channel", "channel_granularity": 1},
    ]
    content["dynamic"]["epochs"] = 4
    content["notices"] = ["Made of noise."]
    content["points"] = [
        {"name": "full", "image_size": 32},
        {"name": "small", "image_size": 24},
        *({"name": name, "image_size": 32, "budget": b} for name, b in BUDGETS.items()),
    ]
    config = place / "tiny.yaml"
    config.write_text(yaml.safe_dump(content), encoding="utf-8")
    run = train(config, place / "run", say=quiet)
    bundle = export(run, place / "tiny.laud", all_points=True, say=quiet)
    yield Trained(place, run, pictures, bundle)
    torch.set_num_threads(before)


def test_points_are_those_of_the_configuration(trained: Trained) -> None:
    records = trained.bundle.manifest.points
    sizes = [(record.point.name, record.point.image_size) for record in records]
    assert sizes == [("full", 32), ("small", 24), ("less", 32), ("least", 32)]
    assert [record.point.skips_nothing for record in records] == [True, True, False, False]
    assert trained.bundle.manifest.labels == ("blue", "green", "red")


@pytest.mark.parametrize(("name", "budget"), BUDGETS.items())
def test_budgets_are_met_on_the_weights_that_ship(
    trained: Trained, name: str, budget: float
) -> None:
    record = trained.bundle.manifest.point(name)
    assert record.macs_ratio == pytest.approx(budget, rel=0.02)
    # One shift for all maskers: what training has found between them is kept.
    learned = np.array(read_run(trained.run)[1][budget], np.float32)
    shift = np.array(record.point.thresholds, np.float32) - learned
    np.testing.assert_allclose(shift, shift[0], atol=1e-5)


def test_weights_are_those_of_the_last_phase_in_16_bits(trained: Trained) -> None:
    state = safetensors.torch.load_file(trained.run / "model-dynamic.safetensors")
    assert state.keys() == trained.bundle.weights.keys()
    for name, value in trained.bundle.weights.items():
        assert value.dtype == np.float16
        np.testing.assert_array_equal(value, state[name].half().numpy())


def test_recorded_accuracy_is_what_the_bundle_read_back_reaches(trained: Trained) -> None:
    bundle = read_bundle(trained.bundle.path)
    folder = scan_folder(trained.pictures / "validation")
    points = [record.point for record in bundle.manifest.points]
    with ReferenceEngine.from_bundle(bundle) as engine:
        results = evaluate_points(engine, points, LabelledImages(folder, 1.0))
    for record, row in zip(bundle.manifest.points, summary(results, folder.labels), strict=True):
        assert record.accuracy is not None
        found = record.accuracy
        assert (found.value, found.low, found.high, found.images) == (
            row["accuracy"],
            row["accuracy_low"],
            row["accuracy_high"],
            row["images"],
        )
        assert record.agreement == row["agreement"]
        assert record.macs_ratio == row["macs_ratio"]


def test_provenance_says_how_it_was_trained_but_not_where(trained: Trained) -> None:
    provenance = trained.bundle.manifest.provenance
    assert provenance.notices == ("Made of noise.",)
    assert provenance.config["init"] == {"source": "torchvision", "arch": "resnet50"}
    assert provenance.config["data"] == {"crop_ratio": 1.0}
    assert provenance.config["dynamic"]["epochs"] == 4
    assert str(trained.place) not in (trained.bundle.path / "manifest.json").read_text()


def test_training_measured_what_the_bundle_would(trained: Trained) -> None:
    """`metrics.csv` and the manifest speak of the same accuracy, but for 16 bits."""
    run, thresholds = read_run(trained.run)
    model = LaudResNet(run.architecture)
    model.load_state_dict(safetensors.torch.load_file(trained.run / "model-dynamic.safetensors"))
    folder = scan_folder(trained.pictures / "validation")
    _, pixels = next(LabelledImages(folder, 1.0).chunks([32]))
    found = measure(model, pixels[32], folder.labels, run.preprocessing)
    header, *_, last = (trained.run / "metrics.csv").read_text().splitlines()
    row = dict(zip(header.split(","), last.split(","), strict=True))
    assert float(row["accuracy_full"]) == found.accuracy
    for budget, values in thresholds.items():
        found = measure(model, pixels[32], folder.labels, run.preprocessing, torch.tensor(values))
        assert float(row[f"accuracy_{budget:g}"]) == found.accuracy
        assert math.isclose(float(row[f"validation_macs_{budget:g}"]), found.macs_ratio)


def test_run_that_was_killed_at_its_very_end_is_refused(trained: Trained, tmp_path: Path) -> None:
    run = shutil.copytree(trained.run, tmp_path / "run")
    (run / "model-dynamic.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"cannot read '.*model-dynamic.safetensors'"):
        export(run, tmp_path / "new.laud", say=quiet)
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_folder_that_has_moved_is_given_as_data(trained: Trained, tmp_path: Path) -> None:
    run = shutil.copytree(trained.run, tmp_path / "run")
    content = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**content, "data": str(tmp_path / "gone")}))
    with pytest.raises(ConfigError, match="gone: no such folder"):
        export(run, tmp_path / "new.laud", say=quiet)
    assert not (tmp_path / "new.laud").exists()
    moved = export(
        run, tmp_path / "new.laud", data=trained.pictures, all_points=True, say=quiet
    ).manifest
    assert moved.points == trained.bundle.manifest.points
    assert moved.weights == trained.bundle.manifest.weights
