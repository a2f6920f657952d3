"""Points over labelled pictures: real files, and an engine that answers by colour."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from engines.errors import ConfigError, InvalidInput
from engines.evaluation import LabelledImages, Trial, evaluate_points, points, run_trials
from engines.evaluation.points import Forced, check_forces
from engines.folders import relabel
from tests.engines.evaluation import masking
from tests.engines.evaluation.by_colour import FULL, SKIP, SMALL, ByColour


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
    assert small.confidences is not None
    assert small.confidences.tolist() == pytest.approx([0.6] * 6 + [1.0] * 2 + [0.6])


def test_chunks_are_put_together(pictures: LabelledImages, monkeypatch: pytest.MonkeyPatch) -> None:
    [whole] = evaluate_points(ByColour(), [FULL], pictures)
    chunks = LabelledImages.chunks
    monkeypatch.setattr(LabelledImages, "chunks", lambda self, sizes: chunks(self, sizes, 2))
    engine = ByColour()
    [parts] = evaluate_points(engine, [FULL], pictures)
    assert [count for _, count in engine.batches] == [2, 2, 2, 2, 1]
    for name in ("predictions", "losses", "macs", "activation"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


def test_forced_decisions_go_to_the_images_that_they_are_of(
    pictures: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunk by chunk; and one row holds for every image."""
    chunks = LabelledImages.chunks
    monkeypatch.setattr(LabelledImages, "chunks", lambda self, sizes: chunks(self, sizes, 4))
    units = np.random.default_rng(0).random((9, 5)) < 0.5
    each = Trial(masking.SKIP, Forced(units, masking.COUNTS))
    same = Trial(masking.FULL, Forced(units[:1], masking.COUNTS))
    two_classes = replace(pictures, folder=replace(pictures.folder, labels=np.zeros(9, np.int64)))
    by_image, for_all = run_trials(masking.Masking(), [each, same], two_classes)
    assert by_image.decisions is not None
    assert (by_image.decisions == units).all()
    assert by_image.macs.tolist() == (masking.macs_of(units) + 5.0).tolist(), "maskers are asked"
    assert for_all.macs.tolist() == [masking.macs_of(units[:1])[0]] * 9


def test_an_engine_that_decides_alone_cannot_be_forced() -> None:
    check_forces(masking.Masking())
    with pytest.raises(InvalidInput, match="by colour engine asks its own maskers only"):
        check_forces(ByColour())


def test_progress_is_told_every_few_seconds(
    pictures: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    evaluate_points(ByColour(), [FULL], pictures, say=lines.append)
    assert lines == []
    monkeypatch.setattr(points, "_SAY_EVERY_S", -1.0)
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
