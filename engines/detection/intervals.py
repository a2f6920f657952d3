"""How sure average precision is: a bootstrap over pictures (Efron 1979).

COCO's tools give no interval, and matching is the expensive part: it is done once, in the order of
scores, and a resample only weights its pictures. The values are those of faster-coco-eval
(`engines.detection.scores`).

Legend: T thresholds of overlap, K detections of all pictures, surest first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from engines.core import Float32Array
from engines.detection.rle import coco_rle
from engines.detection.scenes import BoolArray, Detections, Int64Array, Scene
from engines.detection.scores import MAX_DETECTIONS

RESAMPLES = 500

_OVERLAPS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0.0, 1.0, 101)
_AT_50, _AT_75 = 0, 5


class Bounded(NamedTuple):
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Intervals:
    """Average precision as COCO defines it: mean over overlaps of .50 to .95, at .50 and at .75.

    resampled: the three of every resample, (RESAMPLES, 3).
    """

    ap: Bounded
    ap50: Bounded
    ap75: Bounded
    resampled: npt.NDArray[np.float64]


def difference_at_50(one: Intervals, other: Intervals) -> Bounded:
    """AP50 of one less that of the other on the same pictures, drawn by the same seed: paired."""
    low, high = np.nanquantile(one.resampled[:, 1] - other.resampled[:, 1], (0.025, 0.975)).tolist()
    value = one.ap50.value - other.ap50.value
    return Bounded(value, min(low, value), max(high, value))


@dataclass(frozen=True, eq=False)
class _Matched:
    """Of one label: what was found in all pictures.

    picture: (K,), where. right, counted: (T, K), whether it is an object, and whether it counts at
    all. objects: per picture.
    """

    picture: Int64Array
    right: BoolArray
    counted: BoolArray
    objects: Int64Array


def ap_intervals(
    scenes: Sequence[Scene],
    found: Sequence[Detections],
    num_labels: int,
    *,
    masks: bool,
    seed: int = 0,
) -> Intervals:
    """Of masks or of boxes. The same seed draws the same pictures whatever is judged."""
    matched = [_matched(scenes, found, label, masks) for label in range(num_labels)]
    count, rng = len(scenes), np.random.default_rng(seed)
    value = _mean_ap(matched, np.ones(count, np.int64))
    resampled = np.array(
        [
            _mean_ap(matched, np.bincount(rng.integers(count, size=count), minlength=count))
            for _ in range(RESAMPLES)
        ]
    )
    lows, highs = np.nanquantile(resampled, (0.025, 0.975), axis=0)
    ap, ap50, ap75 = (
        Bounded(float(v), min(float(low), float(v)), max(float(high), float(v)))
        for v, low, high in zip(value, lows, highs, strict=True)
    )
    return Intervals(ap, ap50, ap75, resampled)


def _mean_ap(matched: Sequence[_Matched], weights: Int64Array) -> tuple[float, float, float]:
    """The three measures where pictures count so often; NaN where there is no object then."""
    values = [_ap(of_label, weights) for of_label in matched]
    present = [value for value in values if value is not None]
    if not present:
        return (np.nan,) * 3
    mean = np.mean(present, axis=0)
    return float(mean.mean()), float(mean[_AT_50]), float(mean[_AT_75])


def _ap(of_label: _Matched, weights: Int64Array) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    """Per threshold, (T,). None where no picture that counts has an object."""
    objects = int((weights * of_label.objects).sum())
    if not objects:
        return None
    each = weights[of_label.picture]
    hits = np.cumsum(of_label.right * each, axis=1)
    precision = hits / np.maximum(np.cumsum(of_label.counted * each, axis=1), 1)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    values = np.zeros(len(hits))
    for i, (reached, best) in enumerate(zip(hits / objects, envelope, strict=True)):
        at = np.searchsorted(reached, _RECALLS, side="left")
        values[i] = best[at[at < len(best)]].sum() / len(_RECALLS)
    return values


def _matched(
    scenes: Sequence[Scene], found: Sequence[Detections], label: int, masks: bool
) -> _Matched:
    pairs = [_match(scene, each, label, masks) for scene, each in zip(scenes, found, strict=True)]
    scores = np.concatenate([scores for scores, _, _ in pairs])
    order = np.argsort(-scores, kind="stable")
    right, counted = (np.concatenate([pair[k] for pair in pairs], axis=1) for k in (1, 2))
    picture = np.repeat(np.arange(len(pairs)), [len(scores) for scores, _, _ in pairs])
    objects = [int(((scene.labels == label) & ~scene.ignored).sum()) for scene in scenes]
    return _Matched(picture[order], right[:, order], counted[:, order], np.array(objects))


def _match(
    scene: Scene, found: Detections, label: int, masks: bool
) -> tuple[Float32Array, BoolArray, BoolArray]:
    """COCO's greedy match: the surest first, each with the free object that it covers best.

    Scores (D,), falling; right and counted (T, D).
    """
    theirs = np.flatnonzero(scene.labels == label)
    ours = np.flatnonzero(found.labels == label)
    ours = ours[np.argsort(-found.scores[ours], kind="stable")][: MAX_DETECTIONS[-1]]
    right = np.zeros((len(_OVERLAPS), len(ours)), np.bool_)
    counted = np.ones_like(right)
    ignored = scene.ignored[theirs]
    if not len(ours) or not len(theirs):
        return found.scores[ours], right, counted
    overlaps = _overlaps(scene, theirs, found, ours, masks)
    free = np.ones((len(_OVERLAPS), len(theirs)), np.bool_)
    rows = np.arange(len(_OVERLAPS))
    for i in np.flatnonzero((overlaps >= _OVERLAPS[0]).any(axis=1)):
        enough = overlaps[i] >= _OVERLAPS[:, None]
        # An object that counts is preferred; of those that do not, one may be found many times.
        able = np.where(enough & free & ~ignored, overlaps[i], -1.0)
        # Of equal overlaps COCO takes the last.
        best = able.shape[1] - 1 - able[:, ::-1].argmax(axis=1)
        hit = able[rows, best] >= 0
        right[hit, i] = True
        free[rows[hit], best[hit]] = False
        counted[:, i] = hit | ~(enough & ignored).any(axis=1)
    return found.scores[ours], right, counted


def _overlaps(
    scene: Scene, theirs: Int64Array, found: Detections, ours: Int64Array, masks: bool
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Intersection over union of ours with theirs (D, G); of what is ignored, over ours alone."""
    from faster_coco_eval.core import mask as coco_mask

    crowds = scene.ignored[theirs].astype(int).tolist()
    if masks and scene.masks is not None and found.masks is not None:
        size = scene.width, scene.height
        sides: list[Any] = [
            [dict(coco_rle(masks_of[i], *size)) for i in which]
            for masks_of, which in ((found.masks, ours), (scene.masks, theirs))
        ]
    else:
        sides = [_corners(found.boxes[ours]), _corners(scene.boxes[theirs])]
    return np.asarray(coco_mask.iou(sides[0], sides[1], crowds))


def _corners(boxes: Float32Array) -> list[list[float]]:
    """As COCO has boxes: left, top, width, height."""
    return [[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in boxes.astype(float).tolist()]
