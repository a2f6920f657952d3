"""Accuracy of points: intervals, and an engine that answers by colour over real files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from engines import evaluation
from engines.core import OperatingPoint, Output, UInt8Array, check_batch, static_point
from engines.errors import ConfigError, InvalidInput
from engines.evaluation import (
    LabelledImages,
    PointResult,
    accuracy_of,
    differences,
    evaluate_points,
    summary,
    wilson,
)
from engines.folders import relabel, scan_folder

# Intervals


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [
        (90, 100, 0.8256, 0.9448),
        (50, 100, 0.4038, 0.5962),
        (1, 10, 0.0179, 0.4042),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (0, 1, 0.0, 0.7935),
        (1, 1, 0.2065, 1.0),
    ],
)
def test_wilson_intervals_of_the_literature(
    right: int, total: int, low: float, high: float
) -> None:
    assert wilson(right, total) == pytest.approx((low, high), abs=5e-5)


@given(total=st.integers(1, 5000), data=st.data())
def test_an_interval_holds_its_share_and_mirrors(total: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, total))
    low, high = wilson(right, total)
    assert 0.0 <= low <= right / total <= high <= 1.0
    assert wilson(total - right, total) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize(("right", "total"), [(0, 0), (-1, 5), (6, 5), (0, -3)])
def test_what_is_no_share_is_refused(right: int, total: int) -> None:
    with pytest.raises(InvalidInput, match=f"{right} of {total} is not a share"):
        wilson(right, total)


@pytest.mark.parametrize(("right", "total"), [(0, 1), (1, 1), (0, 2000), (2000, 2000), (7, 9)])
def test_an_accuracy_is_one_that_a_manifest_takes(right: int, total: int) -> None:
    found = accuracy_of(right, total, "test")
    assert (found.value, found.images, found.split) == (right / total, total, "test")
    assert (found.low, found.high) == wilson(right, total)


# Points


LABELS = ("blue", "green", "red")
FULL = static_point("full", 16, 1)
SMALL = static_point("small", 8, 1)
SKIP = OperatingPoint(name="skip", image_size=16, thresholds=(0.5,), caps=(None,))


class ByColour:
    """Sure at `full`; unsure at `small`; says red to everything at `skip`."""

    name = "by colour"
    precision = "exact"

    def __init__(self) -> None:
        self.batches: list[tuple[str, int]] = []

    def infer(self, images: UInt8Array, points: Sequence[OperatingPoint]) -> Output:
        check_batch(images, points, 1)
        self.batches.append((points[0].name, len(images)))
        share = {"full": 1.0, "small": 0.6, "skip": 0.0}[points[0].name]
        colours = images.mean(axis=(1, 2))[:, ::-1].argmax(axis=1)
        red = np.eye(3)[np.full(len(images), 2)]
        probabilities = share * np.eye(3)[colours] + (1 - share) * red
        return Output(
            arrays={"probabilities": probabilities.astype(np.float32)},
            activation=np.full((len(images), 1), 1.0 if share else 0.25, np.float32),
            macs=np.full(len(images), 100.0 if points[0].image_size == 16 else 30.0),
            durations_s={},
        )

    def close(self) -> None:
        """Nothing to release."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@pytest.fixture
def pictures(tmp_path: Path) -> LabelledImages:
    """Two blue, four green and three red ones, the last of which is labelled red but blue."""
    colours = {"blue": (20, 30, 220), "green": (10, 210, 30), "red": (230, 20, 10)}
    for label, count in (("blue", 2), ("green", 4), ("red", 3)):
        (tmp_path / label).mkdir()
        for i in range(count):
            colour = colours["blue"] if (label, i) == ("red", 2) else colours[label]
            Image.new("RGB", (24, 20), colour).save(tmp_path / label / f"{i}.png")
    return LabelledImages(scan_folder(tmp_path), 1.0)


def test_pictures_come_in_chunks_at_every_size(pictures: LabelledImages) -> None:
    chunks = [*pictures.chunks([8, 16], count=4)]
    assert [len(labels) for labels, _ in chunks] == [4, 4, 1]
    assert np.concatenate([labels for labels, _ in chunks]).tolist() == [0, 0, 1, 1, 1, 1, 2, 2, 2]
    for labels, pixels in chunks:
        assert {size: views.shape for size, views in pixels.items()} == {
            size: (len(labels), size, size, 3) for size in (8, 16)
        }


def test_each_point_answers_every_picture(pictures: LabelledImages) -> None:
    engine = ByColour()
    full, small, skip = evaluate_points(engine, [FULL, SMALL, SKIP], pictures)
    assert engine.batches == [("full", 9), ("small", 9), ("skip", 9)]
    by_eye = [0, 0, 1, 1, 1, 1, 2, 2, 0]
    assert full.predictions.tolist() == small.predictions.tolist() == by_eye
    assert skip.predictions.tolist() == [2] * 9
    labels = pictures.folder.labels
    assert [result.right(labels) for result in (full, small, skip)] == [8, 8, 3]
    assert full.activation.shape == (9, 1)
    assert small.macs.tolist() == [30.0] * 9


