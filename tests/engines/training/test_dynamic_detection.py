"""A detector learns where objects are, and to answer where nothing else is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("faster_coco_eval")

import safetensors.torch
from torch import Tensor

from engines.architecture import MapSize
from engines.bundle import read_bundle
from engines.core import static_point
from engines.detection.architecture import detector_macs, stage_channels
from engines.detection.read import read_scenes
from engines.errors import ConfigError
from engines.export.run import export
from engines.models.detecting import dense_macs
from engines.models.detection import LaudDetector
from engines.reference.detection import ReferenceDetector
from engines.runs import read_run
from engines.training import detection_trainer
from engines.training.detection_config import DetectionConfig
from engines.training.detection_losses import detection_losses
from engines.training.foreground import (
    ForegroundMasks,
    foreground_units,
    mask_levels,
    masker_loss,
    prepare_maskers,
    random_thresholds,
    thresholds_at,
)
from engines.training.run import train
from engines.training.scene_batches import Target, answering_places
from engines.training.starts import starting_network
from tests.engines.training.killing import Killed, killed_at
from tests.engines.training.tiny_detection import tiny_dynamic, write_dynamic

pytestmark = pytest.mark.torch

SIZE = 64


@pytest.fixture
def model(nuclei: Path) -> LaudDetector:
    config = DetectionConfig.model_validate(tiny_dynamic(nuclei))
    return LaudDetector(starting_network(config, 1).net, config.detector)


def _target(*boxes: tuple[float, float, float, float]) -> Target:
    of = np.array(boxes, np.float32).reshape(-1, 4)
    maps = tuple(MapSize(SIZE // stride, SIZE // stride) for stride in (4, 8, 16, 32))
    places = answering_places(of, maps)
    none = np.zeros((0, 4), np.float32), np.zeros((0, 28, 28), np.bool_)
    return Target(of, np.zeros(len(of), np.int64), places, *none)


def test_patches_are_wanted_where_objects_are(model: LaudDetector) -> None:
    wanted = foreground_units(model.dense, [_target((5, 5, 11, 11)), _target()], SIZE)
    assert [each.shape for each in wanted] == [
        (2, 64), (2, 16), (2, 4), (2, 16), (2, 16), (2, 16), (2, 4),
    ]  # fmt: skip
    assert not any(each[1].any() for each in wanted)
    blocks = wanted[0][0].view(8, 8)
    assert blocks[:2, :2].all()
    assert blocks.sum() == 4
    # 6 px wide it is the finest level's, at places next to (8, 8).
    level = wanted[3][0].view(4, 4)
    assert level[0, 0] == 1
    assert not level[2:].any()
    assert not wanted[6].any()


def test_a_level_may_look_at_a_later_stage(nuclei: Path) -> None:
    plain = tiny_dynamic(nuclei)
    plain["detector"]["level_looks"] = [2, 2, 2, 3]
    config = DetectionConfig.model_validate(plain)
    model = LaudDetector(starting_network(config, 1).net, config.detector)
    x = torch.randn(2, 3, SIZE, SIZE)
    prepare_maskers(model.dense, x)
    maps, _ = model.dense.body.stages(x, None)
    for level, look in enumerate((2, 2, 2, 3)):
        masker = model.dense.level_maskers[level]
        seen = maps[look].mean(dim=(0, 2, 3))
        torch.testing.assert_close(masker.mean, seen, rtol=1e-4, atol=1e-5)
        torch.nn.init.normal_(masker.weight)
    _, asked = model.dense(x, lambda masker, logits: (logits > 0).float())
    wanted = foreground_units(model.dense, [_target((5, 5, 11, 11)), _target()], SIZE)
    own = len(model.net.maskers)
    for level, (mask, units) in enumerate(zip(asked[own:], wanted[own:], strict=True)):
        assert mask.logits.shape == units.shape
        assert mask.pixels is not None
        assert mask.pixels.shape[2] == SIZE >> (level + 2)
        assert float(mask.pixels.mean()) == pytest.approx(float(mask.units.mean()))
    macs = [dense_macs(model.dense, MapSize(SIZE, SIZE), asked, rates) for rates in _asked(own)]
    channels = stage_channels(model.net)
    assert float((macs[1] - macs[0]).mean()) == 2 * (3 * 16 * channels[2] + 4 * channels[3])


def _asked(own: int) -> tuple[Tensor, Tensor]:
    """Levels' maskers that count as not asked, and as asked."""
    every = torch.ones(2, own + 4)
    none = every.clone()
    none[:, own:] = 0
    return none, every


