"""A network that labels images: backbone, mean, classifier, softmax."""

from __future__ import annotations

import numpy as np

from engines.export.onnx.backbone import backbone, inputs
from engines.export.onnx.graph import Graph
from engines.export.onnx.layers import Layers
from engines.manifest import Manifest

PROBABILITIES = "probabilities"


def classifier(graph: Graph, layers: Layers, manifest: Manifest) -> None:
    """All of it, with the output `probabilities`, float32 (N, classes)."""
    net = manifest.architecture
    maskers = inputs(graph, manifest)
    features = graph.wide(backbone(graph, layers, manifest, maskers)[-1])
    maskers.output()
    mean = graph.add("ReduceMean", features, graph.integers(2, 3), out="features", keepdims=0)
    scores = layers.linear(mean, "fc", net.num_classes, net.num_features)
    answer = graph.add("Softmax", scores, out="softmax", axis=1)
    graph.output(PROBABILITIES, answer, np.float32, ["N", net.num_classes])
