"""`laud evaluate` of a detector: what it prints and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("faster_coco_eval")

from tests.engines.detection.bundles import detector_bundle
from tests.engines.detection.tiny import write_nuclei
from tests.service.commands import Laud, assert_one_line

pytestmark = pytest.mark.torch


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    return str(detector_bundle(tmp_path / "things.laud").path)


@pytest.fixture
def test_split(tmp_path: Path) -> str:
    return str(write_nuclei(tmp_path / "nuclei", {"test": (3, 0)}) / "test")


def test_average_precision_is_printed_with_what_counts(
    laud: Laud, bundle: str, test_split: str
) -> None:
    done = laud("evaluate", bundle, test_split)
    assert done.status == 0, done.err
    head, *table = done.out.splitlines()
    assert head.startswith("cpu; 2 pictures, ")
    assert head.endswith("AP with maxDets 1/100/500")
    assert "mask" in "".join(table)
    assert not any("…" in line for line in table)
    assert max(map(len, table)) <= 80
    assert any(line.strip().startswith("size-32") for line in table)


def test_it_is_handed_on_as_json(laud: Laud, bundle: str, test_split: str) -> None:
    done = laud("evaluate", bundle, test_split, "--point", "size-32", "--json")
    found = json.loads(done.out)
    assert found["engine"] == "cpu"
    (point,) = found["points"]
    assert point["point"] == "size-32"
    assert point["max_detections"] == [1, 100, 500]
    assert 0 <= point["ap50_low"] <= point["mask_ap50"] == point["ap50"] <= point["ap50_high"]


def test_the_reference_says_the_same(laud: Laud, bundle: str, test_split: str) -> None:
    (own, slow) = (
        json.loads(laud("evaluate", bundle, test_split, "--engine", engine, "--json").out)["points"]
        for engine in ("cpu", "reference")
    )
    for one, other in zip(own, slow, strict=True):
        assert one["box_ap"] == pytest.approx(other["box_ap"], abs=1e-3)
        assert one["mask_ap"] == pytest.approx(other["mask_ap"], abs=1e-3)


def test_options_of_classification_are_refused(laud: Laud, bundle: str, test_split: str) -> None:
    done = laud("evaluate", bundle, test_split, "--fixed-masks", "--sizes", "96")
    assert assert_one_line(done).startswith("--sizes, --fixed-masks: not of a detector")
    done = laud("evaluate", bundle, test_split, test_split)
    assert "on one split, got 2 folders" in assert_one_line(done)


def test_inspect_shows_a_detector(laud: Laud, bundle: str) -> None:
    done = laud("inspect", bundle)
    assert done.status == 0
    assert "things: segmentation, 1 labels" in done.out
