"""Maskers are fitted first, and stand still while the network learns to answer under them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("faster_coco_eval")

import safetensors.torch
from torch import Tensor

from engines.bundle import Bundle
from engines.errors import ConfigError
from engines.export.run import export
from engines.training.detection_trainer import DetectionTrainer
from engines.training.masker_fit import MOST_PATCHES, PATCHES, patches_of
from engines.training.run import train
from tests.engines.training.killing import Killed, killed_at
from tests.engines.training.tiny_detection import tiny_dynamic, write_dynamic

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("full_precision")]


@pytest.fixture(scope="module")
def bundle(dynamic_detector: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("bundle") / "tiny.laud"
    return export(dynamic_detector, out, all_points=True, say=lambda line: None)


def _write(path: Path, nuclei: Path, source: Path, **dynamic: Any) -> Path:
    """Two epochs from a finished bundle on."""
    wanted = {**tiny_dynamic(nuclei)["dynamic"], "epochs": 2, "first_fits": 1, **dynamic}
    init = {"source": "bundle", "path": str(source)}
    return write_dynamic(path, nuclei, init=init, epochs=0, dynamic=wanted)


def _maskers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: each.clone() for name, each in state.items() if "masker" in name}


def _phases(run: Path) -> list[str]:
    rows = (run / "metrics.csv").read_text().splitlines()
    return [row.split(",")[0] for row in rows[1:]]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """Of every step the whole network before it, and the maskers' bias as `bias`."""
    states: list[dict[str, Tensor]] = []
    step = DetectionTrainer._step

    def noting(self: DetectionTrainer, *given: Any) -> dict[str, float]:
        state = {name: each.clone() for name, each in self.model.state_dict().items()}
        states.append({**state, "bias": self._bias.detach().clone()})
        return step(self, *given)

    monkeypatch.setattr(DetectionTrainer, "_step", noting)
    return states


def test_they_stand_still_while_the_rest_learns(
    nuclei: Path, bundle: Bundle, tmp_path: Path, seen: list[dict[str, Tensor]]
) -> None:
    path = _write(tmp_path / "t.yaml", nuclei, bundle.path)
    run = train(path, tmp_path / "run", {}, lambda line: None)
    after = safetensors.torch.load_file(run / "model-dynamic.safetensors")
    first = seen[0]
    assert _phases(run) == ["fit", "dynamic", "dynamic"]
    assert {name for name in after if torch.equal(first[name], after[name])} == _maskers(
        after
    ).keys()
    assert all(torch.equal(each["bias"], first["bias"]) for each in seen)


def test_steps_are_under_their_masks(
    nuclei: Path, bundle: Bundle, tmp_path: Path, seen: list[dict[str, Tensor]]
) -> None:
    """Fitted to the network as it is, not what a bundle's maskers were."""
    path = _write(tmp_path / "t.yaml", nuclei, bundle.path)
    train(path, tmp_path / "run", {}, lambda line: None)
    # The coarsest level has no object here, and so nothing to look at.
    name = "dense.level_maskers.0.weight"
    assert not torch.equal(torch.from_numpy(bundle.weights[name]).float(), seen[0][name])
    assert seen[0][name].abs().max() > 0
    assert seen[0]["bias"].abs().min() > 0


def test_what_the_network_became_may_get_others(
    nuclei: Path, bundle: Bundle, tmp_path: Path, seen: list[dict[str, Tensor]]
) -> None:
    path = _write(tmp_path / "t.yaml", nuclei, bundle.path, fits=1)
    run = train(path, tmp_path / "run", {}, lambda line: None)
    after = safetensors.torch.load_file(run / "model-dynamic.safetensors")
    name = "dense.level_maskers.0.weight"
    assert not torch.equal(seen[0][name], after[name])
    assert _phases(run) == ["fit", "dynamic", "dynamic", "fit"]
    again = export(run, tmp_path / "again.laud", all_points=True, say=lambda line: None)
    assert [each.point.name for each in again.manifest.points] == [
        each.point.name for each in bundle.manifest.points
    ]


@pytest.mark.parametrize("steps", [1, 3])
def test_a_run_killed_is_as_if_it_never_was(
    nuclei: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """Fitted once, and not again."""
    path = _write(tmp_path / "t.yaml", nuclei, bundle.path)
    whole = train(path, tmp_path / "whole", {}, lambda line: None)
    revive = killed_at(monkeypatch, steps)
    with pytest.raises(Killed):
        train(path, tmp_path / "halves", {}, lambda line: None)
    revive()
    halves = train(path, tmp_path / "halves", {}, lambda line: None)
    for name in ("model-dynamic.safetensors", "thresholds.json", "metrics.csv"):
        assert (whole / name).read_bytes() == (halves / name).read_bytes(), name


def test_without_epochs_there_is_no_before(nuclei: Path, tmp_path: Path) -> None:
    path = _write(tmp_path / "t.yaml", nuclei, Path("nowhere.laud"), epochs=0, fits=1)
    with pytest.raises(ConfigError, match="of which there are 0"):
        train(path, tmp_path / "run", {}, lambda line: None)


def test_few_pictures_are_asked_much_and_many_little() -> None:
    assert patches_of(1) == patches_of(400) == PATCHES
    assert patches_of(5_000) == MOST_PATCHES // 5_000 == 16
    assert patches_of(10 * MOST_PATCHES) == 1
