"""A detector's bundle gets int8 scales from pictures; its points are calibrated and measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("faster_coco_eval")

from engines.architecture import ResNet
from engines.bundle import Bundle, Manifest, PointRecord, Quantisation, read_bundle, write_bundle
from engines.core import Engine, OperatingPoint
from engines.errors import BundleError, ConfigError, EngineError
from engines.evaluation.detection_run import evaluate_detector
from engines.export import drafts
from engines.export.int8 import quantise_bundle
from engines.export.ranges import METHODS
from engines.reference.detection import ReferenceDetector
from tests.engines.cpu import detectors
from tests.engines.detection.tiny import voc_object, write_nuclei, write_voc

pytestmark = pytest.mark.torch

SIZE = 64
NET = ResNet(
    **{
        **{name: getattr(detectors.SKIPPING, name) for name in ResNet.model_fields},
        "num_classes": 1,
    }
)
DETECTOR = detectors.DYNAMIC.model_copy(update={"mask_convs": 1, "head_convs": 1})
MASKERS = detectors.num_maskers(NET, DETECTOR)


def quiet(line: str) -> None:
    pass


@dataclasses.dataclass(frozen=True)
class Made:
    """A float bundle, its int8 form, the pictures of both, and what the making said."""

    pictures: Path
    floats: Bundle
    integers: Bundle
    said: list[str]

    @property
    def scales(self) -> Quantisation:
        assert self.integers.manifest.quantisation is not None
        return self.integers.manifest.quantisation


def float_bundle(path: Path) -> Bundle:
    """Random weights, and a point that skips about half."""
    source = detectors.bundle(NET, DETECTOR, sizes=(SIZE, 32), bias=-3.0)
    skip = OperatingPoint(
        name="skip", image_size=SIZE, thresholds=(0.1,) * MASKERS, caps=(None,) * MASKERS
    )
    points = (
        *source.manifest.points,
        PointRecord(point=skip, activation=(0.5,) * MASKERS, macs=5e5, macs_ratio=0.5),
    )
    manifest = source.manifest.model_copy(update={"labels": ("nucleus",), "points": points})
    write_bundle(path, Manifest.model_validate(manifest.model_dump()), source.weights)
    return read_bundle(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("int8")
    pictures = write_nuclei(place / "nuclei", {"train": (4, 3), "validation": (3, 0, 5)})
    floats = float_bundle(place / "floats.laud")
    said: list[str] = []
    integers = quantise_bundle(
        floats.path,
        place / "int8.laud",
        calibration=pictures / "train",
        data=pictures,
        say=said.append,
    )
    yield Made(pictures, floats, integers, said)
    torch.set_num_threads(before)


def test_floats_stay_as_they_are(made: Made) -> None:
    without = made.integers.manifest.model_copy(update={"quantisation": None})
    assert without == made.floats.manifest
    for name, value in made.floats.weights.items():
        np.testing.assert_array_equal(made.integers.weights[name], value)


def test_every_map_has_a_scale(made: Made) -> None:
    scales = made.scales.detector
    assert scales is not None
    assert made.scales.features is None
    counts = {name: len(getattr(scales, name)) for name in ("sums", "classes", "boxes", "masks")}
    assert counts == {"sums": 4, "classes": 1, "boxes": 1, "masks": 2}
    note = made.scales.calibration
    assert (note.images, note.split) == (2, "train")
    assert len(set(scales.sums)) == 4


def test_the_nearest_of_three_ways_to_clip_is_taken(made: Made) -> None:
    alike = {
        line.split("'")[1]: float(line.split(": ")[1].split("%")[0])
        for line in made.said
        if line.startswith("clipping by")
    }
    assert set(alike) == set(METHODS)
    assert alike[made.scales.calibration.method] == max(alike.values()) > 50


def test_what_it_records_is_what_evaluation_says_in_int8(made: Made) -> None:
    report = evaluate_detector(made.integers.path, made.pictures / "validation")
    assert report.precision == "int8"
    records = made.integers.manifest.at("int8").points
    for record, result in zip(records, report.results, strict=True):
        assert result.point == record.point
        assert result.scores == record.detection
        assert result.dense_macs == record.macs
        assert record.accuracy is not None
        assert (record.accuracy.images, record.accuracy.split) == (3, "validation")
    assert len(made.scales.calibration.agreement) == 3
    assert made.scales.calibration.agreement[0] > 0.5


def test_points_that_skip_take_what_they_take_in_floats(made: Made) -> None:
    skip = made.integers.manifest.at("int8").point("skip")
    moved = np.subtract(skip.point.thresholds, np.float32(0.1))  # type: ignore[arg-type]
    np.testing.assert_allclose(moved, moved[0], atol=1e-5)
    floats = evaluate_detector(made.floats.path, made.pictures / "validation").results[-1]
    assert skip.macs == pytest.approx(floats.dense_macs, rel=0.03)
    assert skip.macs_ratio < 0.9


def test_without_the_native_engine_the_answer_is_the_same(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def only_reference(bundle: Bundle, *, kind: str, **options: object) -> Engine:
        if kind == "cpu":
            raise EngineError("the cpu engine was not built")
        return ReferenceDetector.from_bundle(bundle)

    monkeypatch.setattr(drafts, "load_engine", only_reference)
    said: list[str] = []
    found = quantise_bundle(
        made.floats.path,
        tmp_path / "new.laud",
        calibration=made.pictures / "train",
        data=made.pictures,
        say=said.append,
    )
    scales = found.manifest.quantisation
    assert scales is not None
    assert scales.detector == made.scales.detector
    for mine, theirs in zip(scales.points, made.scales.points, strict=True):
        assert mine.point == theirs.point
        assert mine.detection == theirs.detection
    assert any("the integer reference gives the same answers" in line for line in said)


# Refusals


def test_what_cannot_be_quantised_is_refused(made: Made, tmp_path: Path) -> None:
    def refused(source: Bundle, calibration: Path, data: Path | None = None) -> None:
        quantise_bundle(
            source.path, tmp_path / "new.laud", calibration=calibration, data=data, say=quiet
        )

    with pytest.raises(BundleError, match=r"int8\.laud' has int8 scales already"):
        refused(made.integers, made.pictures / "train")
    with pytest.raises(ConfigError, match="not a split; name a folder that has images/"):
        refused(made.floats, made.pictures)
    voc = write_voc(tmp_path / "voc", voc_object("cell", 1, 1, 20, 20))
    with pytest.raises(ConfigError, match="labels are cell, those of the network are nucleus"):
        refused(made.floats, voc / "train")
    assert not (tmp_path / "new.laud").exists()
