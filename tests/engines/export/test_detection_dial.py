"""A detector's points are chosen by latency and average precision, of a run as of a bundle.

Latencies and precision are made up: those of a tiny network say nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("faster_coco_eval")

from engines.bundle import Accuracy, Bundle, PointRecord, Provenance, read_bundle, write_bundle
from engines.core import Engine, static_point
from engines.detection.read import read_scenes
from engines.detection.scenes import Scene
from engines.errors import BundleError, ConfigError
from engines.evaluation.detection import DetectionPlan, DetectionResult, detection_records
from engines.evaluation.detection_run import evaluate_detector
from engines.export import dense, dial
from engines.export import detection as module
from engines.export.dense import Squares
from engines.export.detection import LEAST_GAIN
from engines.export.dial import Latencies
from engines.export.drafts import changed
from engines.export.redial import redial
from tests.engines.cpu.detectors import DYNAMIC, SKIPPING, bundle, num_maskers, random_weights
from tests.engines.detection.tiny import voc_object, write_nuclei, write_voc

pytestmark = pytest.mark.torch

NET = SKIPPING.model_copy(update={"num_classes": 1})
MASKERS = num_maskers(NET, DYNAMIC)
SIZES = (64, 32)
BUDGETS = {"dynamic": {"budgets": [0.9, 0.8]}}
CANDIDATES = ["full", "skip-64-90", "skip-64-80", "size-32", "skip-32-90", "skip-32-80"]
AP50 = dict(zip(CANDIDATES, (0.8, 0.79, 0.7, 0.6, 0.5, 0.4), strict=True))
SLOW = 9.0


class Machine:
    """Seconds of a picture at each point, SLOW where none is given, and AP50 as above."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds: dict[str, float] = {}
        self.asked: list[str] = []
        monkeypatch.setattr(dial, "measure", self.measure)
        monkeypatch.setattr(module, "detection_records", self.scored)

    def measure(self, engine: Engine, records: Sequence[PointRecord], *rest: object) -> Latencies:
        self.asked = [record.point.name for record in records]
        taken = tuple(self.seconds.get(name, SLOW) for name in self.asked)
        return Latencies(taken, noise_ratio=0.0, repeats=16, worst_s=(None,) * len(taken))

    def scored(self, results: Sequence[DetectionResult], split: str) -> tuple[PointRecord, ...]:
        found = []
        for record in detection_records(results, split):
            value = AP50[record.point.name]
            accuracy = Accuracy(value=value, low=value, high=value, images=3, split=split)
            found.append(record.model_copy(update={"accuracy": accuracy}))
        return tuple(found)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nuclei(tmp_path_factory.mktemp("nuclei"), {"validation": (3, 0, 5), "test": (2,)})


def source(path: Path, config: dict[str, Any] | None = None) -> Path:
    """A bundle of before there were dials: both sizes, and one point that skips."""
    weights = {k: v.astype(np.float16) for k, v in random_weights(NET, DYNAMIC).items()}
    made = bundle(NET, DYNAMIC, sizes=SIZES, weights=weights)
    point = static_point("skip-64-90", 64, MASKERS)
    thresholds = tuple(0.01 * i for i in range(MASKERS))
    skip = PointRecord(
        point=point.model_copy(update={"thresholds": thresholds}),
        activation=(1.0,) * MASKERS, macs=1e6, macs_ratio=1.0,
    )  # fmt: skip
    full, small = made.manifest.points
    manifest = changed(
        made,
        points=(full, skip, small),
        labels=("nucleus",),
        weights=made.manifest.weights.model_copy(update={"dtype": "fp16"}),
        provenance=Provenance(config=BUDGETS if config is None else config),
    ).manifest
    write_bundle(path, manifest, weights)
    return path


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return source(tmp_path / "old.laud")


def chosen(old: Path, root: Path, name: str = "new", said: list[str] | None = None) -> Bundle:
    lines: list[str] = [] if said is None else said
    return redial(old, old.parent / f"{name}.laud", data=root, say=lines.append)


def names(of: Bundle) -> list[str]:
    return [record.point.name for record in of.manifest.points]


