"""A network that finds objects: backbone, pyramid, dense heads, and the choice among their boxes.

Everything before the mask head, which is a file of its own (`masks`). What the reference's
`InstanceHeads.choose` does is standard ONNX here: the surest candidates of each level by TopK, and
NonMaxSuppression label by label. Of what that selects an image's surest MOST_DETECTIONS are its
objects.

Legend: N images, P places (pixels of all levels, the finest level first), C labels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from engines.architecture import ResNet
from engines.detection.architecture import (
    CANDIDATES_PER_LEVEL,
    LEVEL_UNITS,
    MOST_DETECTIONS,
    STRIDE,
    Detector,
    stage_channels,
)
from engines.errors import BundleError
from engines.export.onnx.backbone import IMAGE, backbone, inputs
from engines.export.onnx.graph import Graph
from engines.export.onnx.layers import Layers, Shape
from engines.export.onnx.levels import Level, SkippingLevel
from engines.export.onnx.maskers import Maskers
from engines.manifest import Manifest

BOXES, SCORES, SELECTED, FEATURES = "boxes", "scores", "selected", "features"

_HEADS = "dense.head"


class _Answers(NamedTuple):
    """Those of one level, float32: scores (N, C, h w), boxes (N, h w, 4) in pixels."""

    scores: str
    boxes: str


def detector(
    graph: Graph, layers: Layers, manifest: Manifest, shape: Detector, *, select: bool = True
) -> None:
    """All of it, from the tensors `dense.*` of a bundle. select: False leaves out the last step,
    whose answer has a size that follows from data.

    Outputs: `boxes`, float32 (N, P, 4): left, top, right, bottom in pixels of the image; `scores`,
    float32 (N, C, P), 0 where a place is no candidate; `selected`, int64 (K, 3): image, label and
    place of what non-maximum suppression left. Where objects have masks, `features_0` and on: the
    pyramid (N, width, h, w) that the mask head reads.
    """
    net = manifest.architecture
    if not isinstance(net, ResNet):
        raise BundleError(f"'{manifest.name}': a detector stands on a backbone of family 'resnet'")
    maskers = inputs(graph, manifest)
    maps = backbone(graph, layers.below("dense.body."), manifest, maskers)
    laterals = _laterals(layers, maps, stage_channels(net), shape.width)
    levels = _levels(layers, maps, laterals, shape, stage_channels(net), maskers)
    maskers.output()
    features = [
        level.smooth(lateral, f"dense.fpn.layer_blocks.{i}.0", shape.width)
        for i, (level, lateral) in enumerate(zip(levels, laterals, strict=True))
    ]
    heads = _Heads(graph, shape, net.num_classes)
    found = [heads.answers(i, *each) for i, each in enumerate(zip(levels, features, strict=True))]
    scores = graph.add("Concat", *[each.scores for each in found], out="scores/all", axis=2)
    boxes = graph.add("Concat", *[each.boxes for each in found], out="boxes/all", axis=1)
    graph.output(BOXES, boxes, np.float32, ["N", "P", 4])
    graph.output(SCORES, scores, np.float32, ["N", net.num_classes, "P"])
    if select:
        _selected(graph, shape, boxes, scores)
    if shape.masks:
        for i, each in enumerate(features):
            graph.output(f"{FEATURES}_{i}", each, graph.maps, ["N", shape.width, f"h{i}", f"w{i}"])


def _selected(graph: Graph, shape: Detector, boxes: str, scores: str) -> None:
    # The operator keeps what is above its threshold; the reference, what is at it too.
    least = np.nextafter(np.float32(shape.least_score), np.float32(0))
    selected = graph.add(
        "NonMaxSuppression",
        boxes,
        scores,
        graph.constant("most", [MOST_DETECTIONS], np.int64),
        graph.constant("overlap", [shape.overlap], np.float32),
        graph.constant("least", [least], np.float32),
        out="selected/all",
    )
    graph.output(SELECTED, selected, np.int64, ["K", 3])


def _laterals(layers: Layers, maps: list[str], channels: tuple[int, ...], width: int) -> list[str]:
    """A map (N, width, h, w) for every stage, the finest first, each with what is above it added
    (arXiv:1612.03144). They are computed everywhere: coarse levels feed finer ones."""
    found: list[str] = []
    above: str | None = None
    for i in reversed(range(len(maps))):
        inner = layers.convolution(
            maps[i], f"dense.fpn.inner_blocks.{i}.0", Shape(width, channels[i])
        )
        if above is not None:
            # Image sizes are multiples of the coarsest stride, so every level halves exactly.
            larger = layers.graph.add(
                "Resize", above, "", layers.graph.constant("twice", [1, 1, 2, 2], np.float32),
                out=f"{inner}/above", mode="nearest", nearest_mode="floor",
                coordinate_transformation_mode="asymmetric",
            )  # fmt: skip
            inner = layers.graph.add("Add", inner, larger, out=f"{inner}/sum")
        above = inner
        found.insert(0, inner)
    return found


def _levels(
    layers: Layers,
    maps: list[str],
    laterals: list[str],
    shape: Detector,
    channels: tuple[int, ...],
    maskers: Maskers,
) -> list[Level]:
    """How each level is computed, after its masker was asked where it has one."""
    names = [f"level_{i}" for i in range(len(maps))]
    if shape.level_patches is None:
        return [Level(layers, name) for name in names]
    asked = [
        maskers.patches(
            layers,
            maps[look],
            f"dense.level_maskers.{i}",
            channels[look],
            unit=patch,
            window=window,
        )
        for i, (look, window, patch) in enumerate(
            zip(shape.looks, shape.windows, shape.level_patches, strict=True)
        )
    ]
    return [
        SkippingLevel(layers, name, like, patches)
        for name, like, patches in zip(names, laterals, asked, strict=True)
    ]


class _Heads:
    """Towers and their answers, the same at every level."""

    def __init__(self, graph: Graph, shape: Detector, num_labels: int) -> None:
        self._graph, self._shape = graph, shape
        self._labels = num_labels

    def answers(self, i: int, level: Level, features: str) -> _Answers:
        """Candidates of level `i`, the finest being 0."""
        graph, at = self._graph, f"level_{i}"
        classes = self._tower(level, features, "classification_head")
        logits = self._answer(level, classes, "classification_head.cls_logits", self._labels)
        sides = self._tower(level, features, "regression_head")
        distances = self._answer(level, sides, "regression_head.bbox_reg", 4)
        centres = self._answer(level, sides, "regression_head.bbox_ctrness", 1)
        parts = [graph.add("Sigmoid", each, out=f"{each}/sigmoid") for each in (logits, centres)]
        product = graph.add("Mul", *parts, out=f"{at}/product")
        scores = graph.add("Sqrt", product, out=f"{at}/scores")
        distances = graph.add("Relu", distances, out=f"{at}/distances")
        return _Answers(self._surest(scores, at), self._boxes(distances, features, i))

    def _tower(self, level: Level, x: str, head: str) -> str:
        for j in range(self._shape.head_convs):
            # A convolution, an absent norm and a ReLU each.
            x = level.tower(x, f"{_HEADS}.{head}.conv.{3 * j}", self._shape.width)
        return x

    def _answer(self, level: Level, x: str, head: str, channels: int) -> str:
        """Of every place, in float32: (N, h w, channels)."""
        narrow = level.answer(x, f"{_HEADS}.{head}", Shape(channels, self._shape.width, 3))
        y = self._graph.wide(narrow)
        last = self._graph.add("Transpose", y, out=f"{y}/last", perm=[0, 2, 3, 1])
        rows = self._graph.integers(0, -1, channels)
        return self._graph.add("Reshape", last, rows, out=f"{narrow}/places")

    def _surest(self, scores: str, at: str) -> str:
        """Scores (N, C, h w) with 0 for all but the surest CANDIDATES_PER_LEVEL."""
        graph = self._graph
        flat = graph.add("Flatten", scores, out=f"{at}/flat", axis=1)
        count = graph.add("Shape", flat, out=f"{at}/flat/count", start=1, end=2)
        most = graph.add("Min", count, graph.integers(CANDIDATES_PER_LEVEL), out=f"{at}/most")
        names = [f"{at}/surest", f"{at}/surest/places"]
        surest, places = graph.several("TopK", flat, most, out=names, axis=1)
        shape = graph.add("Shape", flat, out=f"{at}/flat/shape")
        nothing = graph.add("ConstantOfShape", shape, out=f"{at}/nothing")
        kept = graph.add("ScatterElements", nothing, places, surest, out=f"{at}/kept", axis=1)
        rows = graph.add(
            "Reshape", kept, graph.integers(0, -1, self._labels), out=f"{at}/kept/places"
        )
        return graph.add("Transpose", rows, out=f"{at}/kept/labels", perm=[0, 2, 1])

    def _boxes(self, distances: str, features: str, i: int) -> str:
        """Distances (N, h w, 4) in units, from every place, as boxes cut to the image."""
        graph, at = self._graph, f"level_{i}"
        stride = STRIDE >> (len(LEVEL_UNITS) - 1 - i)
        centres = self._centres(features, stride, at)
        unit = float(LEVEL_UNITS[i])
        reach = graph.constant(f"{at}/units", [-unit, -unit, unit, unit], np.float32)
        sides = graph.add("Mul", distances, reach, out=f"{at}/sides")
        boxes = graph.add("Add", sides, centres, out=f"{at}/uncut")
        above = graph.add("Max", boxes, graph.scalar(0.0, np.float32), out=f"{at}/above")
        return graph.add("Min", above, self._limits(), out=f"{at}/boxes")

    def _centres(self, features: str, stride: int, at: str) -> str:
        """x, y, x, y of every place, float32 (h w, 4)."""
        graph = self._graph
        zero, one = graph.scalar(0, np.int64), graph.scalar(1, np.int64)
        apart = graph.scalar(stride, np.int64)
        size = graph.add("Shape", features, out=f"{at}/size", start=2, end=4)
        places = []
        # Columns of a row, then rows of a column, each spread over the whole level.
        for side, axis, across in (("x", 1, 0), ("y", 0, 1)):
            index = graph.scalar(axis, np.int64)
            count = graph.add("Gather", size, index, out=f"{at}/{side}/count")
            numbers = graph.add("Range", zero, count, one, out=f"{at}/{side}/numbers")
            pixels = graph.add("Mul", numbers, apart, out=f"{at}/{side}/pixels")
            line = graph.add("Unsqueeze", pixels, graph.integers(across), out=f"{at}/{side}/line")
            whole = graph.add("Expand", line, size, out=f"{at}/{side}/whole")
            column = graph.add("Reshape", whole, graph.integers(-1, 1), out=f"{at}/{side}/column")
            places.append(graph.cast(column, np.float32, f"{at}/{side}"))
        return graph.add("Concat", *places, *places, out=f"{at}/centres", axis=1)

    def _limits(self) -> str:
        """Width, height, width, height of the image, float32 (4,)."""
        name, graph = "image/limits", self._graph
        if not graph.has(name):
            size = graph.add("Shape", IMAGE, out="image/size", start=1, end=3)
            order = graph.integers(1, 0, 1, 0)
            sides = graph.add("Gather", size, order, out="image/sides", axis=0)
            graph.cast(sides, np.float32, name)
        return name
