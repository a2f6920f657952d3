"""What comes behind a detector's dense answers, in OpenVINO's operators: boxes, and their masks.

Legend: C labels, K candidates, D objects, M samples on a side of a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import openvino as ov
from openvino import opset14 as ops

from engines.architecture import MapSize
from engines.bench.detectors.work import CHOICE
from engines.bench.openvino_graph import Tensors, convolution, name_part, relu
from engines.detection.architecture import (
    CANDIDATES_PER_LEVEL,
    LEVEL_UNITS,
    MOST_DETECTIONS,
    STRIDES,
    Detector,
)

_SAMPLES = 2
# Boxes of this size are made from the level whose stride is 2^_CANONICAL_LEVEL (arXiv:1612.03144).
_CANONICAL_SIZE, _CANONICAL_LEVEL, _LEVEL_SLACK = 224.0, 4.0, 1e-6
_MASK = "instances.mask_head"
_PREDICTOR = "instances.mask_predictor"


class Answers(NamedTuple):
    """Of a level: class logits (1, C, h, w), and four distances in units with the centre's logit
    (1, 5, h, w)."""

    classes: ov.Output
    sides: ov.Output


def choose(
    levels: Sequence[Answers], sizes: Sequence[MapSize], detector: Detector, labels: int, size: int
) -> dict[str, ov.Output]:
    """The surest places of every level, and of these what overlaps nothing surer.

    `boxes` (D, 4) in pixels of the image of `size`, `scores` (D,) and `labels` (D,).
    """
    surest = [
        _surest(answers, level, each, labels)
        for level, (answers, each) in enumerate(zip(levels, sizes, strict=True))
    ]
    scores, classes, boxes = (ops.concat([each[i] for each in surest], 0) for i in range(3))
    boxes = ops.clamp(boxes, 0.0, float(size))
    # Labels do not compete: each has a row of scores, 0 for the candidates of other labels.
    is_label = ops.equal(classes, np.arange(labels, dtype=np.int64)[:, None])
    rows = scores if labels == 1 else ops.select(is_label, scores, np.float32(0))
    kept = ops.non_max_suppression(
        ops.unsqueeze(boxes, np.int64(0)),
        ops.reshape(rows, np.array([1, labels, -1]), False),
        np.int64(MOST_DETECTIONS),
        np.float32(detector.overlap),
        # What is at the threshold is an object; the operator wants more than it.
        np.nextafter(np.float32(detector.least_score), np.float32(0)),
    )
    where = ops.gather(kept.output(0), np.int64(2), np.int64(1))
    if labels > 1:
        # Each label may have as many as an image in all.
        likely = ops.gather(scores, where, np.int64(0))
        most = ops.minimum(ops.shape_of(where), np.array([MOST_DETECTIONS]))
        order = ops.topk(likely, ops.squeeze(most, np.int64(0)), 0, "max", "value", "i64")
        where = ops.gather(where, order.output(1), np.int64(0))
    of_place = {"boxes": boxes, "scores": scores, "labels": classes}
    return {name: ops.gather(each, where, np.int64(0)).output(0) for name, each in of_place.items()}


def _surest(answers: Answers, level: int, size: MapSize, labels: int) -> tuple[ov.Node, ...]:
    """Scores (K,), labels (K,) and uncut boxes (K, 4) of a level's candidates."""
    classes, sides = (
        # Place by place, and in a place label by label.
        ops.reshape(ops.transpose(each, np.array([0, 2, 3, 1])), np.array([size.area, count]), True)
        for each, count in ((answers.classes, labels), (answers.sides, 5))
    )
    split = ops.variadic_split(sides, np.int64(1), np.array([4, 1]))
    distances, centres = split.output(0), split.output(1)
    scores = ops.sqrt(ops.multiply(ops.sigmoid(classes), ops.sigmoid(centres)))
    flat = ops.reshape(scores, np.array([-1]), False)
    count = min(CANDIDATES_PER_LEVEL, size.area * labels)
    surest = ops.topk(flat, np.int64(count), 0, "max", "none", "i64")
    of_label = np.int64(labels)
    place = ops.divide(surest.output(1), of_label)
    label = ops.mod(surest.output(1), of_label)
    unit = np.float32(LEVEL_UNITS[level])
    reach = np.array([-unit, -unit, unit, unit])
    rows, columns = np.divmod(np.arange(size.area), size.width)
    centre = np.stack([columns, rows] * 2, axis=1).astype(np.float32) * STRIDES[level]
    apart = ops.multiply(ops.relu(ops.gather(distances, place, np.int64(0))), reach)
    boxes = ops.add(apart, ops.gather(centre, place, np.int64(0)))
    return surest.output(0), label, boxes


def with_masks(
    found: dict[str, ov.Output],
    features: Sequence[ov.Output],
    weights: Tensors,
    detector: Detector,
) -> dict[str, ov.Output]:
    """What was found with a mask (D, M, M) each, from the level that fits its size."""
    boxes = found["boxes"]
    level = _level_of(boxes, len(features))
    # Thresholds of sizes: nothing that a few bits could hold.
    name_part(CHOICE, [level.output(0)])
    regions, order = [], []
    for i, each in enumerate(features):
        # Objects level by level: the order of all then changes, of boxes and masks alike.
        which = ops.squeeze(ops.non_zero(ops.equal(level, np.float32(i))), np.int64(0))
        own = ops.gather(boxes, which, np.int64(0))
        regions.append(
            ops.roi_align(
                each,
                own,
                ops.convert(ops.multiply(which, np.int64(0)), "i32"),
                detector.roi_size,
                detector.roi_size,
                _SAMPLES,
                1.0 / STRIDES[i],
                "avg",
                "asymmetric",
            )
        )
        order.append(which)
    x = ops.concat(regions, 0).output(0)
    for i in range(detector.mask_convs):
        x = relu(convolution(x, weights, f"{_MASK}.{i}.0", pad=1))
    up = ops.convolution_backprop_data(x, weights[f"{_PREDICTOR}.conv5_mask.weight"], [2, 2])
    bias = weights[f"{_PREDICTOR}.conv5_mask.bias"][None, :, None, None]
    x = relu(ops.add(up, bias).output(0))
    logits = convolution(x, weights, f"{_PREDICTOR}.mask_fcn_logits")
    masks = ops.squeeze(ops.sigmoid(logits), np.int64(1)).output(0)
    ordered = ops.concat(order, 0)
    moved = {name: ops.gather(each, ordered, np.int64(0)).output(0) for name, each in found.items()}
    return {**moved, "masks": masks}


def _level_of(boxes: ov.Output, levels: int) -> ov.Node:
    """The pyramid's level (D,) that each box's mask is made from, float32; 0 is the finest."""
    corners = ops.split(boxes, np.int64(1), 2)
    sides = ops.subtract(corners.output(1), corners.output(0))
    area = ops.reduce_prod(sides, np.array([1]), False)
    relative = ops.divide(ops.sqrt(area), np.float32(_CANONICAL_SIZE))
    octave = ops.divide(ops.log(relative), np.float32(np.log(2.0)))
    level = ops.floor(ops.add(octave, np.float32(_CANONICAL_LEVEL + _LEVEL_SLACK)))
    first = np.float32(np.log2(STRIDES[0]))
    return ops.clamp(ops.subtract(level, first), 0.0, float(levels - 1))
