"""The static form of a bundle's network as an OpenVINO model, from the bundle's own weights."""

from __future__ import annotations

import numpy as np
import openvino as ov
from openvino import opset14 as ops
from openvino.preprocess import PrePostProcessor

from engines.architecture import Block, MapSize, ResNet, only_resnet
from engines.bundle import Bundle
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
    mean, std = list(manifest.preprocessing.mean), list(manifest.preprocessing.std)
    if manifest.preprocessing.channel_order == "bgr":
        # Turned in the weights rather than in the image, which costs nothing at run time.
        weights["conv1.weight"] = np.ascontiguousarray(weights["conv1.weight"][:, ::-1])
        mean, std = mean[::-1], std[::-1]
    image = ops.parameter([1, 3, size, size], np.float32, name=INPUT)
    x = _relu(_convolution(image, weights, "conv1", stride=2, pad=3))
    x = _stem_pool(x, net, MapSize(size, size))
    for block in net.blocks:
        x = _block(x, weights, block, net.stride_in_1x1)
    features = ops.reduce_mean(x, np.array([2, 3], np.int64), keep_dims=False)
    scores = ops.matmul(features, weights["fc.weight"], False, True) + weights["fc.bias"]
    model = ov.Model([ops.softmax(scores, 1)], [image], manifest.name)
    model.output(0).set_names({OUTPUT})
    return _taking_bytes(model, mean, std)


def _taking_bytes(model: ov.Model, mean: list[float], std: list[float]) -> ov.Model:
    processor = PrePostProcessor(model)
    taken = processor.input(0)
    taken.tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    taken.model().set_layout(ov.Layout("NCHW"))
    taken.preprocess().convert_element_type(ov.Type.f32).mean(mean).scale(std)
    return processor.build()


def _block(x: ov.Node, weights: Tensors, block: Block, stride_in_1x1: bool) -> ov.Node:
    first, second = (block.stride, 1) if stride_in_1x1 else (1, block.stride)
    y = _relu(_convolution(x, weights, f"{block.name}.conv1", stride=first))
    y = _relu(_convolution(y, weights, f"{block.name}.conv2", stride=second, pad=1))
    y = _convolution(y, weights, f"{block.name}.conv3")
    if block.projection:
        x = _convolution(x, weights, f"{block.name}.downsample.0", stride=block.stride)
    return _relu(ops.add(y, x))


def _convolution(
    x: ov.Node, weights: Tensors, name: str, *, stride: int = 1, pad: int = 0
) -> ov.Node:
    y = ops.convolution(
        x, weights[f"{name}.weight"], [stride, stride], [pad, pad], [pad, pad], [1, 1]
    )
    return ops.add(y, weights[f"{name}.bias"][None, :, None, None])


def _relu(x: ov.Node) -> ov.Node:
    return ops.relu(x)


def _stem_pool(x: ov.Node, net: ResNet, image: MapSize) -> ov.Node:
    begin, end = [1, 1], [1, 1]
    if net.stem_pool == "trailing":
        size = net.stem_sizes(image)[0]
        # As the network itself: a map of one pixel needs two more for one window.
        begin, end = [0, 0], [2 if side == 1 else 1 for side in (size.height, size.width)]
    return ops.max_pool(x, [2, 2], [1, 1], begin, end, [3, 3]).output(0)
