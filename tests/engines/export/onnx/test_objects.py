"""From answers of an exported detector to objects. Needs no torch."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx")

from engines.export.onnx import objects
from engines.export.onnx.objects import Arrays, mask_feeds, surest


def answers() -> Arrays:
    """Two images, two labels, five places; what was selected is not in order."""
    rng = np.random.default_rng(0)
    selected = [[1, 0, 2], [0, 1, 4], [0, 0, 3], [1, 1, 0], [0, 0, 1]]
    return {
        "boxes": rng.random((2, 5, 4), np.float32),
        "scores": rng.random((2, 2, 5), np.float32),
        "selected": np.array(selected, np.int64),
        **{f"features_{i}": np.full((2, 8, 4 >> i, 4 >> i), i, np.float32) for i in range(4)},
    }


def test_objects_are_in_order_of_images_and_scores() -> None:
    found = answers()
    objects = surest(found)
    assert objects.images.tolist() == [0, 0, 0, 1, 1]
    for i in range(2):
        scores = objects.scores[objects.images == i]
        assert (np.diff(scores) <= 0).all()
    rows = {
        (int(image), int(label)): (box, float(score))
        for image, label, box, score in zip(
            objects.images, objects.labels, objects.boxes, objects.scores, strict=True
        )
    }
    box, score = rows[0, 1]
    np.testing.assert_array_equal(box, found["boxes"][0, 4])
    assert score == found["scores"][0, 1, 4]


def test_an_image_has_so_many_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    every = surest(answers())
    monkeypatch.setattr(objects, "MOST_DETECTIONS", 2)
    found = surest(answers())
    assert found.images.tolist() == [0, 0, 1, 1]
    np.testing.assert_array_equal(found.scores, every.scores[[0, 1, 3, 4]])


def test_nothing_was_selected() -> None:
    nothing = {**answers(), "selected": np.zeros((0, 3), np.int64)}
    found = surest(nothing)
    assert found.boxes.shape == (0, 4)
    assert mask_feeds(nothing, found)["images"].shape == (0,)


def test_the_mask_head_gets_the_pyramid_boxes_and_images() -> None:
    found = answers()
    inputs = mask_feeds(found, surest(found))
    assert list(inputs) == [f"features_{i}" for i in range(4)] + ["boxes", "images"]
    assert inputs["features_2"] is found["features_2"]
    assert inputs["boxes"].dtype == np.float32
    assert inputs["images"].dtype == np.int64