def test_losses_are_of_the_right_class_and_finite(pictures: LabelledImages) -> None:
    _, small, skip = evaluate_points(ByColour(), [FULL, SMALL, SKIP], pictures)
    assert small.losses[0] == pytest.approx(-math.log(0.6))
    assert small.losses[8] == pytest.approx(-math.log(0.4))
    assert skip.losses[0] == pytest.approx(-math.log(1e-12)), "impossible, but not infinite"
    assert skip.losses[6] == 0.0


def test_chunks_are_put_together(pictures: LabelledImages, monkeypatch: pytest.MonkeyPatch) -> None:
    [whole] = evaluate_points(ByColour(), [FULL], pictures)
    chunks = LabelledImages.chunks
    monkeypatch.setattr(LabelledImages, "chunks", lambda self, sizes: chunks(self, sizes, 2))
    engine = ByColour()
    [parts] = evaluate_points(engine, [FULL], pictures)
    assert [count for _, count in engine.batches] == [2, 2, 2, 2, 1]
    for name in ("predictions", "losses", "macs", "activation"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


def test_a_summary_has_one_row_a_point(pictures: LabelledImages) -> None:
    results = evaluate_points(ByColour(), [FULL, SMALL, SKIP], pictures)
    full, small, skip = summary(results, pictures.folder.labels)
    low, high = wilson(8, 9)
    assert full == {
        "name": "full",
        "image_size": 16,
        "accuracy": 8 / 9,
        "accuracy_low": low,
        "accuracy_high": high,
        "agreement": 1.0,
        "log_loss": pytest.approx(-math.log(1e-12) / 9),
        "macs_ratio": 1.0,
        "activation": 1.0,
        "images": 9,
    }
    assert (small["macs_ratio"], small["agreement"], small["image_size"]) == (0.3, 1.0, 8)
    assert (skip["accuracy"], skip["agreement"]) == (3 / 9, 2 / 9)
    assert skip["activation"] == 0.25


def test_a_network_without_maskers_is_all_active() -> None:
    result = PointResult(
        point=static_point("full", 8, 0),
        predictions=np.zeros(2, np.int64),
        losses=np.zeros(2),
        macs=np.ones(2),
        activation=np.ones((2, 0), np.float32),
    )
    assert summary([result], np.zeros(2, np.int64))[0]["activation"] == 1.0


def result_with(predictions: list[int], decisions: list[list[bool]] | None) -> PointResult:
    return PointResult(
        point=FULL,
        predictions=np.array(predictions),
        losses=np.zeros(len(predictions)),
        macs=np.ones(len(predictions)),
        activation=np.ones((len(predictions), 1), np.float32),
        decisions=None if decisions is None else np.array(decisions),
    )


def test_differences_are_shares_of_answers_and_of_decisions() -> None:
    ours = result_with([1, 2], [[True, False], [True, True]])
    exact = result_with([1, 3], [[True, True], [True, True]])
    assert differences([ours], [exact]) == [{"answers_differ": 0.5, "decisions_differ": 0.25}]
    silent = result_with([1, 2], None)
    assert differences([silent], [exact]) == [{"answers_differ": 0.5}]


def test_progress_is_told_every_few_seconds(
    pictures: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    evaluate_points(ByColour(), [FULL], pictures, say=lines.append)
    assert lines == []
    monkeypatch.setattr(evaluation, "_SAY_EVERY_S", -1.0)
    evaluate_points(ByColour(), [FULL], pictures, say=lines.append)
    assert lines == ["9 of 9 images"]


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"not a picture", r"green.0\.png': .*JPEG, PNG"), (None, r"cannot read '.*green.0\.png'")],
)
def test_a_file_that_cannot_be_used_is_named(
    pictures: LabelledImages, content: bytes | None, says: str
) -> None:
    path = pictures.folder.root / "green" / "0.png"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=says):
        evaluate_points(ByColour(), [FULL], pictures)


# Folders and the labels of a network


def test_pictures_are_numbered_as_the_network_numbers_its_labels(pictures: LabelledImages) -> None:
    found = relabel(pictures.folder, ("red", "white", "green", "blue"))
    assert found.classes == ("red", "white", "green", "blue")
    assert found.files == pictures.folder.files
    assert found.labels.dtype == np.int64
    assert found.labels.tolist() == [3, 3, 2, 2, 2, 2, 0, 0, 0]
    assert pictures.folder.labels.tolist() == [0, 0, 1, 1, 1, 1, 2, 2, 2], "the given one stays"


def test_folders_that_name_no_label_are_listed(pictures: LabelledImages) -> None:
    """Such as a folder of splits, given where one of classes was meant."""
    with pytest.raises(ConfigError, match="no label is called blue, red; the labels are: green, x"):
        relabel(pictures.folder, ("green", "x"))
