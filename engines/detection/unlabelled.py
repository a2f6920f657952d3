"""What was found where nothing is labelled: false alarms, or objects whose label is missing.

Nobody can tell the two apart without looking. If all of them were right, precision would be at
least what it is without them; that tells of what order the cost of missing labels is, and is no
bound of it: an object that nobody labelled may overlap one that somebody did.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engines.core import FrozenModel
from engines.detection.agreement import overlaps
from engines.detection.scenes import BoolArray, Detections, Scene
from engines.detection.scores import score

LEAST_IOU = 0.1
"""What overlaps a labelled box by less is found apart from it."""

SURE = 0.5


class Unlabelled(FrozenModel):
    """count: detections apart from every labelled box, of any label; sure: those of them with a
    score of at least .5. box_ap50: average precision of boxes at IoU .50 if they had not been made.
    """

    count: int
    sure: int
    box_ap50: float


def unlabelled(
    scenes: Sequence[Scene], found: Sequence[Detections], labels: Sequence[str]
) -> Unlabelled:
    """Leave out what lies apart and judge the rest. Raises InvalidInput as `score` does."""
    apart = [_apart(scene, each) for scene, each in zip(scenes, found, strict=True)]
    rest = [
        Detections(each.boxes[~out], each.scores[~out], each.labels[~out])
        for each, out in zip(found, apart, strict=True)
    ]
    return Unlabelled(
        count=sum(int(out.sum()) for out in apart),
        sure=sum(
            int((each.scores[out] >= SURE).sum()) for each, out in zip(found, apart, strict=True)
        ),
        box_ap50=score(scenes, rest, labels).box_ap50,
    )


def _apart(scene: Scene, found: Detections) -> BoolArray:
    """Which detections overlap no labelled box, (N,)."""
    if not len(scene.boxes) or not len(found.boxes):
        return np.ones(len(found.boxes), np.bool_)
    out: BoolArray = overlaps(found.boxes, scene.boxes).max(axis=1) < LEAST_IOU
    return out
