"""When two engines count as having found the same, and how well that is scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.bench.detectors.answers import agreement, answers, precision_of
from engines.detection.scenes import Detections, scene_of

SCENE = scene_of(Path("a.png"), (40, 20), [(0, 0, 10, 10), (20, 0, 30, 10)], [0, 1])


def found(*boxes: tuple[float, ...], labels: list[int] | None = None) -> Detections:
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.linspace(0.9, 0.5, len(boxes), dtype=np.float32),
        np.array(labels or [0] * len(boxes), np.int64),
    )


def test_objects_agree_from_an_overlap_of_95_hundredths_on() -> None:
    one = found((0, 0, 100, 10), (200, 0, 210, 10))
    near, far = found((0, 0, 96, 10)), found((0, 0, 94, 10))
    assert agreement([one], [one]) == 1.0
    assert agreement([one], [near]) == 0.5
    assert agreement([near], [one]) == 0.5
    assert agreement([one], [far]) == 0.0


def test_objects_of_other_labels_or_pictures_do_not_agree() -> None:
    box = (0.0, 0.0, 10.0, 10.0)
    assert agreement([found(box)], [found(box, labels=[1])]) == 0.0
    assert agreement([found(box), found()], [found(), found(box)]) == 0.0
    assert agreement([found(box), found()], [found(box), found()]) == 1.0
    assert agreement([found()], [found()]) == 1.0


def test_answers_are_moved_to_their_pictures_surest_first() -> None:
    arrays: dict[str, Any] = {
        "boxes": np.array([[32, 0, 48, 16], [0, 0, 16, 16]], np.float32),
        "scores": np.array([0.4, 0.8], np.float32),
        "labels": np.array([1, 0]),
        "masks": np.ones((2, 4, 4), np.float32),
    }
    (detections,) = answers(lambda place: arrays, [SCENE], 64)
    assert detections.boxes.tolist() == [[0, 0, 10, 10], [20, 0, 30, 10]]
    assert detections.labels.tolist() == [0, 1]
    assert detections.masks is not None
    assert [mask.area for mask in detections.masks] == [100, 100]


def test_average_precision_is_that_of_boxes_where_there_are_no_masks() -> None:
    pytest.importorskip("faster_coco_eval")
    names = ("a", "b")
    everything = found((0, 0, 10, 10), (20, 0, 30, 10), labels=[0, 1])
    half = found((0, 0, 10, 10))
    assert precision_of([SCENE], [everything], names) == pytest.approx((1.0, 1.0))
    assert precision_of([SCENE], [half], names) == pytest.approx((0.5, 0.5))
    loose = found((0, 0, 10, 8), labels=[0])
    assert precision_of([SCENE], [loose], names) == pytest.approx((0.5, 0.35))


def test_boxes_without_area_are_alike_where_they_are_the_same() -> None:
    flat = found((0, 0, 0, 9))
    assert agreement([flat], [found((0, 0, 0, 9))]) == 1.0
    assert agreement([flat], [found((50, 50, 60, 50))]) == 0.0
