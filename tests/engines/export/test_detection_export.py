"""From a trained detector to its bundle, and what evaluating that says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("faster_coco_eval")

from engines.bundle import read_bundle
from engines.errors import BundleError, ConfigError, InvalidInput
from engines.evaluation.detection import DetectionPlan
from engines.evaluation.detection_run import evaluate_detector
from engines.export.run import export
from engines.latency.answers import answer
from engines.latency.questions import Question
from engines.training.run import train
from tests.engines.detection.tiny import discs, shown, voc_object, write_nuclei, write_voc
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
    # Of a network that knows nothing yet, all may be equally good.
    export(run, run.parent / "tiny.laud", all_points=True, say=_quiet)
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
    assert manifest.dial is not None
    assert [each.name for each in manifest.dial.candidates] == ["full", "size-32"]
    for each, record in zip(manifest.dial.candidates, manifest.points, strict=True):
        assert record.accuracy is not None
        assert (each.accuracy, each.log_loss) == (record.accuracy.value, None)
        assert each.latency_ms > 0


def test_evaluating_again_says_the_same(bundle: Path, root: Path) -> None:
    report = evaluate_detector(bundle, root / "validation")
    manifest = read_bundle(bundle).manifest
    for record, result in zip(manifest.points, report.results, strict=True):
        assert result.scores == record.detection
        assert result.dense_macs == record.macs
        assert result.padding == 0.0
        assert record.accuracy is not None
        assert result.accuracy == (
            record.accuracy.value, record.accuracy.low, record.accuracy.high
        )  # fmt: skip
    assert report.latencies == {}
    assert report.timing is None
    part = evaluate_detector(bundle, root / "test", DetectionPlan(points=("size-32",)))
    (one,) = part.flat()["points"]
    assert one["name"] == "size-32"
    assert one["accuracy"] == one["mask_ap50"]
    assert one["macs_ratio"] is None, "full was not measured"


def test_padding_and_latency_are_told_by_point(bundle: Path, tmp_path: Path) -> None:
    """Pictures of 48 x 24 fill half the square."""
    folder = tmp_path / "wide" / "test"
    for i in range(2):
        numbered = discs(2, seed=i, height=24)
        for kind, pixels in (("images", shown(numbered)), ("labels", numbered)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / kind / f"{i}.png")
    report = evaluate_detector(bundle, folder, DetectionPlan(latency_s=0.01))
    assert report.timing is not None
    assert report.timing.calls == 20
    for point in report.flat()["points"]:
        assert point["padding"] == 0.5
        assert 0 < point["latency_p50_ms"] <= point["latency_p95_ms"]
        for name in ("box_ap", "box_ap50", "box_ap75", "mask_ap", "mask_ap50", "mask_ap75"):
            assert 0 <= point[f"{name}_low"] <= point[name] <= point[f"{name}_high"] <= 1
    with pytest.raises(InvalidInput, match="seconds of timing must be above 0"):
        DetectionPlan(latency_s=0.0)


def test_a_run_gets_int8_scales_as_its_bundle_does(
    bundle: Path, run: Path, root: Path, tmp_path: Path
) -> None:
    found = export(
        run, tmp_path / "int8.laud", calibration=root / "train", all_points=True, say=_quiet
    )
    floats = read_bundle(bundle).manifest
    assert found.manifest.points == floats.points
    assert found.manifest.dial is not None
    assert found.manifest.dial.precision == "int8"
    scales = found.manifest.quantisation
    assert scales is not None
    assert scales.detector is not None
    assert [record.point for record in scales.points] == [record.point for record in floats.points]


def test_pictures_of_other_labels_are_refused(bundle: Path, tmp_path: Path) -> None:
    voc = write_voc(tmp_path / "voc", voc_object("cell", 1, 1, 20, 20))
    with pytest.raises(ConfigError, match="labels are cell, those of the network are nucleus"):
        evaluate_detector(bundle, voc / "train")


def test_what_detectors_have_not_is_refused(bundle: Path, run: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="laud predict takes bundles that label images"):
        answer(Question(what=str(bundle)))
    with pytest.raises(InvalidInput, match="no operating point"):
        evaluate_detector(bundle, tmp_path, DetectionPlan(points=("other",)))
    with pytest.raises(BundleError, match="finds no objects"):
        evaluate_detector("zoo:clothing", tmp_path)
