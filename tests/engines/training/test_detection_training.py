"""A detector is trained, killed and resumed: on four made-up pictures of discs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("faster_coco_eval")

import safetensors.torch

from engines.errors import ConfigError
from engines.models.detection import LaudDetector
from engines.runs import read_run
from engines.training.detection_config import DetectionConfig
from engines.training.detection_losses import detection_losses
from engines.training.detection_trainer import level_pyramid
from engines.training.run import train
from engines.training.scene_batches import SceneBatches
from engines.training.starts import starting_network
from tests.engines.detection.tiny import write_nuclei
from tests.engines.training.killing import Killed, killed_at
from tests.engines.training.tiny_detection import read_tiny, tiny_detection

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("full_precision")]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nuclei(
        tmp_path_factory.mktemp("nuclei"), {"train": (4, 3, 0, 5), "validation": (3,)}
    )


def _write(path: Path, root: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump({**tiny_detection(root), **changes}))
    return path


def _model(config: DetectionConfig) -> LaudDetector:
    return LaudDetector(starting_network(config, 1).net, config.detector)


def test_the_loss_falls(root: Path) -> None:
    config = DetectionConfig.model_validate(tiny_detection(root))
    model = _model(config)
    from engines.models.inputs import normalise
    from engines.training.starts import preprocessing_of

    images, targets = SceneBatches(read_tiny(root, "train"), config).batch(0, 0)
    x = normalise(images, preprocessing_of(config))
    level_pyramid(model, x)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.005)
    totals = []
    for _ in range(25):
        losses, _ = detection_losses(model, x, targets, autocast=False)
        assert losses.keys() == {"class", "box", "centre", "mask"}
        total = torch.stack(list(losses.values())).sum()
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        totals.append(float(total.detach()))
    assert totals[-1] < 0.6 * totals[0]


def test_pictures_without_objects_teach_only_that(root: Path) -> None:
    config = DetectionConfig.model_validate(tiny_detection(root))
    model = _model(config)
    batches = SceneBatches(read_tiny(root, "train"), config)
    empty = next(
        target
        for epoch in range(9) for step in range(2) for target in batches.batch(epoch, step)[1]
        if not len(target.boxes)
    )  # fmt: skip
    losses, _ = detection_losses(model, torch.randn(1, 3, 64, 64), [empty], autocast=False)
    assert float(losses["class"].detach()) > 0
    assert float(losses["box"].detach()) == float(losses["mask"].detach()) == 0
    torch.stack(list(losses.values())).sum().backward()


def test_autocast_gives_nearly_the_same_losses(root: Path) -> None:
    config = DetectionConfig.model_validate(tiny_detection(root))
    model = _model(config)
    _, targets = SceneBatches(read_tiny(root, "train"), config).batch(0, 0)
    x = torch.randn(2, 3, 64, 64)
    exact, rounded = (detection_losses(model, x, targets, autocast=a)[0] for a in (False, True))
    for name, value in exact.items():
        assert float(rounded[name].detach()) == pytest.approx(float(value.detach()), rel=0.1)


def test_the_pyramid_begins_level(root: Path) -> None:
    config = DetectionConfig.model_validate(tiny_detection(root))
    model = _model(config)
    x = 100 * torch.randn(2, 3, 64, 64)
    level_pyramid(model, x)
    with torch.no_grad():
        maps, _ = model.dense.body.stages(x, None)
        spreads = [
            float(block(each).std())
            for block, each in zip(model.dense.fpn.inner_blocks, maps, strict=True)
        ]
    assert spreads == pytest.approx([1.0] * 4, rel=0.01)


def test_a_resumed_run_equals_an_uninterrupted_one(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _write(tmp_path / "tiny.yaml", root)
    said: list[str] = []
    whole = train(path, tmp_path / "whole", {}, said.append)
    assert any("dense heads" in line for line in said)
    assert any(line.startswith("projected: ") for line in said)
    revive = killed_at(monkeypatch, 3)
    with pytest.raises(Killed):
        train(path, tmp_path / "halves", {}, said.append)
    revive()
    halves = train(path, tmp_path / "halves", {}, said.append)
    assert "resuming 'static' at step 3" in said
    first, second = (
        safetensors.torch.load_file(folder / "model-static.safetensors")
        for folder in (whole, halves)
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (whole / "metrics.csv").read_text() == (halves / "metrics.csv").read_text()
    header, *rows = (whole / "metrics.csv").read_text().splitlines()
    assert len(rows) == 3
    assert {"loss_mask", "accuracy_box_ap50", "accuracy_mask_ap50"} <= set(header.split(","))
    run, _ = read_run(whole)
    assert run.task == "segmentation"
    assert run.detector is not None
    assert [point.name for point in run.points] == ["full", "size-32"]
    again = train(path, tmp_path / "whole", {}, said.append)
    assert again == whole


def test_boxes_alone_are_trained_without_masks(root: Path, tmp_path: Path) -> None:
    plain = {"width": 16, "head_convs": 1, "masks": False}
    path = _write(tmp_path / "t.yaml", root, task="detection", detector=plain, epochs=1)
    run = train(path, tmp_path / "run", {"measure_every": 1}, lambda line: None)
    names = safetensors.torch.load_file(run / "model-static.safetensors").keys()
    assert not [name for name in names if "mask" in name]
    assert "mask" not in (run / "metrics.csv").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "detection"}, "task 'detection' takes no masks"),
        ({"crop_size": 50}, "crop_size.*multiple of 32"),
        ({"sizes": [96]}, "sizes must be smaller than image_size 64"),
        ({"dynamic": {"epochs": 1}}, "needs budgets"),
        ({"dynamic": {"budgets": [0.5]}}, "budgets needs dynamic.epochs"),
        ({"dynamic": {"epochs": 1, "budgets": [0.5]}}, "need dynamic.epochs"),
        ({"epochs": 0}, "epochs may be 0 only"),
        ({"data": {"root": "x", "zoom": [2, 1]}}, "two rising factors"),
        ({"task": "boxes"}, "task: Input should be"),
    ],
)
def test_what_cannot_be_trained_is_told(
    root: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = _write(tmp_path / "t.yaml", root, **changes)
    with pytest.raises(ConfigError, match=message):
        train(path, tmp_path / "run")


def test_pictures_without_masks_are_not_segmented(tmp_path: Path) -> None:
    from tests.engines.detection.tiny import voc_object, write_voc

    root = write_voc(tmp_path / "voc", voc_object("a", 1, 1, 20, 20))
    (root / "ImageSets/Main/val.txt").write_text("a\n")
    with pytest.raises(ConfigError, match="some objects have no mask"):
        train(_write(tmp_path / "t.yaml", root), tmp_path / "run", {}, lambda line: None)
