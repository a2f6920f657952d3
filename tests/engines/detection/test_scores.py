from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("faster_coco_eval")

from engines.detection.scenes import Detections, InstanceMask, Scene, scene_of
from engines.detection.scores import MAX_DETECTIONS, score
from engines.errors import InvalidInput

SIZE = 40


def _scene(*boxes: tuple[int, int, int, int], **more: list[bool]) -> Scene:
    masks = [_square(*box) for box in boxes]
    return scene_of(Path("a"), (SIZE, SIZE), boxes, [0] * len(boxes), masks=masks, **more)


def _square(x0: int, y0: int, x1: int, y1: int) -> InstanceMask:
    return InstanceMask(x0, y0, np.ones((y1 - y0, x1 - x0), np.bool_))


def _found(*boxes: tuple[int, int, int, int], scores: list[float] | None = None) -> Detections:
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores or np.linspace(0.9, 0.5, len(boxes)), np.float32),
        np.zeros(len(boxes), np.int64),
        tuple(_square(*box) for box in boxes),
    )


ONE, TWO = (2, 2, 12, 12), (6, 2, 16, 12)


def test_the_truth_itself_scores_one_and_what_counts_is_stated() -> None:
    # Two objects that overlap, and a picture without any.
    found = score([_scene(ONE, TWO), _scene()], [_found(ONE, TWO), _found()], ["thing"])
    assert (found.box_ap, found.box_ap50, found.mask_ap, found.mask_ap50) == (1, 1, 1, 1)
    assert (found.images, found.objects) == (2, 2)
    assert found.max_detections == MAX_DETECTIONS == (1, 100, 500)


def test_what_is_found_where_nothing_is_counts_against() -> None:
    surer = _found((20, 20, 30, 30), scores=[0.95])
    found = score([_scene(ONE), _scene()], [_found(ONE), surer], ["thing"])
    assert found.box_ap50 == pytest.approx(0.5)
    assert found.mask_ap50 == pytest.approx(0.5)


def test_nothing_found_scores_nothing() -> None:
    assert score([_scene(ONE)], [_found()], ["thing"]).box_ap == 0.0


def test_a_shifted_box_counts_at_half_only() -> None:
    found = score([_scene(ONE)], [_found((2, 2, 12, 9))], ["thing"])
    # IoU .7 passes five of ten thresholds: .5, .55, .6, .65 and .7.
    assert found.box_ap50 == 1.0
    assert found.box_ap == pytest.approx(0.5)
    assert found.box_ap75 == 0.0


def test_precision_is_told_by_the_size_of_objects() -> None:
    """Up to 32^2 pixels they are small, up to 96^2 medium, above that large."""
    small, medium = (2, 2, 12, 12), (20, 20, 60, 60)
    masks = [_square(*box) for box in (small, medium)]
    scene = scene_of(Path("a"), (80, 80), [small, medium], [0, 0], masks=masks)
    found = score([scene], [_found(small)], ["thing"])
    assert (found.box_ap_small, found.box_ap_medium, found.box_ap_large) == (1.0, 0.0, None)
    assert (found.mask_ap_small, found.mask_ap_medium, found.mask_ap_large) == (1.0, 0.0, None)


def test_five_hundred_of_a_picture_count() -> None:
    places = [(x, y, x + 2, y + 2) for x in range(0, 38, 2) for y in range(0, 38, 2)]
    found = score([_scene(*places)], [_found(*places)], ["thing"])
    assert len(places) == 361
    assert found.mask_ap == pytest.approx(1.0)


def test_ignored_objects_count_neither_way() -> None:
    scene = _scene(ONE, (20, 20, 30, 30), ignored=[False, True])
    found = score([scene], [_found((20, 20, 30, 30), ONE)], ["thing"])
    assert found.objects == 1
    assert found.box_ap50 == 1.0


def test_labels_without_objects_do_not_count() -> None:
    assert score([_scene(ONE)], [_found(ONE)], ["thing", "other"]).box_ap == 1.0


def test_boxes_alone_are_judged_without_masks() -> None:
    scene = scene_of(Path("a"), (SIZE, SIZE), [ONE], [0])
    found = score([scene], [_found(ONE)], ["thing"])
    assert found.box_ap == 1.0
    assert found.mask_ap is None


def test_what_cannot_be_judged_is_refused() -> None:
    with pytest.raises(InvalidInput, match="need as many detections"):
        score([_scene(ONE)], [], ["thing"])
    with pytest.raises(InvalidInput, match="no picture has an object"):
        score([_scene()], [_found()], ["thing"])
