from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("faster_coco_eval")

from engines.detection.scenes import Detections, Scene, scene_of
from engines.detection.unlabelled import unlabelled
from engines.errors import InvalidInput

ONE, TWO, FAR = (2, 2, 12, 12), (6, 2, 16, 12), (25, 25, 35, 35)


def _scene(*boxes: tuple[int, int, int, int]) -> Scene:
    return scene_of(Path("a"), (40, 40), boxes, [0] * len(boxes))


def _found(*boxes: tuple[int, int, int, int], scores: list[float]) -> Detections:
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.zeros(len(boxes), np.int64),
    )


def test_what_is_found_where_nothing_is_labelled_is_counted_and_left_out() -> None:
    found = unlabelled([_scene(ONE)], [_found(FAR, ONE, scores=[0.9, 0.8])], ["cell"])
    assert (found.count, found.sure, found.box_ap50) == (1, 1, 1.0)


def test_a_second_answer_at_a_labelled_object_stays_wrong() -> None:
    scenes = [_scene(ONE), _scene(ONE)]
    answers = [_found(TWO, ONE, scores=[0.9, 0.8]), _found(ONE, scores=[0.7])]
    found = unlabelled(scenes, answers, ["cell"])
    assert found.count == 0
    assert found.box_ap50 < 1.0


def test_a_picture_without_labels_has_nothing_but_such() -> None:
    scenes = [_scene(ONE), _scene()]
    answers = [_found(ONE, scores=[0.5]), _found(ONE, FAR, scores=[0.9, 0.2])]
    found = unlabelled(scenes, answers, ["cell"])
    assert (found.count, found.sure, found.box_ap50) == (2, 1, 1.0)


def test_no_answers_at_all() -> None:
    found = unlabelled([_scene(ONE)], [_found(scores=[])], ["cell"])
    assert (found.count, found.sure, found.box_ap50) == (0, 0, 0.0)


def test_pictures_without_any_object_are_refused_as_ever() -> None:
    with pytest.raises(InvalidInput, match="no picture has an object"):
        unlabelled([_scene()], [_found(scores=[])], ["cell"])
