"""`laud inspect` and `laud evaluate`: what they print of a bundle, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engines.bundle import read_bundle
from tests.service.commands import Laud, assert_one_line
from tests.service.process import bundle_in
from tests.service.scripted import LABELS, ScriptedEngine, jpeg, manifest, quantised


@pytest.mark.parametrize("name", ["zoo:nothing", "nowhere.laud"])
def test_missing_bundle_is_refused(laud: Laud, name: str) -> None:
    assert name in assert_one_line(laud("inspect", name))


def test_inspect_prints_the_manifest_as_json(laud: Laud, tmp_path: Path) -> None:
    bundle = bundle_in(tmp_path)
    done = laud("inspect", bundle, "--json")
    printed = json.loads(done.out)
    assert done.status == 0
    assert printed.pop("hash") == (found := read_bundle(bundle)).hash
    assert printed == found.manifest.model_dump(mode="json")


def test_inspect_prints_a_summary(laud: Laud, tmp_path: Path) -> None:
    done = laud("inspect", bundle_in(tmp_path))
    assert done.status == 0
    assert "colours: classification, 3 labels" in done.out
    assert "labels: red, green, blue" in done.out
    assert "1x4 spatial S=2" in done.out
    for name in ("full", "small", "skip"):
        assert name in done.out


def test_inspect_prints_points_and_calibration_of_int8_too(laud: Laud, tmp_path: Path) -> None:
    done = laud("inspect", bundle_in(tmp_path, quantised()))
    floating, heading, int8 = done.out.partition("int8: calibrated on 64 images of train (mse)")
    assert heading
    for text, ratio in ((floating, "0.700"), (int8, "0.600")):
        (row,) = [line for line in text.splitlines() if "skip" in line]
        assert ratio in row


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two pictures a class, but one of the red ones is blue."""
    root = tmp_path / "pictures"
    for label in LABELS:
        (root / label).mkdir(parents=True)
        for i in range(2):
            colour = "blue" if (label, i) == ("red", 1) else label
            (root / label / f"{i}.jpg").write_bytes(jpeg(colour))
    return root


def test_evaluate_prints_every_point_as_json(
    laud: Laud, scripted: ScriptedEngine, tmp_path: Path, pictures: Path
) -> None:
    bundle = bundle_in(tmp_path)
    done = laud("evaluate", bundle, pictures, "--engine", "scripted", "--json")
    assert done.status == 0, done.err
    printed = json.loads(done.out)
    assert printed["bundle"] == read_bundle(bundle).hash
    assert (printed["engine"], printed["precision"]) == ("scripted", "fp32")
    points = {point["name"]: point for point in printed["points"]}
    assert [*points] == [record.point.name for record in manifest().points]
    full = points["full"]
    assert full["images"] == 6
    assert full["accuracy"] == pytest.approx(5 / 6, abs=1e-4)
    assert full["accuracy_low"] < full["accuracy"] < full["accuracy_high"]
    assert (full["agreement"], full["macs_ratio"], full["activation"]) == (1.0, 1.0, 1.0)
    assert (points["skip"]["macs_ratio"], points["skip"]["activation"]) == (0.5, 0.5)
    assert scripted.is_closed


def test_evaluate_prints_a_table_of_the_asked_points(
    laud: Laud, scripted: ScriptedEngine, tmp_path: Path, pictures: Path
) -> None:
    options = ("--engine", "scripted", "--point", "small")
    done = laud("evaluate", bundle_in(tmp_path), pictures, *options)
    assert done.status == 0, done.err
    (row,) = [line for line in done.out.splitlines() if "0.833" in line]
    assert "small" in row
    assert {*scripted.batches[0]} <= {"full", "small"}


@pytest.mark.parametrize(
    ("precision", "thresholds"), [("fp32", (0.0, 0.5)), ("int8", (-1.0, -0.5))]
)
def test_evaluate_takes_the_points_of_the_engines_precision(
    laud: Laud,
    scripted: ScriptedEngine,
    tmp_path: Path,
    pictures: Path,
    precision: str,
    thresholds: tuple[float, float],
) -> None:
    scripted.precision = precision
    options = ("--engine", "scripted", "--point", "skip", "--json")
    done = laud("evaluate", bundle_in(tmp_path, quantised()), pictures, *options)
    assert json.loads(done.out)["precision"] == precision
    assert scripted.points[0].name == "skip"
    assert scripted.points[0].thresholds == thresholds


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--point", "tiny"], "'colours' has no operating point 'tiny'; it has: full, small, skip"),
        (["--engine", "abacus"], "unknown engine 'abacus'; there are: cpu, reference"),
    ],
    ids=str,
)
def test_evaluate_refuses_what_there_is_not(
    laud: Laud, tmp_path: Path, pictures: Path, options: list[str], reason: str
) -> None:
    assert reason in assert_one_line(laud("evaluate", bundle_in(tmp_path), pictures, *options))


def test_evaluate_refuses_a_folder_without_pictures(laud: Laud, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty" in assert_one_line(laud("evaluate", bundle_in(tmp_path), tmp_path / "empty"))
