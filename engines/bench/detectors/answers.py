"""Whether two engines answer alike, picture by picture, and how well what they found is scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from engines.detection.agreement import overlaps
from engines.detection.letterbox import to_picture
from engines.detection.scenes import Detections, Scene
from engines.detection.scores import score

FOUND = ("boxes", "scores", "labels", "masks")
"""What there is of every object, masks only where the detector makes them."""

OVERLAP = 0.95
"""From which two boxes count as the same (IoU)."""

_SAME = 1e-2  # pixels

LEAST_AGREEMENT = 0.99
"""Share of each side's objects that the other has found too, of engines that compute the same."""

MOST_LOSS = 0.01
"""Of average precision, at IoU .5 and over all, for fewer bits: what ours may lose in int8."""

Arrays = Mapping[str, npt.NDArray[Any]]


def answers(infer: Callable[[int], Arrays], scenes: Sequence[Scene], size: int) -> list[Detections]:
    """What was found in each scene, in its picture's pixels, surest first.

    infer: from the place of a scene to `boxes` (D, 4), `scores` and `labels` (D,) and, with masks,
    `masks` (D, M, M) in the square of `size`, in any order.
    """
    found = []
    for i, scene in enumerate(scenes):
        arrays = infer(i)
        order = np.argsort(-arrays["scores"], kind="stable")
        masks = arrays.get("masks")
        found.append(
            to_picture(
                np.asarray(arrays["boxes"][order], np.float32),
                np.asarray(arrays["scores"][order], np.float32),
                np.asarray(arrays["labels"][order], np.int64),
                None if masks is None else np.asarray(masks[order], np.float32),
                size=size,
                width=scene.width,
                height=scene.height,
            )
        )
    return found


def agreement(ones: Sequence[Detections], others: Sequence[Detections]) -> float:
    """Share of the objects of all pictures that the other side found too: the same label, IoU at
    least OVERLAP. Of both directions the lesser; 1 where nobody found anything."""
    shares = []
    for these, those in ((ones, others), (others, ones)):
        matched = sum(_matched(one, other) for one, other in zip(these, those, strict=True))
        total = sum(len(one) for one in these)
        shares.append(matched / total if total else 1.0)
    return min(shares)


class Precision(NamedTuple):
    """Average precision at IoU .5, and mean over IoU .5 to .95."""

    ap50: float
    ap: float


def precision_of(
    scenes: Sequence[Scene], found: Sequence[Detections], labels: Sequence[str]
) -> Precision:
    """Of masks where there are any, else of boxes. Raises InvalidInput where nothing is there to be
    found."""
    scores = score(scenes, found, labels)
    if scores.mask_ap50 is None or scores.mask_ap is None:
        return Precision(scores.box_ap50, scores.box_ap)
    return Precision(scores.mask_ap50, scores.mask_ap)


def _matched(one: Detections, other: Detections) -> int:
    """How many of one's objects the other has."""
    if not len(one) or not len(other):
        return 0
    alike = overlaps(one.boxes, other.boxes) >= OVERLAP
    # Boxes without area overlap nothing, not even themselves.
    alike |= np.isclose(one.boxes[:, None], other.boxes[None], rtol=0, atol=_SAME).all(axis=2)
    alike &= one.labels[:, None] == other.labels[None]
    return int(alike.any(axis=1).sum())
