"""The mask head as a file of its own: it runs once per object, and how many those are varies.

What the reference's `InstanceHeads.mask_logits` does. A region comes from the pyramid level that
fits its box; RoiAlign of all levels and a choice among its answers, since shapes would otherwise
follow from data. RoiAlign is in float32 in both precisions: half of it knows a place at 512 px to
a quarter of a pixel, and ONNX Runtime has it in float32 alone.

Legend: N images, D objects of all of them, h x w pixels of a level, S samples on a side of a
region, M = 2 S on a side of a mask.
"""

from __future__ import annotations

import numpy as np

from engines.detection.architecture import LEVELS, STRIDES, Detector
from engines.export.onnx.detector import BOXES, FEATURES
from engines.export.onnx.graph import Graph
from engines.export.onnx.layers import Layers, Shape

IMAGES, MASKS = "images", "masks"

# As `engines.models.detection` and torchvision have them, which load torch: samples along a bin's
# side; a box whose sides' geometric mean is 224 px is of level 4, which is that of stride 16.
_SAMPLES = 2
_CANONICAL, _CANONICAL_STRIDE = 224.0, 16
_TOLERANCE = 1e-6


def mask_head(graph: Graph, layers: Layers, shape: Detector) -> None:
    """All of it, from the tensors `instances.*` of a bundle.

    Inputs: `features_0` and on, as the network answers them; `boxes`, float32 (D, 4), in pixels of
    the images, and `images`, int64 (D,): whose each is. Output: `masks`, float32 (D, M, M),
    probabilities over each box.
    """
    width = shape.width
    features = [
        graph.input(f"{FEATURES}_{i}", graph.maps, ["N", width, f"h{i}", f"w{i}"])
        for i in range(LEVELS)
    ]
    graph.input(BOXES, np.float32, ["D", 4])
    graph.input(IMAGES, np.int64, ["D"])
    x = _regions(graph, features, shape.roi_size)
    for i in range(shape.mask_convs):
        x = layers.relu(layers.convolution(x, f"instances.mask_head.{i}.0", Shape(width, width, 3)))
    predictor, half = "instances.mask_predictor", width // 2
    x = layers.relu(layers.doubling(x, f"{predictor}.conv5_mask", half, width))
    logits = layers.convolution(x, f"{predictor}.mask_fcn_logits", Shape(1, half))
    planes = graph.add("Squeeze", graph.wide(logits), graph.integers(1), out="logits")
    graph.output(
        MASKS, graph.add("Sigmoid", planes, out="probabilities"), np.float32,
        ["D", shape.mask_size, shape.mask_size],
    )  # fmt: skip


def _regions(graph: Graph, features: list[str], size: int) -> str:
    """Of every box from its level, in the type of the maps: (D, width, S, S)."""
    area = _areas(graph)
    found = ""
    for i, (each, stride) in enumerate(zip(features, STRIDES, strict=True)):
        region = graph.add(
            "RoiAlign", graph.wide(each), BOXES, IMAGES, out=f"level_{i}/regions",
            mode="avg", coordinate_transformation_mode="output_half_pixel",
            output_height=size, output_width=size, sampling_ratio=_SAMPLES,
            spatial_scale=1.0 / stride,
        )  # fmt: skip
        if not found:
            found = region
            continue
        least = _CANONICAL * stride / _CANONICAL_STRIDE * 2.0**-_TOLERANCE
        bound = graph.scalar(least**2, np.float32)
        larger = graph.add("GreaterOrEqual", area, bound, out=f"level_{i}/larger")
        found = graph.add("Where", larger, region, found, out=f"level_{i}/chosen")
    return found if graph.maps == np.float32 else graph.cast(found, graph.maps, "regions/narrow")


def _areas(graph: Graph) -> str:
    """Of the boxes, in pixels: (D, 1, 1, 1)."""
    sides = []
    for side, (low, high) in {"width": (0, 2), "height": (1, 3)}.items():
        ends = [
            graph.add("Gather", BOXES, graph.integers(end), out=f"boxes/{side}/{end}", axis=1)
            for end in (high, low)
        ]
        sides.append(graph.add("Sub", *ends, out=f"boxes/{side}"))
    area = graph.add("Mul", *sides, out="boxes/area")
    return graph.add("Unsqueeze", area, graph.integers(2, 3), out="boxes/area/planes")
