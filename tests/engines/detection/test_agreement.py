"""Which objects two detectors have in common."""

from __future__ import annotations

import numpy as np
import pytest

from engines.detection.agreement import agreement, overlaps
from engines.detection.scenes import Detections


def found(*boxes: tuple[float, float, float, float], labels: tuple[int, ...] = ()) -> Detections:
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.ones(len(boxes), np.float32),
        np.array(labels or (0,) * len(boxes), np.int64),
    )


BOX, NEAR, HALF, FAR = (0, 0, 10, 10), (0, 0, 10, 8), (0, 0, 10, 5), (20, 20, 30, 30)


@pytest.mark.parametrize(
    ("one", "other", "share"),
    [
        (found(), found(), 1.0),
        (found(BOX), found(), 0.0),
        (found(BOX), found(BOX), 1.0),
        (found(BOX), found(NEAR), 1.0),
        (found(BOX), found(HALF), 0.0),
        (found(BOX, FAR), found(FAR), 2 / 3),
        (found(BOX), found(BOX, labels=(1,)), 0.0),
        (found(BOX, FAR, labels=(0, 1)), found(FAR, BOX, labels=(1, 0)), 1.0),
    ],
)
def test_a_share_of_the_objects_of_both(one: Detections, other: Detections, share: float) -> None:
    assert agreement([one], [other]) == share
    assert agreement([other], [one]) == share


def test_pictures_count_by_their_objects_and_are_not_mixed() -> None:
    assert agreement([found(BOX), found(), found(FAR)], [found(BOX), found(), found()]) == 2 / 3
    assert agreement([found(BOX), found(FAR)], [found(FAR), found(BOX)]) == 0.0


def test_boxes_without_area_overlap_nothing() -> None:
    point = np.array([[5, 5, 5, 5]], np.float32)
    assert overlaps(point, point).tolist() == [[0.0]]
    assert overlaps(np.array([BOX], np.float32), np.array([HALF], np.float32)).tolist() == [[0.5]]
