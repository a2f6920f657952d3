"""Maskers are fitted to a finished detector, which they leave as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("faster_coco_eval")

import safetensors.torch
import torch.nn.functional as F
from torch import Tensor

from engines.architecture import Stage
from engines.core import Paradigm
from engines.detection.architecture import LEVELS
from engines.detection.read import read_scenes
from engines.errors import ConfigError
from engines.evaluation.detection import square
from engines.export.run import export
from engines.models.detection import LaudDetector
from engines.runs import read_run
from engines.training import detection_trainer
from engines.training.detection_config import DetectionConfig
from engines.training.foreground import (
    ForegroundMasks,
    masker_loss,
    patch_maskers,
    pooled_inputs,
    prepare_maskers,
)
from engines.training.masker_fit import fit_maskers, logistic, whole_picture
from engines.training.run import train
from engines.training.scene_batches import ScenePixels
from engines.training.starts import starting_network
from tests.engines.training.killing import Killed
from tests.engines.training.tiny_detection import tiny_dynamic, write_dynamic

pytestmark = pytest.mark.torch

SIZE = 64


@pytest.fixture
def model(nuclei: Path) -> LaudDetector:
    config = DetectionConfig.model_validate(tiny_dynamic(nuclei))
    torch.manual_seed(0)
    return LaudDetector(starting_network(config, 1).net, config.detector).eval()


def _weights(run: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = safetensors.torch.load_file(run / "model-dynamic.safetensors")
    return found


def _cross_entropy(x: Tensor, wanted: Tensor, weight: Tensor, constant: float) -> float:
    return float(F.binary_cross_entropy_with_logits(x @ weight + constant, wanted))


def test_no_small_step_makes_a_fitted_masker_better() -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 6, generator=rng)
    true = torch.tensor([1.0, -2.0, 0.5, 0.0, 0.0, 0.0])
    wanted = (torch.rand(4000, generator=rng) < torch.sigmoid(x @ true - 1.0)).float()
    weight, constant = logistic(x, wanted, penalty=0.0)
    torch.testing.assert_close(weight, true, atol=0.25, rtol=0.0)
    assert constant == pytest.approx(-1.0, abs=0.25)
    best = _cross_entropy(x, wanted, weight, constant)
    for place in range(6):
        for step in (-0.05, 0.05):
            moved = weight.clone()
            moved[place] += step
            assert _cross_entropy(x, wanted, moved, constant) > best
    assert _cross_entropy(x, wanted, weight, constant + 0.05) > best
    assert _cross_entropy(x, wanted, weight, constant - 0.05) > best


def test_the_penalty_keeps_weights_small() -> None:
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    wanted = (x[:, 0] > 0).float()
    free, held = (logistic(x, wanted, penalty)[0].norm() for penalty in (1e-4, 1e-1))
    assert held < 0.5 * free
    assert torch.isfinite(free)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_where_patches_are_all_alike_the_masker_says_so(rate: float) -> None:
    x = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    weight, constant = logistic(x, torch.full((300,), rate))
    decided = torch.sigmoid(x @ weight + constant)
    assert torch.isfinite(weight).all()
    torch.testing.assert_close(decided, torch.full((300,), rate), atol=1e-2, rtol=0.0)


def test_a_picture_is_shown_as_it_is_served(nuclei: Path) -> None:
    scenes = read_scenes(nuclei, "train").scenes
    pixels = ScenePixels(scenes)
    for size in (SIZE, 32):
        for place, scene in enumerate(scenes):
            shown, target = whole_picture(pixels[place], scene, size)
            np.testing.assert_array_equal(shown, square(scene, size))
            scale = size / max(scene.width, scene.height)
            np.testing.assert_allclose(target.boxes, scene.boxes * scale, atol=0.51)
            assert target.places.shape == (sum((size // stride) ** 2 for stride in (4, 8, 16, 32)),)
            assert (target.places >= 0).any() == bool(len(scene))


def test_maskers_pool_what_they_decide_by(model: LaudDetector) -> None:
    """Their logits are those of the network, under the same decisions."""
    for masker in patch_maskers(model.dense):
        torch.nn.init.normal_(masker.weight)
    x = torch.randn(2, 3, SIZE, SIZE)
    bias = torch.zeros(model.dense.num_maskers)
    half = ForegroundMasks(bias, torch.zeros(2), torch.tensor([False, True]))
    _, asked = model.dense(x, half)
    pooled = pooled_inputs(model.dense, x, half)
    maskers = patch_maskers(model.dense)
    assert len(pooled) == len(maskers) == len(asked) == len(model.net.maskers) + LEVELS
    for masker, seen, mask in zip(maskers, pooled, asked, strict=True):
        logits = masker.standardise(seen) @ masker.weight / len(masker.weight) ** 0.5
        torch.testing.assert_close(logits, mask.logits)


def test_fitting_finds_what_was_wanted_and_changes_nothing_else(
    nuclei: Path, model: LaudDetector
) -> None:
    scenes = read_scenes(nuclei, "train").scenes
    pixels = ScenePixels(scenes)
    made = [whole_picture(pixels[i], scene, SIZE) for i, scene in enumerate(scenes)]
    images = [torch.from_numpy(p[None]).permute(0, 3, 1, 2).float() / 64 - 1 for p, _ in made]
    targets = [target for _, target in made]
    prepare_maskers(model.dense, torch.cat(images))
    before = {name: each.clone() for name, each in model.state_dict().items()}
    bias = torch.zeros(model.dense.num_maskers)
    everything = torch.ones(len(images), dtype=torch.bool)

    def loss() -> float:
        decide = ForegroundMasks(bias, torch.zeros(len(images)), everything)
        _, asked = model.dense(torch.cat(images), decide)
        return float(masker_loss(model.dense, asked, bias, targets, SIZE).detach())

    blind = loss()
    shown = [(image, target, None) for image, target in zip(images, targets, strict=True)]
    fit_maskers(model.dense, bias, shown, np.random.default_rng(0))
    assert loss() < 0.5 * blind
    changed = {n for n, each in model.state_dict().items() if not torch.equal(each, before[n])}
    assert changed == {n for n in before if "masker" in n and n.endswith("weight")}


def test_a_finished_detector_gets_other_maskers_and_keeps_its_answers(
    nuclei: Path, dynamic_detector: Path, tmp_path: Path
) -> None:
    dynamic = {**tiny_dynamic(nuclei)["dynamic"], "epochs": 0, "fits": 2}
    bundle = export(
        dynamic_detector, tmp_path / "tiny.laud", all_points=True, say=lambda line: None
    )
    init = {"source": "bundle", "path": str(bundle.path)}
    path = write_dynamic(tmp_path / "fit.yaml", nuclei, init=init, epochs=0, dynamic=dynamic)
    said: list[str] = []
    first = train(path, tmp_path / "one", {}, said.append)
    assert not any("steps" in line for line in said)
    assert [line for line in said if line.startswith("fitting")] == [
        "fitting maskers to the network as it is, 1 of 2",
        "fitting maskers to the network as it is, 2 of 2",
    ]
    before = {name: torch.from_numpy(each).float() for name, each in bundle.weights.items()}
    after = _weights(first)
    rest = [name for name in before if "masker" not in name]
    assert all(torch.equal(before[name], after[name]) for name in rest)
    assert not torch.equal(
        before["dense.level_maskers.0.weight"], after["dense.level_maskers.0.weight"]
    )
    second = train(path, tmp_path / "two", {}, lambda line: None)
    assert all(torch.equal(after[name], each) for name, each in _weights(second).items())
    run, thresholds = read_run(first)
    assert run.last_phase == "dynamic"
    assert set(thresholds) == {0.7, 0.5}
    rows = (first / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["fit"]


def test_maskers_that_learned_are_fitted_as_if_the_run_was_never_killed(
    nuclei: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dynamic = {**tiny_dynamic(nuclei)["dynamic"], "fits": 2}
    path = write_dynamic(tmp_path / "fit.yaml", nuclei, dynamic=dynamic)
    whole = train(path, tmp_path / "whole", {}, lambda line: None)
    shown = 0

    def killed(*picture: Any) -> Any:
        nonlocal shown
        shown += 1
        if shown == 6:
            raise Killed
        return whole_picture(*picture)

    monkeypatch.setattr(detection_trainer, "whole_picture", killed)
    with pytest.raises(Killed):
        train(path, tmp_path / "halves", {}, lambda line: None)
    monkeypatch.setattr(detection_trainer, "whole_picture", whole_picture)
    halves = train(path, tmp_path / "halves", {}, lambda line: None)
    wanted, found = _weights(whole), _weights(halves)
    assert all(torch.equal(found[name], each) for name, each in wanted.items())
    assert (whole / "thresholds.json").read_text() == (halves / "thresholds.json").read_text()
    rows = (halves / "metrics.csv").read_text().splitlines()
    phases = [row.split(",")[0] for row in rows[1:]]
    assert phases[-3:] == ["dynamic", "dynamic", "fit"]


def test_fits_without_budgets_are_refused(nuclei: Path) -> None:
    dynamic = {"fits": 1}
    with pytest.raises(ValueError, match="fits stand for epochs"):
        DetectionConfig.model_validate({**tiny_dynamic(nuclei), "dynamic": dynamic})


def test_a_masker_of_channels_is_refused(model: LaudDetector) -> None:
    plain = model.net.stages[1]
    stage = Stage(
        depth=plain.depth, width=plain.width, paradigm=Paradigm.CHANNEL, channel_granularity=2
    )
    net = model.net.model_copy(
        update={"stages": (model.net.stages[0], stage, *model.net.stages[2:])}
    )
    with pytest.raises(ConfigError, match="skip patches"):
        patch_maskers(LaudDetector(net, model.detector).dense)
