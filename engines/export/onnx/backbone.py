"""From an image of bytes to the map of every stage: what classifiers and detectors share."""

from __future__ import annotations

import numpy as np

from engines.architecture import RegNet, ResNet
from engines.errors import BundleError
from engines.export.onnx.blocks import Blocks
from engines.export.onnx.graph import Graph
from engines.export.onnx.layers import Layers, Shape
from engines.export.onnx.maskers import Maskers
from engines.manifest import Manifest, Preprocessing

IMAGE = "image"

# A map of one pixel would need another padding of the stem's pool than all others.
_LEAST_SIZE = 3


def check_network(manifest: Manifest) -> None:
    """Raises BundleError for networks whose meaning the operators do not have."""
    net = manifest.architecture
    if not net.folded or net.official_layout:
        raise BundleError(
            f"'{manifest.name}': ONNX is made of networks with folded batch norm, in our own layout"
        )
    for record in manifest.points:
        if record.point.image_size < _LEAST_SIZE:
            raise BundleError(
                f"'{manifest.name}': point '{record.point.name}' has images of "
                f"{record.point.image_size} px; ONNX is made for {_LEAST_SIZE} px and more"
            )


def inputs(graph: Graph, manifest: Manifest) -> Maskers:
    """Adds the inputs: `image`, uint8 (N, H, W, 3), and those of maskers, which are returned."""
    graph.input(IMAGE, np.uint8, ["N", "H", "W", 3])
    return Maskers(graph, len(manifest.full.point.thresholds))


def backbone(graph: Graph, layers: Layers, manifest: Manifest, maskers: Maskers) -> list[str]:
    """Adds the stem and all blocks; returns the output map of every stage."""
    net = manifest.architecture
    x = _stem(graph, layers, net, _normalised(graph, IMAGE, manifest.preprocessing))
    blocks = Blocks(layers, net, maskers)
    maps: dict[int, str] = {}
    for block in net.blocks:
        x = blocks.add(x, block)
        maps[block.stage] = x
    return [maps[stage] for stage in sorted(maps)]


def _normalised(graph: Graph, image: str, preprocessing: Preprocessing) -> str:
    """Bytes to (value - mean) / std in float32, then to the type of the maps: (N, 3, H, W)."""
    numbers = graph.cast(image, np.float32, "image/numbers")
    planes = graph.add("Transpose", numbers, out="image/planes", perm=[0, 3, 1, 2])
    if preprocessing.channel_order == "bgr":
        order = graph.integers(2, 1, 0)
        planes = graph.add("Gather", planes, order, out="image/bgr", axis=1)
    mean, std = (
        graph.constant(f"image.{part}", np.reshape(values, (1, 3, 1, 1)), np.float32)
        for part, values in (("mean", preprocessing.mean), ("std", preprocessing.std))
    )
    centred = graph.add("Sub", planes, mean, out="image/centred")
    scaled = graph.add("Div", centred, std, out="image/scaled")
    return scaled if graph.maps == np.float32 else graph.cast(scaled, graph.maps, "image/narrow")


def _stem(graph: Graph, layers: Layers, net: ResNet | RegNet, x: str) -> str:
    kernel = net.stem_kernel
    x = layers.convolution(x, "conv1", Shape(net.stem_width, 3, kernel), stride=2)
    x = layers.relu(x)
    if isinstance(net, RegNet):
        return x
    pads = [1, 1, 1, 1] if net.stem_pool == "padded" else [0, 0, 1, 1]
    return graph.add("MaxPool", x, out="pool", kernel_shape=[3, 3], strides=[2, 2], pads=pads)
