"""The static form of a detector as an OpenVINO model, from pixels to boxes and masks.

Everything is OpenVINO's own operators, the choice among boxes and the masks of what was chosen too.
Nodes are called by their part: `stem/...`, `stage_1/...` on, `pyramid/...`, `heads/...`,
`choice/...` and `masks/...`.
"""

from __future__ import annotations

import numpy as np
import openvino as ov
from openvino import opset14 as ops

from engines.architecture import MapSize, only_resnet
from engines.bench.detectors.objects import Answers, choose, with_masks
from engines.bench.detectors.work import CHOICE, HEADS, MASKS, PYRAMID
from engines.bench.openvino_graph import (
    INPUT,
    Tensors,
    backbone,
    convolution,
    name_part,
    relu,
    taking_bytes,
)
from engines.bundle import Bundle
from engines.cpu.detector_weights import detector_shapes
from engines.cpu.weights import checked_weights
from engines.detection.architecture import Detector, pyramid_sizes
from engines.errors import BundleError

_BODY, _HEAD = "dense.body.", "dense.head"


def static_detector(bundle: Bundle, size: int) -> ov.Model:
    """From uint8 (1, size, size, 3) RGB to `boxes` (D, 4) in pixels, `scores` (D,), `labels` (D,)
    and, where the detector has them, `masks` (D, M, M), `Detector.mask_size` on a
    side; in no order. Nothing is skipped.

    Raises BundleError where the bundle finds no objects or tensors do not fit.
    """
    manifest, detector = bundle.manifest, bundle.manifest.detector
    net = only_resnet(manifest.architecture, "the benchmark")
    if detector is None:
        raise BundleError(f"'{bundle.path}' finds no objects: its task is {manifest.task}")
    weights = checked_weights(bundle, detector_shapes(net, detector))
    body = {
        name.removeprefix(_BODY): value for name, value in weights.items() if name.startswith(_BODY)
    }
    image = ops.parameter([1, 3, size, size], np.float32, name=INPUT)
    maps = backbone(image, body, net, size, manifest.preprocessing)
    features = _pyramid(maps, weights)
    name_part(PYRAMID, features)
    levels = [_heads(each, weights, detector) for each in features]
    name_part(HEADS, [answer for level in levels for answer in level])
    sizes = pyramid_sizes(net, MapSize(size, size))
    found = choose(levels, sizes, detector, net.num_classes, size)
    name_part(CHOICE, found.values())
    if detector.masks:
        found = with_masks(found, features, weights, detector)
        name_part(MASKS, found.values())
    results = [ops.result(each) for each in found.values()]
    model = ov.Model(results, [image], manifest.name)
    for output, name in zip(model.outputs, found, strict=True):
        output.set_names({name})
    return taking_bytes(model, manifest.preprocessing)


def dense_part(model: ov.Model) -> ov.Model:
    """Of a `static_detector`, also one in int8: what does not depend on the objects found.

    From the same image to what the heads answer at every level. The pyramid, which they read, is
    no output: handing it over would cost OpenVINO a change of layout that the whole does without.
    """
    model = model.clone()
    edge = [
        value
        for node in model.get_ordered_ops()
        if part_of(node) == CHOICE
        for value in node.input_values()
        if part_of(value.get_node()) == HEADS
    ]
    results = [ops.result(value) for value in edge]
    return ov.Model(results, model.get_parameters(), f"{model.friendly_name} dense")


def part_of(node: ov.Node) -> str:
    """The part that a node of a `static_detector` belongs to; empty for what OpenVINO added."""
    part, slash, _ = node.get_friendly_name().partition("/")
    return part if slash else ""


def _pyramid(maps: list[ov.Output], weights: Tensors) -> list[ov.Output]:
    """A map (1, width, h, w) for every stage, the finest first (arXiv:1612.03144)."""
    found: list[ov.Output] = []
    above: ov.Output | None = None
    for level in reversed(range(len(maps))):
        inner = convolution(maps[level], weights, f"dense.fpn.inner_blocks.{level}.0")
        if above is not None:
            larger = ops.interpolate(
                above,
                np.array([2.0, 2.0], np.float32),
                "nearest",
                "scales",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
                axes=np.array([2, 3], np.int64),
            )
            inner = ops.add(inner, larger).output(0)
        above = inner
        outer = convolution(inner, weights, f"dense.fpn.layer_blocks.{level}.0", pad=1)
        found.insert(0, outer)
    return found


def _heads(features: ov.Output, weights: Tensors, detector: Detector) -> Answers:
    """What a level answers at every place of it."""
    names = [f"{_HEAD}.{kind}" for kind in ("classification_head", "regression_head")]
    towers = []
    for name in names:
        x = features
        for i in range(detector.head_convs):
            # A convolution, an absent norm and a ReLU each.
            x = relu(convolution(x, weights, f"{name}.conv.{3 * i}", pad=1))
        towers.append(x)
    # Sides and centre read the same map: one layer is faster than two.
    joined = {
        f"sides.{kind}": np.concatenate(
            [weights[f"{names[1]}.{part}.{kind}"] for part in ("bbox_reg", "bbox_ctrness")]
        )
        for kind in ("weight", "bias")
    }
    return Answers(
        convolution(towers[0], weights, f"{names[0]}.cls_logits", pad=1),
        convolution(towers[1], joined, "sides", pad=1),
    )
