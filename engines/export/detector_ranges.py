"""How large the activations of a detector get, from its stem to its masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from engines.bundle import DetectorScales, Preprocessing
from engines.core import OperatingPoint, UInt8Array
from engines.detection.architecture import LEVELS
from engines.detection.quantisation import TOWERS
from engines.export.ranges import Method, Ranges, input_of, watch_backbone, watched
from engines.models.detection import LaudDetector
from engines.models.inputs import normalise
from engines.quantisation import WEIGHT_MAX
from engines.reference.deciding import point_decision

MOST_VIEWS = 96
"""Pictures looked at, all points together: one at 512 px has tens of millions of numbers."""


@dataclass(frozen=True)
class Seen:
    """What activations there were, and in how many pictures."""

    ranges: Ranges
    pictures: int


@torch.inference_mode()
def observe_detector(
    model: LaudDetector,
    points: Sequence[OperatingPoint],
    pixels: Callable[[int, int], UInt8Array],
    pictures: int,
    preprocessing: Preprocessing,
    say: Callable[[str], None],
) -> Seen:
    """Activations at every point, each of which sees its own share of the pictures, evenly spread.

    pixels: of picture `i` of so many at a size, (size, size, 3).
    """
    ranges = Ranges(model.net)
    model.eval()
    count = min(pictures, max(MOST_VIEWS // len(points), 1))
    looked_at: set[int] = set()
    with watched([*watch_backbone(model.dense.body, ranges), *_watch_heads(model, ranges)]):
        for i, point in enumerate(points):
            say(f"observing activations at '{point.name}' on {count} pictures")
            decide = point_decision(point)
            for k in range(count):
                place = (k * len(points) + i) * pictures // (count * len(points))
                looked_at.add(place)
                image = pixels(place, point.image_size)
                model.detect(normalise(image[None], preprocessing), decide)
    return Seen(ranges, len(looked_at))


def detector_scales(model: LaudDetector, ranges: Ranges, method: Method) -> dict[str, Any]:
    """The scales of `engines.bundle.Quantisation` by field. Of what no picture has shown, as masks
    where no object was found, the range is 1."""
    detector = model.detector

    def of(name: str) -> float:
        return ranges.scale(name, method)

    own = DetectorScales(
        sums=cast(
            tuple[float, float, float, float],
            tuple(ranges.scale(f"sums.{i}", method, WEIGHT_MAX) for i in range(LEVELS)),
        ),
        pyramid=ranges.scale("pyramid", method, WEIGHT_MAX),
        classes=tuple(of(f"classes.{i}") for i in range(detector.head_convs)),
        boxes=tuple(of(f"boxes.{i}") for i in range(detector.head_convs)),
        masks=tuple(of(f"masks.{i}") for i in range(detector.mask_convs + 1))
        if detector.masks
        else (),
    )
    return {**ranges.backbone(method), "detector": own}


def _watch_heads(model: LaudDetector, ranges: Ranges) -> list[Any]:
    handles: list[Any] = []
    layers = model.dense.fpn.layer_blocks
    for level in range(LEVELS):
        handles.append(layers[level].register_forward_pre_hook(input_of(f"sums.{level}", ranges)))
        handles.append(layers[level].register_forward_hook(_output_of("pyramid", ranges)))
    head = model.dense.head
    towers = (head.classification_head.conv, head.regression_head.conv)
    for name, tower in zip(TOWERS, towers, strict=True):
        activations = [layer for layer in cast(nn.Sequential, tower) if isinstance(layer, nn.ReLU)]
        for i, layer in enumerate(activations):
            handles.append(layer.register_forward_hook(_output_of(f"{name}.{i}", ranges)))
    if model.detector.masks:
        instances, convs = model.instances, model.detector.mask_convs
        for i in range(convs):
            conv = cast(nn.Sequential, instances.mask_head)[i]
            handles.append(conv.register_forward_hook(_output_of(f"masks.{i}", ranges)))
        last = instances.mask_predictor.mask_fcn_logits
        handles.append(last.register_forward_pre_hook(input_of(f"masks.{convs}", ranges)))
    return handles


def _output_of(name: str, ranges: Ranges) -> Callable[[Any, Any, Tensor], None]:
    return lambda module, inputs, output: ranges.add(name, output)
