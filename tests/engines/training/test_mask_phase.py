"""The mask head learns alone, behind a detector that stays what it is."""

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
from engines.models.detection import LaudDetector
from engines.runs import read_run
from engines.training import starts
from engines.training.detection_config import DetectionConfig
from engines.training.detection_losses import detection_losses, mask_losses
from engines.training.foreground import bias_at, thresholds_at
from engines.training.run import train
from engines.training.scene_batches import SceneBatches
from engines.training.starts import starting_network
from tests.engines.training.killing import Killed, killed_at
from tests.engines.training.tiny_detection import read_tiny, tiny_dynamic, write_dynamic

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("full_precision")]

HEAD = "instances."


@pytest.fixture(scope="module")
def finished(nuclei: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All three phases, with maskers fitted at the end of the second."""
    place = tmp_path_factory.mktemp("phases")
    return train(_write(place / "t.yaml", nuclei), place / "run", {}, lambda line: None)


@pytest.fixture(scope="module")
def bundle(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("bundle") / "tiny.laud"
    return export(finished, out, all_points=True, say=lambda line: None)


def _write(path: Path, nuclei: Path, **changes: Any) -> Path:
    dynamic = {**tiny_dynamic(nuclei)["dynamic"], "fits": 1}
    masks = {"epochs": 2, "rate": 0.01}
    return write_dynamic(path, nuclei, **{"dynamic": dynamic, "masks": masks, **changes})


def _alone(path: Path, nuclei: Path, source: Path, **changes: Any) -> Path:
    """Of a bundle's mask head, at half the samples."""
    plain = tiny_dynamic(nuclei)
    alone = {
        "init": {"source": "bundle", "path": str(source)},
        "detector": {**plain["detector"], "roi_size": 7},
        "epochs": 0,
        "dynamic": {**plain["dynamic"], "epochs": 0, "fits": 0},
    }
    return _write(path, nuclei, **{**alone, **changes})


def _state(run: Path, phase: str) -> dict[str, Tensor]:
    return dict(safetensors.torch.load_file(run / f"model-{phase}.safetensors"))


def _changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_nothing_but_the_head_learns_from_its_loss(nuclei: Path) -> None:
    content = tiny_dynamic(nuclei)
    content["detector"]["roi_size"] = 7
    config = DetectionConfig.model_validate(content)
    model = LaudDetector(starting_network(config, 1).net, config.detector)
    _, targets = SceneBatches(read_tiny(nuclei, "train"), config).batch(0, 0)
    assert {each.mask_pixels.shape[1:] for each in targets} == {(14, 14)}
    x = torch.randn(2, 3, 64, 64)
    losses = mask_losses(model, x, targets, autocast=False)
    among, _ = detection_losses(model, x, targets, autocast=False)
    assert losses.keys() == {"mask"}
    torch.testing.assert_close(losses["mask"], among["mask"])
    losses["mask"].backward()  # type: ignore[no-untyped-call]
    learning = {name for name, each in model.named_parameters() if each.grad is not None}
    assert learning == {name for name, _ in model.named_parameters() if name.startswith(HEAD)}


def test_the_last_phase_leaves_the_others_work_as_it_was(finished: Path) -> None:
    changed = _changed(_state(finished, "dynamic"), _state(finished, "masks"))
    assert changed == {name for name in _state(finished, "masks") if name.startswith(HEAD)}
    run, thresholds = read_run(finished)
    assert run.last_phase == "masks"
    assert thresholds.keys() == {0.7, 0.5}
    rows = (finished / "metrics.csv").read_text().splitlines()
    phases = [row.split(",")[0] for row in rows[1:]]
    assert phases == ["static"] * 3 + ["dynamic"] * 2 + ["fit"] + ["masks"] * 2


def test_maskers_and_head_of_a_bundle_may_both_be_made_anew(
    nuclei: Path, bundle: Bundle, tmp_path: Path
) -> None:
    dynamic = {**tiny_dynamic(nuclei)["dynamic"], "epochs": 0, "fits": 2}
    path = _alone(tmp_path / "t.yaml", nuclei, bundle.path, dynamic=dynamic)
    run = train(path, tmp_path / "run", {}, lambda line: None)
    before = {name: torch.from_numpy(each).float() for name, each in bundle.weights.items()}
    after = {name: each for name, each in _state(run, "masks").items() if name in before}
    changed = _changed(before, after)
    assert {name for name in changed if "masker" not in name and not name.startswith(HEAD)} == set()
    assert any("masker" in name for name in changed)
    assert any(name.startswith(HEAD) for name in changed)
    rows = (run / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["fit", "masks", "masks"]


def test_maskers_of_which_nobody_knows_where_they_decide_are_refused(
    nuclei: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a bundle whose dial dropped every point that skips."""
    monkeypatch.setattr(starts, "_first_thresholds", lambda manifest: None)
    path = _alone(tmp_path / "t.yaml", nuclei, bundle.path)
    with pytest.raises(ConfigError, match=r"no point that skips.*dynamic\.fits"):
        train(path, tmp_path / "run", {}, lambda line: None)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("steps", [10, 11])
def test_a_run_killed_in_the_last_phase_equals_an_uninterrupted_one(
    nuclei: Path, tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """At its beginning, where maskers' bias is the phase before's, and in its midst."""
    path = _write(tmp_path / "t.yaml", nuclei)
    revive = killed_at(monkeypatch, steps)
    with pytest.raises(Killed):
        train(path, tmp_path / "halves", {}, lambda line: None)
    revive()
    halves = train(path, tmp_path / "halves", {}, lambda line: None)
    assert not _changed(_state(finished, "masks"), _state(halves, "masks"))
    assert (finished / "thresholds.json").read_text() == (halves / "thresholds.json").read_text()
    assert (finished / "metrics.csv").read_text() == (halves / "metrics.csv").read_text()


def test_a_bundle_keeps_all_but_its_mask_head(nuclei: Path, tmp_path: Path, bundle: Bundle) -> None:
    said: list[str] = []
    path = _alone(tmp_path / "t.yaml", nuclei, bundle.path)
    run = train(path, tmp_path / "run", {}, said.append)
    assert any(line.startswith("masks: 2 epochs") for line in said)
    again = export(run, tmp_path / "again.laud", all_points=True, say=lambda line: None)
    assert again.manifest.detector is not None
    assert again.manifest.detector.roi_size == 7
    assert again.manifest.provenance.config["begun_with"] == bundle.manifest.provenance.config
    before, after = (
        {name: torch.from_numpy(array) for name, array in each.weights.items()}
        for each in (bundle, again)
    )
    assert _changed(before, after) == {name for name in before if name.startswith(HEAD)}
    for one, other in zip(bundle.manifest.points, again.manifest.points, strict=True):
        assert one.point.name == other.point.name
        # Of every masker as much: points are found again from the first that skips.
        shifts = [
            other_t - one_t
            for one_t, other_t in zip(one.point.thresholds, other.point.thresholds, strict=True)
            if one_t is not None and other_t is not None
        ]
        assert len(shifts) == (0 if one.point.skips_nothing else 7)
        assert shifts == pytest.approx([shifts[0]] * 7 if shifts else [], abs=1e-4)
        assert one.detection is not None
        assert other.detection is not None
        if one.point.skips_nothing:
            assert one.detection.box_ap50 == other.detection.box_ap50


def test_thresholds_are_told_as_a_bias_and_back() -> None:
    thresholds = [-3.5, 0.0, 1.25]
    assert thresholds_at(0.1, bias_at(0.1, thresholds)) == pytest.approx(thresholds, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": "static"}, "skips otherwise: stages"),
        ({"detector": {"level_patches": [4, 2, 2, 1]}}, "skips otherwise: .*level_patches"),
        ({"detector": {"width": 24}}, "'detector' must be its own"),
    ],
)
def test_a_bundle_that_does_not_fit_is_refused(
    nuclei: Path, tmp_path: Path, bundle: Bundle, changes: dict[str, Any], message: str
) -> None:
    plain = tiny_dynamic(nuclei)
    content: dict[str, Any] = {}
    if "stages" in changes:
        content["stages"] = [plain["stages"][0], *plain["stages"][1:3], {"depth": 1, "width": 8}]
    if "detector" in changes:
        content["detector"] = {**plain["detector"], **changes["detector"]}
    path = _alone(tmp_path / "t.yaml", nuclei, bundle.path, **content)
    with pytest.raises(ConfigError, match=message):
        train(path, tmp_path / "run", {}, lambda line: None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "detection", "detector": {"masks": False}, "stages": None}, "no mask head"),
        ({"init": {"source": "random"}}, "epochs may be 0 only"),
        ({"masks": {"epochs": 0}}, "epochs may be 0 only"),
        ({"epochs": 1}, "budgets needs dynamic.epochs"),
        ({"dynamic": {}}, "that skips needs its dynamic.budgets"),
    ],
)
def test_what_has_no_finished_network_before_it_is_refused(
    nuclei: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    if "stages" in changes:
        stages = [{"depth": 1, "width": width} for width in (4, 4, 8, 8)]
        changes = {**changes, "stages": stages, "dynamic": {}}
    path = _alone(tmp_path / "t.yaml", nuclei, Path("nowhere.laud"), **changes)
    with pytest.raises(ConfigError, match=message):
        train(path, tmp_path / "run", {}, lambda line: None)
