"""From a trained detector to its bundle, and what evaluating that says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("faster_coco_eval")

from engines.bundle import read_bundle
from engines.errors import BundleError, ConfigError, InvalidInput
from engines.evaluation.detection import evaluate_detector
from engines.export.int8 import quantise_bundle
from engines.export.run import export
from engines.latency.answers import answer
from engines.latency.questions import Question
from engines.training.run import train
from tests.engines.detection.tiny import voc_object, write_nuclei, write_voc
from tests.engines.training.tiny_detection import tiny_detection

pytestmark = pytest.mark.torch


def _quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    counts = {"train": (4, 3), "validation": (3, 0, 5), "test": (2,)}
    return write_nuclei(tmp_path_factory.mktemp("nuclei"), counts)


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump({**tiny_detection(root), "epochs": 1}))
    return train(file, folder / "run", {"notices": ["Somebody's notice."]}, _quiet)


@pytest.fixture(scope="module")
def bundle(run: Path) -> Path:
    export(run, run.parent / "tiny.laud", say=_quiet)
    return run.parent / "tiny.laud"


def test_a_bundle_has_the_sizes_as_points_and_their_precision(bundle: Path, root: Path) -> None:
    found = read_bundle(bundle)
    manifest = found.manifest
    assert manifest.task == "segmentation"
    assert manifest.labels == ("nucleus",)
    assert manifest.provenance.notices == ("Somebody's notice.",)
    assert str(root) not in manifest.model_dump_json()
    assert {array.dtype for array in found.weights.values()} == {np.dtype(np.float16)}
    assert [(r.point.name, r.point.image_size) for r in manifest.points] == [
        ("full", 64), ("size-32", 32),
    ]  # fmt: skip
    for record in manifest.points:
        assert record.detection is not None
        assert record.accuracy is not None
        assert record.detection.max_detections == (1, 100, 500)
        assert record.detection.images == record.accuracy.images == 3
        assert record.accuracy.value == record.detection.mask_ap50
        assert record.accuracy.low <= record.accuracy.value <= record.accuracy.high
    assert manifest.points[1].macs_ratio < 0.7


def test_evaluating_again_says_the_same(bundle: Path, root: Path) -> None:
    results = evaluate_detector(bundle, root / "validation")
    for record, result in zip(read_bundle(bundle).manifest.points, results, strict=True):
        assert result.scores == record.detection
        assert result.macs == record.macs
        assert result.padding == 0.0
        assert result.latency_s > 0
    (one,) = evaluate_detector(bundle, root / "test", points=["size-32"])
    assert one.point.name == "size-32"
    assert one.flat()["ap50"] == one.scores.mask_ap50


def test_pictures_of_other_labels_are_refused(bundle: Path, tmp_path: Path) -> None:
    voc = write_voc(tmp_path / "voc", voc_object("cell", 1, 1, 20, 20))
    with pytest.raises(ConfigError, match="labels are cell, those of the network are nucleus"):
        evaluate_detector(bundle, voc / "train")


def test_what_detectors_have_not_is_refused(bundle: Path, run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="drops no points"):
        export(run, tmp_path / "b.laud", all_points=True, say=_quiet)
    with pytest.raises(BundleError, match="of task 'segmentation'"):
        quantise_bundle(bundle, tmp_path / "b.laud", calibration=tmp_path)
    with pytest.raises(BundleError, match="laud predict takes bundles that label images"):
        answer(Question(what=str(bundle)))
    with pytest.raises(InvalidInput, match="no operating point"):
        evaluate_detector(bundle, tmp_path, points=["other"])
    with pytest.raises(BundleError, match="finds no objects"):
        evaluate_detector("zoo:clothing", tmp_path)
