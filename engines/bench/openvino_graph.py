"""The static form of a bundle's network as an OpenVINO model, from the bundle's own weights."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import openvino as ov
from openvino import opset14 as ops
from openvino.preprocess import PrePostProcessor

from engines.architecture import Block, MapSize, ResNet, only_resnet
from engines.bundle import Bundle, Preprocessing
from engines.core import Float32Array
from engines.cpu.weights import checked_weights

INPUT, OUTPUT = "image", "probabilities"

Tensors = dict[str, Float32Array]


def static_network(bundle: Bundle, size: int) -> ov.Model:
    """From uint8 (1, size, size, 3) RGB to probabilities (1, classes), nothing skipped.

    Normalisation is in OpenVINO's preprocessor; batch norm is folded, as in every bundle that the
    cpu engine runs. Raises BundleError when tensors do not fit the architecture.
    """
    manifest = bundle.manifest
    net = only_resnet(manifest.architecture, "the benchmark")
    weights = checked_weights(bundle)
    image = ops.parameter([1, 3, size, size], np.float32, name=INPUT)
    x = backbone(image, weights, net, size, manifest.preprocessing)[-1]
    features = ops.reduce_mean(x, np.array([2, 3], np.int64), keep_dims=False)
    scores = ops.matmul(features, weights["fc.weight"], False, True) + weights["fc.bias"]
    model = ov.Model([ops.softmax(scores, 1)], [image], manifest.name)
    model.output(0).set_names({OUTPUT})
    return taking_bytes(model, manifest.preprocessing)


def backbone(
    image: ov.Node, weights: Tensors, net: ResNet, size: int, preprocessing: Preprocessing
) -> list[ov.Output]:
    """What every stage answers to `image` (1, 3, size, size), in order.

    Nodes are called `stem/...` and `stage_1/...` on.
    """
    weights = dict(weights)
    if preprocessing.channel_order == "bgr":
        # Turned in the weights rather than in the image, which costs nothing at run time.
        weights["conv1.weight"] = np.ascontiguousarray(weights["conv1.weight"][:, ::-1])
    x = relu(convolution(image.output(0), weights, "conv1", stride=2, pad=3))
    x = _stem_pool(x, net, MapSize(size, size))
    name_part("stem", [x])
    maps: list[ov.Output] = []
    for i, block in enumerate(net.blocks):
        x = _block(x, weights, block, net.stride_in_1x1)
        name_part(f"stage_{block.stage + 1}", [x])
        if i + 1 == len(net.blocks) or net.blocks[i + 1].stage != block.stage:
            maps.append(x)
    return maps


def name_part(part: str, outputs: Iterable[ov.Output]) -> None:
    """Put `part/` before the names of all nodes that these need and no part has yet."""
    left = [output.get_node() for output in outputs]
    while left:
        node = left.pop()
        name = node.get_friendly_name()
        if "/" in name or node.get_type_name() == "Parameter":
            continue
        node.set_friendly_name(f"{part}/{name}")
        left += [value.get_node() for value in node.input_values()]


def taking_bytes(model: ov.Model, preprocessing: Preprocessing) -> ov.Model:
    """The same from uint8 NHWC RGB, normalised by OpenVINO."""
    mean, std = list(preprocessing.mean), list(preprocessing.std)
    if preprocessing.channel_order == "bgr":
        mean, std = mean[::-1], std[::-1]
    processor = PrePostProcessor(model)
    taken = processor.input(0)
    taken.tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    taken.model().set_layout(ov.Layout("NCHW"))
    taken.preprocess().convert_element_type(ov.Type.f32).mean(mean).scale(std)
    return processor.build()


def convolution(
    x: ov.Output, weights: Tensors, name: str, *, stride: int = 1, pad: int = 0
) -> ov.Output:
    """With its bias."""
    y = ops.convolution(
        x, weights[f"{name}.weight"], [stride, stride], [pad, pad], [pad, pad], [1, 1]
    )
    return ops.add(y, weights[f"{name}.bias"][None, :, None, None]).output(0)


def relu(x: ov.Output) -> ov.Output:
    """Of a map."""
    return ops.relu(x).output(0)


def _block(x: ov.Output, weights: Tensors, block: Block, stride_in_1x1: bool) -> ov.Output:
    first, second = (block.stride, 1) if stride_in_1x1 else (1, block.stride)
    y = relu(convolution(x, weights, f"{block.name}.conv1", stride=first))
    y = relu(convolution(y, weights, f"{block.name}.conv2", stride=second, pad=1))
    y = convolution(y, weights, f"{block.name}.conv3")
    if block.projection:
        x = convolution(x, weights, f"{block.name}.downsample.0", stride=block.stride)
    return relu(ops.add(y, x).output(0))


def _stem_pool(x: ov.Output, net: ResNet, image: MapSize) -> ov.Output:
    begin, end = [1, 1], [1, 1]
    if net.stem_pool == "trailing":
        size = net.stem_sizes(image)[0]
        # As the network itself: a map of one pixel needs two more for one window.
        begin, end = [0, 0], [2 if side == 1 else 1 for side in (size.height, size.width)]
    return ops.max_pool(x, [2, 2], [1, 1], begin, end, [3, 3]).output(0)
