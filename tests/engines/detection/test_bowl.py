from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engines.detection.bowl import CUTOFFS, bowl_scores
from engines.detection.scenes import Detections, InstanceMask, Scene, scene_of
from engines.errors import InvalidInput

SIZE = 40
ONE, TWO, THREE = (2, 2, 12, 12), (20, 2, 30, 12), (20, 20, 30, 30)


def _square(x0: int, y0: int, x1: int, y1: int) -> InstanceMask:
    return InstanceMask(x0, y0, np.ones((y1 - y0, x1 - x0), np.bool_))


def _scene(*boxes: tuple[int, int, int, int], **more: list[bool]) -> Scene:
    masks = [_square(*box) for box in boxes]
    return scene_of(Path("a"), (SIZE, SIZE), boxes, [0] * len(boxes), masks=masks, **more)


def _found(*boxes: tuple[int, int, int, int], scores: list[float] | None = None) -> Detections:
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores or [0.9] * len(boxes), np.float32),
        np.zeros(len(boxes), np.int64),
        tuple(_square(*box) for box in boxes),
    )


def _first(scene: Scene, found: Detections) -> tuple[float, float]:
    scores = bowl_scores([scene], [found])
    assert scores is not None
    return scores.mean[0], scores.at50[0]


def test_the_truth_itself_is_all_right() -> None:
    assert _first(_scene(ONE, TWO), _found(TWO, ONE)) == (1.0, 1.0)


def test_what_is_missed_and_what_is_too_much_count_alike() -> None:
    # One hit, one missed; one hit, one too much; one of each.
    assert _first(_scene(ONE, TWO), _found(ONE))[1] == pytest.approx(1 / 2)
    assert _first(_scene(ONE), _found(ONE, TWO))[1] == pytest.approx(1 / 2)
    assert _first(_scene(ONE, TWO), _found(ONE, THREE))[1] == pytest.approx(1 / 3)


def test_an_overlap_of_seven_tenths_passes_five_of_ten_thresholds() -> None:
    mean, at50 = _first(_scene(ONE), _found((2, 2, 12, 9)))
    assert mean == pytest.approx(0.5)
    assert at50 == 1.0


def test_a_pixel_belongs_to_the_surest_object_alone() -> None:
    # The second answer is left with 2 of 10 columns of what it found, which is too little.
    found = _found(ONE, (4, 2, 14, 12), scores=[0.9, 0.8])
    assert _first(_scene(ONE), found)[1] == pytest.approx(1 / 2)
    # One that is wholly hidden was not answered.
    assert _first(_scene(ONE), _found(ONE, (4, 4, 8, 8))) == (1.0, 1.0)


def test_unsure_objects_count_up_to_their_score_only() -> None:
    scores = bowl_scores([_scene(ONE)], [_found(ONE, TWO, scores=[0.75, 0.45])])
    assert scores is not None
    assert scores.at50 == (0.5, 0.5, 0.5, 1.0, 1.0, 1.0, 0.0)
    assert scores.cutoffs == CUTOFFS


def test_empty_pictures_and_ignored_objects() -> None:
    assert _first(_scene(), _found()) == (1.0, 1.0)
    assert _first(_scene(), _found(ONE)) == (0.0, 0.0)
    assert _first(_scene(ONE, TWO, ignored=[False, True]), _found(ONE)) == (1.0, 1.0)


def test_the_mean_is_over_pictures_not_objects() -> None:
    scores = bowl_scores([_scene(ONE, TWO, THREE), _scene(ONE)], [_found(), _found(ONE)])
    assert scores is not None
    assert scores.at50[0] == pytest.approx(0.5)


def test_boxes_alone_are_not_judged() -> None:
    bare = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    assert bowl_scores([_scene(ONE)], [bare]) is None


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(InvalidInput, match="2 pictures need as many detections, got 1"):
        bowl_scores([_scene(), _scene()], [_found()])