def test_a_mask_needs_the_level_that_it_is_made_from(model: LaudDetector) -> None:
    # 40 px wide, it is found on a coarser level, and its mask is made from the finest.
    wanted = foreground_units(model.dense, [_target((8, 8, 48, 48))], SIZE)
    finest = wanted[3][0].view(4, 4)
    assert finest[:3, :3].all()
    assert finest.sum() == 9


@pytest.mark.parametrize("side", [4, 21, 56, 111, 112, 113, 200, 224, 300, 448, 900])
def test_masks_are_made_from_the_level_that_torchvision_reads(side: float) -> None:
    from torchvision.ops.poolers import LevelMapper

    boxes = np.array([[3, 5, 3 + side, 5 + side]], np.float32)
    theirs = LevelMapper(2, 5)([torch.from_numpy(boxes)])
    assert mask_levels(boxes).tolist() == theirs.tolist()


def test_a_patch_is_active_from_the_threshold_on() -> None:
    bias, thresholds = torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.5, 0.5])
    decide = ForegroundMasks(bias, thresholds, torch.tensor([False, False, True]))
    logits = torch.tensor([[0.4, 0.5], [-0.5, -0.6], [-9.0, -9.0]])
    assert decide(0, logits).tolist() == [[0, 1], [0, 0], [1, 1]]
    assert decide(1, logits).tolist() == [[1, 1], [1, 0], [1, 1]]


def test_thresholds_are_probabilities() -> None:
    thresholds = thresholds_at(0.2, torch.tensor([0.0, 1.5]))
    assert torch.sigmoid(torch.tensor(thresholds) + torch.tensor([0.0, 1.5])).tolist() == (
        pytest.approx([0.2, 0.2])
    )


def test_drawn_thresholds_stay_between_their_ends() -> None:
    drawn, everything = random_thresholds(2000, (0.02, 0.4), 0.25, np.random.default_rng(0))
    shares = torch.sigmoid(drawn)
    assert 0.0199 < float(shares.min()) < 0.03
    assert 0.35 < float(shares.max()) < 0.4001
    assert float(everything.float().mean()) == pytest.approx(0.25, abs=0.03)


def test_maskers_learn_and_nothing_else_does_from_their_loss(model: LaudDetector) -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(2, 3, SIZE, SIZE)).astype(np.float32))
    x[0, :, 8:24, 8:24] += 4.0
    targets = [_target((8, 8, 24, 24)), _target()]
    prepare_maskers(model.dense, x)
    bias = torch.zeros(model.dense.num_maskers, requires_grad=True)
    maskers = [p for name, p in model.named_parameters() if "masker" in name]
    optimiser = torch.optim.Adam([*maskers, bias], lr=0.1)
    losses = []
    for _ in range(30):
        everything = torch.ones(2, dtype=torch.bool)
        decide = ForegroundMasks(bias, torch.zeros(2), everything)
        _, asked = model.dense(x, decide)
        loss = masker_loss(model.dense, asked, bias, targets, SIZE)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    rest = [p for name, p in model.named_parameters() if "masker" not in name]
    assert all(p.grad is None for p in rest)


