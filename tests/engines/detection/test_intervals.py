from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("faster_coco_eval")

from engines.detection.intervals import ap50_interval
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
def test_the_value_is_that_of_coco(seed: int, masks: bool) -> None:
    scenes, found = _made_up(seed)
    scores = score(scenes, found, ("a", "b"))
    value, low, high = ap50_interval(scenes, found, 2, masks=masks)
    expected = scores.mask_ap50 if masks else scores.box_ap50
    assert value == pytest.approx(expected, abs=1e-6)
    assert 0 <= low <= value <= high <= 1
    assert high > low


def test_the_same_seed_gives_the_same_interval() -> None:
    scenes, found = _made_up(0)
    first, again = (ap50_interval(scenes, found, 2, masks=True, seed=5) for _ in "ab")
    assert first == again
