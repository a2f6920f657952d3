"""From dense answers to objects and their regions, as int8 engines do it, in numpy.

Every operation is one of float32 and rounds by itself, in the order of `objects.cpp` of the native
engine. Slow and plain. Needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engines.core import Float32Array, UInt8Array
from engines.detection.architecture import (
    CANDIDATES_PER_LEVEL,
    LEVEL_UNITS,
    LEVELS,
    MOST_DETECTIONS,
    STRIDES,
    Detector,
)
from engines.quantisation import SIGNED_ZERO
from engines.reference.integer import to_bytes

_SAMPLES = 2
_CANONICAL_SIZE, _CANONICAL_LEVEL, _SLACK = np.float32(224), np.float32(4), np.float32(1e-6)
_ONE = np.float32(1)


@dataclass(frozen=True, eq=False)
class Objects:
    """Of one image, surest first: boxes (D, 4) in pixels, scores and labels (D,)."""

    boxes: Float32Array
    scores: Float32Array
    labels: npt.NDArray[np.int64]


def sigmoid(x: Float32Array) -> Float32Array:
    """1 / (1 + exp(-x)); the power is rounded once."""
    with np.errstate(over="ignore"):
        powers = np.exp(-x.astype(np.float64)).astype(np.float32)
    share: Float32Array = _ONE / (_ONE + powers)
    return share


def choose(
    levels: list[Float32Array], widths: list[int], size: int, num_labels: int, detector: Detector
) -> Objects:
    """levels: dense answers (places, labels + 5), -infinity where nothing is computed; widths: of
    the levels' maps."""
    least = np.float32(detector.least_score)
    boxes, scores, labels = [], [], []
    for level, (answers, width) in enumerate(zip(levels, widths, strict=True)):
        logits, centres = answers[:, :num_labels], answers[:, -1]
        flat = np.sqrt(sigmoid(logits) * sigmoid(centres)[:, np.newaxis]).reshape(-1)
        likely = np.flatnonzero(flat >= least)
        # Ties go to the lower place, then to the lower label: the order that they have.
        surest = likely[np.argsort(-flat[likely], kind="stable")[:CANDIDATES_PER_LEVEL]]
        place = surest // num_labels
        stride, unit = np.float32(STRIDES[level]), np.float32(LEVEL_UNITS[level])
        x = (place % width).astype(np.float32) * stride
        y = (place // width).astype(np.float32) * stride
        sides = answers[place, num_labels:-1] * unit
        found = np.stack([x - sides[:, 0], y - sides[:, 1], x + sides[:, 2], y + sides[:, 3]], 1)
        boxes.append(np.clip(found, np.float32(0), np.float32(size)))
        scores.append(flat[surest])
        labels.append(surest % num_labels)
    every = Objects(np.concatenate(boxes), np.concatenate(scores), np.concatenate(labels))
    order = np.argsort(-every.scores, kind="stable")
    kept = order[_suppress(every.boxes[order], every.labels[order], detector.overlap)]
    return Objects(every.boxes[kept], every.scores[kept], every.labels[kept])


def _suppress(
    boxes: Float32Array, labels: npt.NDArray[np.int64], overlap: float
) -> npt.NDArray[np.int64]:
    kept: list[int] = []
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for i in range(len(boxes)):
        if len(kept) == MOST_DETECTIONS:
            break
        among = np.array([k for k in kept if labels[k] == labels[i]], np.int64)
        sides = np.minimum(boxes[among, 2:], boxes[i, 2:]) - np.maximum(
            boxes[among, :2], boxes[i, :2]
        )
        shared = np.maximum(sides, np.float32(0)).prod(axis=1, dtype=np.float32)
        with np.errstate(invalid="ignore"):
            shares = shared / (areas[among] + areas[i] - shared)
        if not (shares.astype(np.float64) > overlap).any():
            kept.append(i)
    return np.array(kept, np.int64)


def level_of(box: Float32Array) -> int:
    """Which level an object's features come from, 0 the finest."""
    area = (box[2] - box[0]) * (box[3] - box[1])
    with np.errstate(divide="ignore"):
        level = np.floor(_CANONICAL_LEVEL + np.log2(np.sqrt(area) / _CANONICAL_SIZE) + _SLACK)
    first = STRIDES[0].bit_length() - 1
    return int(np.clip(level, first, first + LEVELS - 1)) - first


def pool_region(features: UInt8Array, box: Float32Array, stride: int, size: int) -> UInt8Array:
    """RoIAlign of a signed map (H, W, C) on a box in pixels of the image, (S, S, C), S = size."""
    scale = np.float32(1 / stride)
    down = _reach(box[1] * scale, box[3] * scale, features.shape[0], size)
    across = _reach(box[0] * scale, box[2] * scale, features.shape[1], size)
    values = features.astype(np.float32) - np.float32(SIGNED_ZERO)
    sums = np.zeros((size, size, features.shape[2]), np.float32)
    for row, by_row in zip(down.pixels, down.weights, strict=True):
        pooled = np.zeros_like(sums)
        for column, by_column in zip(across.pixels, across.weights, strict=True):
            pooled += by_column[:, np.newaxis] * values[row[:, np.newaxis], column]
        sums += by_row[:, np.newaxis, np.newaxis] * pooled
    return to_bytes(sums / np.float32(_SAMPLES**2) + np.float32(SIGNED_ZERO))


@dataclass(frozen=True, eq=False)
class _Reach:
    """What every bin reads along one side, (4, S) each: pixels, and their weights. A pixel that is
    between several samples has the sum of its weights once, and 0 at the other places."""

    pixels: npt.NDArray[np.int64]
    weights: Float32Array


def _reach(first: np.float32, last: np.float32, limit: int, size: int) -> _Reach:
    width = np.maximum(last - first, _ONE) / np.float32(size)
    bins = np.arange(size, dtype=np.float32)[:, np.newaxis]
    within = (np.arange(_SAMPLES, dtype=np.float32) + np.float32(0.5)) * width
    at = first + bins * width + within / np.float32(_SAMPLES)
    inside = (at >= -1) & (at <= limit)
    at = np.maximum(at, np.float32(0))
    low = np.minimum(at.astype(np.int64), limit - 1)
    above = np.where(low == limit - 1, np.float32(0), at - low.astype(np.float32))
    high = np.minimum(low + 1, limit - 1)
    # Samples one behind another, of each the pixel before it and that behind it.
    pixels = np.stack([low, high], axis=2).reshape(size, -1).T
    parts = np.stack([_ONE - above, above], axis=2) * inside[:, :, np.newaxis]
    weights = parts.reshape(size, -1).T.astype(np.float32)
    for later in range(1, len(pixels)):
        for earlier in range(later):
            # Where it was merged already, its weight is 0.
            same = pixels[later] == pixels[earlier]
            weights[earlier] += np.where(same, weights[later], np.float32(0))
            weights[later] *= ~same
    return _Reach(pixels, weights)
