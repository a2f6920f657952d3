"""`laud evaluate` of a detector: what it prints and refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("faster_coco_eval")

from engines.evaluation import detection_run as evaluation
from tests.engines.detection.bundles import detector_bundle
from tests.engines.detection.networks import DETECTOR
from tests.engines.detection.tiny import voc_object, write_nuclei, write_voc
from tests.engines.evaluation.detection_reports import detection_report
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
    done = laud("evaluate", bundle, test_split, "--latency-seconds", "0.01")
    assert done.status == 0, done.err
    head, *table = done.out.splitlines()
    assert head.startswith("cpu, fp32, ")
    assert head.endswith("objects; maxDets 1/100/500")
    assert not any("…" in line for line in table)
    assert max(map(len, table)) <= 80
    text = " ".join(done.out.split())
    for said in ("boxes", "masks", "costs", "AP50 [95 %]", "AP75", "p50, ms", "p95, ms", "padding"):
        assert said in text
    assert "bootstrap over pictures, 500 resamples" in text
    assert "latency: one image a call, 20 calls a point" in text
    # Of boxes, of masks, by size of object, single answers, and what it costs.
    assert sum(line.strip().startswith("size-32") for line in table) == 5


def test_intervals_stay_on_their_line(
    laud: Laud, bundle: str, test_split: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With names and numbers as long as real ones."""
    made = detection_report(skips=20.0)
    monkeypatch.setattr(evaluation, "evaluate_detector", lambda *arguments: made)
    lines = laud("evaluate", bundle, test_split).out.splitlines()
    rows = [line.split() for line in lines if line.strip().startswith("skip-512-50")]
    assert rows[0][1:] == ["512", ".550", "[.510", ".580]", ".850", "[.810", ".880]", "-"]
    # By size of object, single answers, costs, and the rival.
    assert [len(row) for row in rows[1:]] == [4, 6, 8, 7]


def test_latency_may_be_left_out(laud: Laud, bundle: str, test_split: str) -> None:
    done = laud("evaluate", bundle, test_split, "--no-latency")
    assert done.status == 0, done.err
    assert "latency" not in done.out
    (row,) = [line for line in done.out.splitlines() if line.strip().startswith("size-32")][-1:]
    assert row.split()[3:] == ["-", "-", "-", "-", "0.0%"]


def test_boxes_alone_have_one_table(laud: Laud, tmp_path: Path) -> None:
    boxes = detector_bundle(tmp_path / "boxes.laud", DETECTOR.model_copy(update={"masks": False}))
    root = write_voc(tmp_path / "voc", voc_object("nucleus", 3, 4, 20, 22))
    done = laud("evaluate", boxes.path, root / "train", "--no-latency")
    assert done.status == 0, done.err
    titles = [line.strip() for line in done.out.splitlines()]
    assert "boxes" in titles
    assert "masks" not in titles
    # The picture of 40 x 30 fills three quarters of its square.
    assert "25.0%" in done.out


def test_it_is_handed_on_as_json(laud: Laud, bundle: str, test_split: str) -> None:
    done = laud("evaluate", bundle, test_split, "--point", "size-32", "--json", "--no-latency")
    report = json.loads(done.out)
    (point,) = report["points"]
    assert (report["engine"], report["precision"], report["task"]) == (
        "cpu", "fp32", "segmentation",
    )  # fmt: skip
    assert (report["resamples"], report["latency_noise"]) == (500, None)
    assert point["name"] == "size-32"
    assert point["max_detections"] == [1, 100, 500]
    for name in ("box_ap", "mask_ap50"):
        assert 0 <= point[f"{name}_low"] <= point[name] <= point[f"{name}_high"]
    assert point["accuracy"] == point["mask_ap50"]
    assert point["accuracy_high"] == point["mask_ap50_high"]
    assert point["latency_p50_ms"] is None


def test_the_trade_off_is_drawn(laud: Laud, bundle: str, test_split: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    png = tmp_path / "things.png"
    done = laud(
        "evaluate", bundle, test_split, "--latency-seconds", "0.01", "--pareto", png, "--json"
    )
    assert done.status == 0, done.err
    assert png.read_bytes().startswith(b"\x89PNG")
    refused = laud("evaluate", bundle, test_split, "--no-latency", "--pareto", png)
    assert "cannot go with --no-latency" in assert_one_line(refused)
    elsewhere = laud("evaluate", bundle, test_split, "--pareto", tmp_path / "none" / "p.png")
    assert "no such folder" in assert_one_line(elsewhere)


def test_the_reference_says_the_same(laud: Laud, bundle: str, test_split: str) -> None:
    (own, slow) = (
        json.loads(laud("evaluate", bundle, test_split, "--engine", engine, "--json").out)["points"]
        for engine in ("cpu", "reference")
    )
    for one, other in zip(own, slow, strict=True):
        assert one["box_ap"] == pytest.approx(other["box_ap"], abs=1e-3)
        assert one["mask_ap"] == pytest.approx(other["mask_ap"], abs=1e-3)


def test_without_what_scores_it_says_so_before_the_work(
    laud: Laud, bundle: str, test_split: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    monkeypatch.setattr(evaluation, "judge", None)
    line = assert_one_line(laud("evaluate", bundle, test_split))
    assert "this command needs faster_coco_eval" in line
    assert "pip install -c constraints.txt '.[evaluate]'" in line


def test_options_of_classification_are_refused(laud: Laud, bundle: str, test_split: str) -> None:
    done = laud("evaluate", bundle, test_split, "--reference", "--baseline", bundle)
    assert assert_one_line(done).startswith("--baseline, --reference: not of a detector")
    done = laud("evaluate", bundle, test_split, "--sizes", "96,100")
    assert "a detector's images are multiples of 32, got 100" in assert_one_line(done)
    done = laud("evaluate", bundle, test_split, "--sizes", "96,96")
    assert "every size is to be given once, got 96, 96" in assert_one_line(done)
    done = laud("evaluate", bundle, test_split, "--fixed-from", test_split)
    assert "it goes with --fixed-masks" in assert_one_line(done)
    done = laud("evaluate", bundle, test_split, "--fixed-masks", "--engine", "reference")
    assert "need an engine that takes decisions" in assert_one_line(done)
    done = laud("evaluate", bundle, test_split, test_split)
    assert "on one split, got 2 folders" in assert_one_line(done)
    done = laud("evaluate", bundle, test_split, "--precision", "int8")
    assert "has no scales for int8" in assert_one_line(done)
    done = laud("evaluate", bundle, test_split, "--seed", "-1")
    assert "a seed is 0 or more, got -1" in assert_one_line(done)
    done = laud("evaluate", bundle, test_split, "--latency-seconds", "0")
    assert "above 0" in assert_one_line(done)


def test_inspect_shows_a_detector(laud: Laud, bundle: str) -> None:
    done = laud("inspect", bundle)
    assert done.status == 0
    assert "things: segmentation, 1 labels" in done.out
