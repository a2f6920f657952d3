from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("faster_coco_eval")

from engines.detection.intervals import _matched, _mean_ap, ap_intervals, difference_at_50
from engines.detection.scenes import Detections, InstanceMask, Scene, scene_of
from engines.detection.scores import score

SIZE = 60


def _made_up(seed: int) -> tuple[list[Scene], list[Detections]]:
    """Pictures of two labels, with objects found well, found badly, invented, missed, ignored."""
    rng = np.random.default_rng(seed)
    scenes, found = [], []
    for count in (6, 0, 9, 4):
        corners = rng.integers(0, SIZE - 14, (count, 2))
        boxes = np.concatenate((corners, corners + rng.integers(6, 14, (count, 2))), axis=1)
        labels = rng.integers(0, 2, count)
        masks = [_ellipse(box) for box in boxes.tolist()]
        scenes.append(
            scene_of(
                Path("a"), (SIZE, SIZE), boxes.tolist(), labels.tolist(),
                ignored=(rng.random(count) < 0.2).tolist(), masks=masks,
            )
        )  # fmt: skip
        shaken = np.clip(boxes + rng.integers(-3, 4, boxes.shape), 0, SIZE - 1)
        extra = rng.integers(0, SIZE - 10, (3, 2))
        ours = np.concatenate((shaken[rng.random(count) < 0.8], np.c_[extra, extra + 8]))
        ours[:, 2:] = np.maximum(ours[:, 2:], ours[:, :2] + 1)
        order = rng.permutation(len(ours))
        found.append(
            Detections(
                ours.astype(np.float32),
                np.sort(rng.random(len(ours)).astype(np.float32))[::-1][order],
                rng.integers(0, 2, len(ours)),
                tuple(_ellipse(box) for box in ours.tolist()),
            )
        )
    return scenes, found


def _ellipse(box: list[int]) -> InstanceMask:
    x0, y0, x1, y1 = box
    rows, columns = np.mgrid[y0:y1, x0:x1] + 0.5
    inside = ((columns - (x0 + x1) / 2) / (x1 - x0)) ** 2 + (
        (rows - (y0 + y1) / 2) / (y1 - y0)
    ) ** 2
    return InstanceMask(x0, y0, inside <= 0.25)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("masks", [False, True])
def test_the_values_are_those_of_coco(seed: int, masks: bool) -> None:
    scenes, found = _made_up(seed)
    scores = score(scenes, found, ("a", "b"))
    got = ap_intervals(scenes, found, 2, masks=masks)
    kind = "mask" if masks else "box"
    for name in ("ap", "ap50", "ap75"):
        value, low, high = getattr(got, name)
        assert value == pytest.approx(getattr(scores, f"{kind}_{name}"), abs=1e-6), name
        assert 0 <= low <= value <= high <= 1
    assert got.ap.high > got.ap.low


def test_weights_are_pictures_drawn_several_times() -> None:
    """What a resample weights equals the same pictures written out, but for the order of ties."""
    scenes, found = _made_up(3)
    weights = np.array([2, 0, 1, 3])
    drawn = np.repeat(np.arange(4), weights)
    values = [
        _mean_ap([_matched(s, f, label, True) for label in range(2)], w)
        for s, f, w in (
            (scenes, found, weights),
            ([scenes[i] for i in drawn], [found[i] for i in drawn], np.ones(6, np.int64)),
        )
    ]
    assert values[0] == pytest.approx(values[1], abs=1e-12)


def test_the_same_seed_gives_the_same_interval() -> None:
    scenes, found = _made_up(0)
    first, again = (ap_intervals(scenes, found, 2, masks=True, seed=5) for _ in "ab")
    assert (first.ap, first.ap50, first.ap75) == (again.ap, again.ap50, again.ap75)


def test_one_picture_is_no_sample() -> None:
    scenes, found = _made_up(1)
    got = ap_intervals(scenes[:1], found[:1], 2, masks=False)
    assert got.ap.low == got.ap.value == got.ap.high


def test_nothing_found_is_nothing_right() -> None:
    scenes, found = _made_up(2)
    nothing = found[0].surest(0)
    got = ap_intervals(scenes, [nothing] * len(found), 2, masks=False)
    assert got.ap == got.ap50 == got.ap75 == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("masks", [False, True])
def test_of_equal_overlaps_the_last_object_is_matched(masks: bool) -> None:
    """The surest lies midway between two objects: only if it takes the second, the other detection
    finds the first one free."""
    objects, ours = [[0, 0, 10, 10], [4, 0, 14, 10]], [[2, 0, 12, 10], [0, 0, 10, 10]]
    shapes = [
        tuple(InstanceMask(x0, y0, np.ones((y1 - y0, x1 - x0), np.bool_)) for x0, y0, x1, y1 in of)
        for of in (objects, ours)
    ]
    scene = scene_of(Path("a"), (SIZE, SIZE), objects, [0, 0], masks=shapes[0])
    found = Detections(
        np.array(ours, np.float32), np.array([0.9, 0.8], np.float32), np.zeros(2, np.int64),
        shapes[1],
    )  # fmt: skip
    scores = score([scene], [found], ("a",))
    expected = scores.mask_ap50 if masks else scores.box_ap50
    assert expected == pytest.approx(1.0)
    assert ap_intervals([scene], [found], 1, masks=masks).ap50.value == pytest.approx(expected)


def test_a_difference_is_taken_picture_by_picture() -> None:
    scenes, found = _made_up(0)
    fewer = [replace(each, boxes=each.boxes[::2], scores=each.scores[::2], labels=each.labels[::2],
                     masks=None if each.masks is None else each.masks[::2])
             for each in found]  # fmt: skip
    one, other = (ap_intervals(scenes, each, 2, masks=False) for each in (found, fewer))
    assert difference_at_50(one, one) == (0.0, 0.0, 0.0)
    value, low, high = difference_at_50(one, other)
    assert value == one.ap50.value - other.ap50.value
    assert low <= value <= high
    # Pictures that are hard for one are hard for the other.
    assert high - low < (one.ap50.high - one.ap50.low) + (other.ap50.high - other.ap50.low)