def test_what_is_not_worth_its_latency_is_not_shipped(
    old: Path, root: Path, machine: Machine
) -> None:
    """One is slower than a better one, another saves 1 % of the time of `full`."""
    machine.seconds = dict(zip(CANDIDATES, (4.0, 3.0, 3.5, 1.0, 0.96, 0.5), strict=True))
    said: list[str] = []
    found = chosen(old, root, said=said)
    assert machine.asked == CANDIDATES
    assert said[0] == f"choosing from {', '.join(CANDIDATES)}"
    assert names(found) == ["full", "skip-64-90", "size-32", "skip-32-80"]
    evidence = found.manifest.dial
    assert evidence is not None
    assert evidence.least_gain_ratio == LEAST_GAIN == 0.02
    assert (evidence.precision, evidence.threads) == ("fp32", 1)
    dropped = {each.name: each.dominated_by for each in evidence.candidates if not each.kept}
    assert dropped == {"skip-64-80": "skip-64-90", "skip-32-90": "size-32"}
    assert [each.budget for each in evidence.candidates] == [None, 0.9, 0.8] * 2
    assert [each.accuracy for each in evidence.candidates] == list(AP50.values())
    assert {each.log_loss for each in evidence.candidates} == {None}
    weights = read_bundle(old).weights
    assert all(np.array_equal(found.weights[name], weights[name]) for name in weights)


def test_thresholds_keep_their_distances_at_every_budget_and_size(
    old: Path, root: Path, machine: Machine
) -> None:
    machine.seconds = {name: 4.0 - 0.5 * i for i, name in enumerate(CANDIDATES)}
    found = chosen(old, root)
    assert names(found) == CANDIDATES
    for name in ("skip-64-90", "skip-64-80", "skip-32-80"):
        thresholds = np.array(found.manifest.point(name).point.thresholds, np.float64)
        np.testing.assert_allclose(np.diff(thresholds), 0.01, atol=1e-5)
    assert found.manifest.point("skip-64-80").macs < found.manifest.point("skip-64-90").macs


def test_what_was_dropped_is_a_candidate_again(old: Path, root: Path, machine: Machine) -> None:
    machine.seconds = {"full": 4.0, "skip-64-90": 3.0}
    first = chosen(old, root, "first")
    assert names(first) == ["full", "skip-64-90"]
    machine.seconds = {"full": 4.0, "skip-32-80": 1.0, "size-32": 2.0}
    again = chosen(first.path, root, "again")
    assert machine.asked == CANDIDATES
    assert names(again) == ["full", "size-32", "skip-32-80"]
    assert again.manifest.provenance == first.manifest.provenance


def test_where_no_point_skips_any_more_sizes_are_what_is_left(
    old: Path, root: Path, machine: Machine
) -> None:
    machine.seconds = {"full": 4.0, "size-32": 2.0}
    first = chosen(old, root, "first")
    assert names(first) == ["full", "size-32"]
    assert names(chosen(first.path, root, "again")) == ["full", "size-32"]
    assert machine.asked == ["full", "size-32"]


def test_sizes_that_were_dropped_are_rivals_still(old: Path, root: Path, machine: Machine) -> None:
    machine.seconds = {"full": 4.0, "skip-64-90": 3.0}
    found = chosen(old, root)
    report = evaluate_detector(found.path, root / "test")
    assert [each.point.name for each in report.results] == ["full", "skip-64-90", "size-32"]
    assert report.results[-1].point.skips_nothing
    asked = evaluate_detector(found.path, root / "test", DetectionPlan(points=("full",)))
    assert [each.point.name for each in asked.results] == ["full"]


def test_pictures_are_decoded_once_per_size(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def counted(scene: Scene, size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        sizes.append(size)
        return np.zeros((size, size, 3), np.uint8)

    monkeypatch.setattr(dense, "square", counted)
    said: list[str] = []
    squares = Squares(read_scenes(root, "validation").scenes, said.append)
    assert squares.at(64) is squares.at(64)
    assert squares.at(32).shape == (3, 32, 32, 3)
    assert sizes == [64] * 3 + [32] * 3
    assert said == [f"preparing 3 validation images at {size} px" for size in SIZES]


def test_what_cannot_be_chosen_from_is_refused(root: Path, tmp_path: Path) -> None:
    unsaid: list[dict[str, Any]] = [{}, {"dynamic": {"budgets": [2.0]}}, {"dynamic": []}]
    for config in unsaid:
        path = source(tmp_path / f"{len(list(tmp_path.iterdir()))}.laud", config)
        with pytest.raises(BundleError, match="does not say what its points were chosen from"):
            redial(path, tmp_path / "new.laud", data=root)
    old = source(tmp_path / "old.laud")
    with pytest.raises(ConfigError, match="not a split; name a folder that has images/"):
        redial(old, tmp_path / "new.laud", data=root, calibration=root)
    cells = write_voc(tmp_path / "voc", voc_object("cell", 1, 1, 20, 20), listed="a")
    (cells / "ImageSets/Main/val.txt").write_text("a\n")
    with pytest.raises(ConfigError, match="labels are cell, those of the network are nucleus"):
        redial(old, tmp_path / "new.laud", data=cells)
    assert not (tmp_path / "new.laud").exists()
