"""The measure of the Data Science Bowl 2018, in which its results are told.

Of a picture and an IoU, the share TP / (TP + FP + FN) of objects that are right; the mean over IoU
.50 to .95 in steps of .05, then over pictures (Caicedo et al., Nature Methods 16, 2019, 1247-1253).
Unlike average precision it judges one answer, not a ranking: a score has to be chosen above which
objects count. Answers may not overlap: a pixel is the surest object's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from engines.core import FrozenModel
from engines.detection.scenes import Detections, InstanceMask, Scene
from engines.errors import InvalidInput

CUTOFFS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
IOUS = tuple(np.linspace(0.5, 0.95, 10).round(2).tolist())


class BowlScores(FrozenModel):
    """Per score from `cutoffs` on: mean over IoU .50 to .95, and at IoU .50, both 0 to 1."""

    cutoffs: tuple[float, ...] = CUTOFFS
    mean: tuple[float, ...]
    at50: tuple[float, ...]


def bowl_scores(scenes: Sequence[Scene], found: Sequence[Detections]) -> BowlScores | None:
    """Judge what was `found`, labels aside; None where scenes or detections have no masks.

    Ignored objects are no objects here. Raises InvalidInput for lists of different lengths.
    """
    if len(scenes) != len(found) or not scenes:
        raise InvalidInput(f"{len(scenes)} pictures need as many detections, got {len(found)}")
    shares = np.zeros((len(CUTOFFS), len(scenes), len(IOUS)))
    for place, (scene, each) in enumerate(zip(scenes, found, strict=True)):
        if scene.masks is None or each.masks is None:
            return None
        kept = [mask for mask, out in zip(scene.masks, scene.ignored, strict=True) if not out]
        truth = _painted(scene, kept)
        for row, cutoff in enumerate(CUTOFFS):
            masks = [m for m, s in zip(each.masks, each.scores, strict=True) if s >= cutoff]
            shares[row, place] = _shares(truth, _painted(scene, masks))
    return BowlScores(
        mean=tuple(shares.mean(axis=(1, 2)).tolist()),
        at50=tuple(shares[:, :, 0].mean(axis=1).tolist()),
    )


def _painted(scene: Scene, masks: Sequence[InstanceMask]) -> npt.NDArray[np.int64]:
    """Numbers of objects from 1 on, (H, W); of two at a pixel the first's."""
    numbered = np.zeros((scene.height, scene.width), np.int64)
    for number in range(len(masks), 0, -1):
        left, top, right, bottom = masks[number - 1].box
        part = numbered[top:bottom, left:right]
        part[masks[number - 1].bitmap[: part.shape[0], : part.shape[1]]] = number
    return numbered


def _shares(truth: npt.NDArray[np.int64], found: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """TP / (TP + FP + FN) at each IoU; 1 where nothing is and nothing was found.

    No object can have an IoU above .5 with two others, since those do not overlap.
    """
    columns = int(found.max()) + 1
    joint = np.bincount(truth.ravel() * columns + found.ravel())
    joint = np.pad(joint, (0, -len(joint) % columns)).reshape(-1, columns)
    of_truth, of_found = joint.sum(axis=1)[1:], joint.sum(axis=0)[1:]
    # Who lost all pixels to surer ones was not answered.
    of_truth_count, of_found_count = int((of_truth > 0).sum()), int((of_found > 0).sum())
    if not of_truth_count and not of_found_count:
        return np.ones(len(IOUS))
    union = of_truth[:, None] + of_found[None, :] - joint[1:, 1:]
    iou = joint[1:, 1:] / np.maximum(union, 1)
    # At exactly .5 two may reach it: each object counts once.
    hits = np.array([min((iou >= t).any(axis=1).sum(), (iou >= t).any(axis=0).sum()) for t in IOUS])
    shares: npt.NDArray[np.float64] = hits / (of_truth_count + of_found_count - hits)
    return shares
