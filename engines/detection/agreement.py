"""How alike two detectors see: which of the objects of each the other finds too. No torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from engines.core import Float32Array
from engines.detection.scenes import Detections

OVERLAP = 0.75
"""IoU of boxes from which two objects of one label are the same; .5 would hide much."""


def agreement(some: Sequence[Detections], others: Sequence[Detections]) -> float:
    """Share of all objects of both that have a twin on the other side; 1 where there are none.

    some, others: of the same pictures, in order. A twin has the label and overlaps by OVERLAP or
    more.
    """
    twins = total = 0
    for one, other in zip(some, others, strict=True):
        alike = overlaps(one.boxes, other.boxes) >= OVERLAP
        alike &= one.labels[:, np.newaxis] == other.labels
        twins += int(alike.any(axis=1).sum()) + int(alike.any(axis=0).sum())
        total += len(one) + len(other)
    return twins / total if total else 1.0


def overlaps(some: Float32Array, others: Float32Array) -> npt.NDArray[np.float64]:
    """IoU of every box (N, 4) with every other (M, 4): (N, M); 0 where both have no area."""
    a, b = some.astype(np.float64)[:, np.newaxis], others.astype(np.float64)[np.newaxis]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.clip(sides, 0, None).prod(axis=-1)
    areas = (a[..., 2:] - a[..., :2]).prod(axis=-1) + (b[..., 2:] - b[..., :2]).prod(axis=-1)
    whole: npt.NDArray[np.float64] = shared / np.maximum(areas - shared, 1e-12)
    return whole
