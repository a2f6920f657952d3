"""How sure an AP50 is: a bootstrap over pictures.

COCO's tools give no interval, and matching is the expensive part: it is done once, a resample then
only sorts. The value itself stays that of faster-coco-eval (`engines.detection.scores`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engines.core import Float32Array
from engines.detection.rle import coco_rle
from engines.detection.scenes import BoolArray, Detections, Scene
from engines.detection.scores import MAX_DETECTIONS

_IOU = 0.5
_RECALLS = np.linspace(0.0, 1.0, 101)
_RESAMPLES = 500


@dataclass(frozen=True, eq=False)
class _Matched:
    """Of one picture and label: scores, whether each is right, and how many objects there are."""

    scores: Float32Array
    right: BoolArray
    objects: int


def ap50_interval(
    scenes: Sequence[Scene],
    found: Sequence[Detections],
    num_labels: int,
    *,
    masks: bool,
    seed: int = 0,
) -> tuple[float, float, float]:
    """AP50 of masks or boxes as COCO defines it, and its 95 % interval over pictures."""
    matched = [
        [_match(scene, each, label, masks) for scene, each in zip(scenes, found, strict=True)]
        for label in range(num_labels)
    ]
    every = np.arange(len(scenes))
    rng = np.random.default_rng(seed)
    resampled = [
        _mean_ap(matched, rng.integers(len(scenes), size=len(scenes))) for _ in range(_RESAMPLES)
    ]
    value = _mean_ap(matched, every)
    low, high = np.nanquantile(resampled, (0.025, 0.975))
    return value, min(float(low), value), max(float(high), value)


def _mean_ap(
    matched: Sequence[Sequence[_Matched]], chosen: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> float:
    values = [_ap([of_label[i] for i in chosen.tolist()]) for of_label in matched]
    present = [value for value in values if value is not None]
    # A resample may have no object at all.
    return float(np.mean(present)) if present else float("nan")


def _ap(pictures: Sequence[_Matched]) -> float | None:
    objects = sum(each.objects for each in pictures)
    if not objects:
        return None
    scores = np.concatenate([each.scores for each in pictures])
    right = np.concatenate([each.right for each in pictures])
    right = right[np.argsort(-scores, kind="stable")]
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(right) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(hits / objects, _RECALLS, side="left")
    reached = at < len(envelope)
    return float(envelope[at[reached]].sum() / len(_RECALLS)) if len(envelope) else 0.0


def _match(scene: Scene, found: Detections, label: int, masks: bool) -> _Matched:
    """COCO's greedy match: the surest first, each with the free object that it covers best."""
    from faster_coco_eval.core import mask as coco_mask

    theirs = np.flatnonzero(scene.labels == label)
    # What is ignored comes last: an object that counts is preferred.
    theirs = theirs[np.argsort(scene.ignored[theirs], kind="stable")]
    ours = np.flatnonzero(found.labels == label)
    ours = ours[np.argsort(-found.scores[ours], kind="stable")][: MAX_DETECTIONS[-1]]
    ignored = scene.ignored[theirs]
    objects = int((~ignored).sum())
    if not len(ours) or not len(theirs):
        return _Matched(found.scores[ours], np.zeros(len(ours), np.bool_), objects)
    crowds = ignored.astype(int).tolist()
    if masks and scene.masks is not None and found.masks is not None:
        size = scene.width, scene.height
        sides: list[Any] = [
            [dict(coco_rle(masks_of[i], *size)) for i in which]
            for masks_of, which in ((found.masks, ours), (scene.masks, theirs))
        ]
    else:
        sides = [_corners(found.boxes[ours]), _corners(scene.boxes[theirs])]
    overlaps = np.asarray(coco_mask.iou(sides[0], sides[1], crowds))
    free = np.ones(len(theirs), np.bool_)
    right = np.zeros(len(ours), np.bool_)
    counted = np.ones(len(ours), np.bool_)
    for i, row in enumerate(overlaps):
        for among in (~ignored & free, ignored):
            able = np.where(among & (row >= _IOU), row, -1.0)
            best = int(able.argmax())
            if able[best] >= 0:
                right[i], counted[i] = not ignored[best], not ignored[best]
                free[best] = False
                break
    return _Matched(found.scores[ours][counted], right[counted], objects)


def _corners(boxes: Float32Array) -> list[list[float]]:
    """As COCO has boxes: left, top, width, height."""
    return [[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in boxes.astype(float).tolist()]