def test_what_is_not_active_is_not_answered(model: LaudDetector) -> None:
    x = torch.randn(1, 3, SIZE, SIZE)
    first = len(model.net.maskers)

    def half(masker: int, logits: Tensor) -> Tensor:
        units: Tensor = torch.ones_like(logits)
        if masker == first:
            units[:, units.shape[1] // 2 :] = 0
        elif masker > first:
            units[:] = 0
        return units

    outputs, asked = model.dense(x, half)
    assert len(asked) == model.dense.num_maskers
    finest = (SIZE // 4) ** 2
    logits = outputs.logits[0, :, 0]
    assert (logits[finest // 2 :] == logits[-1]).all()
    assert torch.sigmoid(logits[-1]) < 1e-9
    assert not outputs.distances[0, finest // 2 :].any()
    assert not outputs.features[0][:, :, SIZE // 8 :].any()
    assert not outputs.features[1].any()
    every, _ = model.dense(x, lambda masker, logits: torch.ones_like(logits))
    static, none = model.dense(x)
    assert none == []
    torch.testing.assert_close(every.logits, static.logits)
    torch.testing.assert_close(every.distances, static.distances)
    torch.testing.assert_close(every.centres, static.centres)


def test_what_is_not_computed_does_not_count(nuclei: Path, model: LaudDetector) -> None:
    x, targets = torch.randn(1, 3, SIZE, SIZE), [_target((5, 5, 11, 11), (40, 40, 60, 60))]
    every, _ = detection_losses(model, x, targets, lambda _, z: torch.ones_like(z), autocast=False)
    none, _ = detection_losses(model, x, targets, lambda _, z: torch.zeros_like(z), autocast=False)
    assert float(every["box"].detach()) > 0
    assert float(none["class"].detach()) < 1e-6
    assert float(none["box"].detach()) == float(none["centre"].detach()) == 0


@pytest.mark.parametrize("steps", [6, 8])
def test_a_run_killed_while_maskers_learn_equals_an_uninterrupted_one(
    nuclei: Path,
    tmp_path: Path,
    dynamic_detector: Path,
    monkeypatch: pytest.MonkeyPatch,
    steps: int,
) -> None:
    path = write_dynamic(tmp_path / "tiny.yaml", nuclei)
    revive = killed_at(monkeypatch, steps)
    with pytest.raises(Killed):
        train(path, tmp_path / "halves", {}, lambda line: None)
    revive()
    halves = train(path, tmp_path / "halves", {}, lambda line: None)
    first, second = (
        safetensors.torch.load_file(folder / "model-dynamic.safetensors")
        for folder in (dynamic_detector, halves)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (dynamic_detector / "thresholds.json").read_text() == (
        halves / "thresholds.json"
    ).read_text()
    assert (dynamic_detector / "metrics.csv").read_text() == (halves / "metrics.csv").read_text()


def test_it_ends_with_points_at_every_budget(
    nuclei: Path, dynamic_detector: Path, tmp_path: Path
) -> None:
    run, thresholds = read_run(dynamic_detector)
    assert run.last_phase == "dynamic"
    assert [point.name for point in run.points] == ["full", "skip-64-70", "skip-64-50", "size-32"]
    assert len(thresholds[0.5]) == 7
    bundle = export(
        dynamic_detector, tmp_path / "tiny.laud", all_points=True, say=lambda line: None
    )
    assert read_bundle(bundle.path).hash == bundle.hash
    for name, budget in (("skip-64-70", 0.7), ("skip-64-50", 0.5)):
        record = bundle.manifest.point(name)
        assert len(record.activation) == 7
        assert 0 < record.macs_ratio < 1
        assert record.macs_ratio == pytest.approx(budget, abs=0.15), "patches are few and large"
    assert run.detector is not None
    static = detector_macs(run.architecture, run.detector, MapSize(SIZE, SIZE))
    with ReferenceDetector.from_bundle(bundle) as engine:
        pixels = np.zeros((1, SIZE, SIZE, 3), np.uint8)
        full = engine.infer(pixels, [bundle.manifest.full.point])
        count = float(full.arrays["counts"][0])
        assert full.macs[0] == static.dense + static.per_object * count
        assert full.activation.tolist() == [[1.0] * 7]
        never = static_point("none", SIZE, 7).model_copy(update={"thresholds": (1e9,) * 7})
        nothing = engine.infer(pixels, [never])
        assert nothing.activation.tolist() == [[0.0] * 7]
        assert nothing.arrays["counts"].tolist() == [0]
        assert 0 < nothing.macs[0] < 0.5 * static.dense


@pytest.mark.parametrize("source", ["bundle", "run"])
def test_a_finished_detector_can_be_made_dynamic(
    nuclei: Path, dynamic_detector: Path, tmp_path: Path, source: str
) -> None:
    bundle = export(
        dynamic_detector, tmp_path / "tiny.laud", all_points=True, say=lambda line: None
    )
    path = bundle.path if source == "bundle" else dynamic_detector
    said: list[str] = []
    again = train(
        write_dynamic(
            tmp_path / "again.yaml", nuclei, init={"source": source, "path": str(path)}, epochs=0
        ),
        tmp_path / "again",
        {},
        said.append,
    )
    static = safetensors.torch.load_file(again / "model-static.safetensors")
    name = "dense.head.classification_head.conv.0.weight"
    wanted = torch.from_numpy(bundle.weights[name]).float()
    if source == "run":
        wanted = safetensors.torch.load_file(dynamic_detector / "model-static.safetensors")[name]
    torch.testing.assert_close(static[name], wanted)
    assert not any(line.startswith("static:") for line in said)
    rows = (again / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["dynamic", "dynamic"]


def larger(nuclei: Path, **changes: int) -> list[dict[str, Any]]:
    """The stages of the tiny detector, the last of them changed."""
    *others, last = tiny_dynamic(nuclei)["stages"]
    return [*others, {**last, **changes}]


def test_a_finished_detector_can_grow_deeper_and_finds_the_same(
    nuclei: Path, dynamic_detector: Path, tmp_path: Path
) -> None:
    path = write_dynamic(
        tmp_path / "deeper.yaml",
        nuclei,
        init={"source": "run", "path": str(dynamic_detector)},
        stages=larger(nuclei, depth=3),
        epochs=0,
    )
    said: list[str] = []
    deeper = train(path, tmp_path / "deeper", {}, said.append)
    assert any(line.startswith("growing ") and line.count("3x8") == 1 for line in said)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    found = []
    for folder in (dynamic_detector, deeper):
        run, _ = read_run(folder)
        assert run.detector is not None
        model = LaudDetector(run.architecture, run.detector).eval()
        state = safetensors.torch.load_file(folder / "model-static.safetensors")
        model.load_state_dict(state, strict=False)
        with torch.no_grad():
            found.append(model.dense.body.stages(images, None)[0][-1])
    torch.testing.assert_close(found[1], found[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("detector", {"width": 24}),
        ("detector", {"head_convs": 2}),
        ("detector", {"mask_convs": 2}),
        ("stages", {"width": 16}),
    ],
)
def test_a_detector_of_another_shape_or_a_wider_one_is_refused(
    nuclei: Path, dynamic_detector: Path, tmp_path: Path, part: str, changes: dict[str, int]
) -> None:
    detector = {**tiny_dynamic(nuclei)["detector"], **changes}
    path = write_dynamic(
        tmp_path / "again.yaml",
        nuclei,
        init={"source": "run", "path": str(dynamic_detector)},
        **{part: detector if part == "detector" else larger(nuclei, **changes)},
    )
    with pytest.raises(ConfigError, match=r"'detector' must be its own, .* widths of 'stages'"):
        train(path, tmp_path / "again", {}, lambda line: None)


def test_the_tiny_set_has_a_validation_split(nuclei: Path) -> None:
    assert len(read_scenes(nuclei, "validation").scenes) == 1
    assert detection_trainer.phases_of(DetectionConfig.model_validate(tiny_dynamic(nuclei))) == (
        "static",
        "dynamic",
    )
