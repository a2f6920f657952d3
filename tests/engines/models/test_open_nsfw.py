"""Reading Yahoo's network off its graph: small graphs of the same form, and ones gone wrong."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper

from engines.architecture import ResNet, Stage
from engines.errors import CheckpointError
from engines.models import open_nsfw
from engines.models.open_nsfw import load_open_nsfw, read_open_nsfw

pytestmark = pytest.mark.torch

NAMES = [
    "conv1",
    *(f"layer1.0.{part}" for part in ("downsample.0", "conv1", "conv2", "conv3")),
    *(f"layer1.1.{part}" for part in ("conv1", "conv2", "conv3")),
    *(f"layer2.0.{part}" for part in ("downsample.0", "conv1", "conv2", "conv3")),
]
"""Two stages, of two blocks and of one."""


class Graph:
    """A graph of that form; convolution k has weights k + 1 and is called by its number."""

    def __init__(self, *, shortcut_first: bool) -> None:
        self.nodes: list[Any] = []
        self.arrays: dict[str, Any] = {}
        self.named: dict[str, int] = {}
        x = self._conv("conv1", "image", 4)
        for block, projects in (("layer1.0", True), ("layer1.1", False), ("layer2.0", True)):
            x = self._block(block, x, projects, shortcut_first)
        self._store("head", np.arange(8, dtype=np.float32).reshape(4, 2))
        self._store("head_bias", np.array([0.5, -0.5], np.float32))
        self._node("MatMul", [x, "head"], "product")
        self._node("Add", ["product", "head_bias"], "answer")

    def _block(self, name: str, x: str, projects: bool, shortcut_first: bool) -> str:
        shortcut = x
        if projects and shortcut_first:
            shortcut = self._conv(f"{name}.downsample.0", x, 8)
        y = self._conv(f"{name}.conv1", x, 2)
        y = self._conv(f"{name}.conv2", y, 2)
        y = self._conv(f"{name}.conv3", y, 8)
        if projects and not shortcut_first:
            shortcut = self._conv(f"{name}.downsample.0", x, 8)
        self._node("Add", [shortcut, y], f"{name}.sum")
        return f"{name}.sum"

    def _conv(self, name: str, x: str, channels: int) -> str:
        number = self.named[name] = len(self.named)
        self._store(f"w{number}", np.full((channels, 1, 1, 1), number + 1, np.float32))
        self._store(f"b{number}", np.full(channels, -number, np.float32))
        self._node("Conv", [x, f"w{number}", f"b{number}"], f"conv_{number}")
        return f"conv_{number}"

    def _node(self, kind: str, inputs: list[str], output: str) -> None:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output))

    def _store(self, name: str, value: Any) -> None:
        self.arrays[name] = value

    def node(self, name: str) -> Any:
        """The node that makes that output."""
        return next(node for node in self.nodes if node.output[0] == name)

    def write(self, path: Path) -> Path:
        """As an ONNX file."""
        stored = [numpy_helper.from_array(value, name) for name, value in self.arrays.items()]
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            for name in ("image", "answer")
        ]
        graph = helper.make_graph(self.nodes, "g", ends[:1], ends[1:], initializer=stored)
        onnx.save(helper.make_model(graph), path)
        return path


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two and one blocks instead of 3, 4, 6 and 3."""
    monkeypatch.setattr(open_nsfw, "_DEPTHS", (2, 1))


@pytest.fixture
def graph() -> Graph:
    return Graph(shortcut_first=True)


@pytest.mark.parametrize("shortcut_first", [True, False])
def test_layers_are_told_apart_by_where_they_stand(tmp_path: Path, shortcut_first: bool) -> None:
    graph = Graph(shortcut_first=shortcut_first)
    state = read_open_nsfw(graph.write(tmp_path / "net.onnx"))
    fields = {f"{name}.{part}" for name in NAMES for part in ("weight", "bias")}
    assert state.keys() == fields | {"fc.weight", "fc.bias"}
    for name in NAMES:
        number = graph.named[name]
        assert np.unique(state[f"{name}.weight"]).tolist() == [number + 1]
        assert np.unique(state[f"{name}.bias"]).tolist() == [-number]


def test_the_head_is_transposed(tmp_path: Path, graph: Graph) -> None:
    state = read_open_nsfw(graph.write(tmp_path / "net.onnx"))
    assert state["fc.weight"].tolist() == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert state["fc.bias"].tolist() == [0.5, -0.5]


def refused(graph: Graph, folder: Path, says: str) -> None:
    with pytest.raises(CheckpointError, match=rf"net\.onnx'.*{says}"):
        read_open_nsfw(graph.write(folder / "net.onnx"))


def test_a_convolution_without_bias(tmp_path: Path, graph: Graph) -> None:
    """As one would export it with batch norm still there."""
    del graph.node("conv_3").input[2]
    refused(graph, tmp_path, "'conv_3' has no bias")


def test_a_convolution_too_many(tmp_path: Path, graph: Graph) -> None:
    graph.nodes.append(helper.make_node("Conv", ["image", "w0", "b0"], ["more"]))
    refused(graph, tmp_path, "has 13 convolutions, the open_nsfw ResNet has 12")


def test_a_weight_that_is_computed(tmp_path: Path, graph: Graph) -> None:
    del graph.arrays["w5"]
    refused(graph, tmp_path, "computes 'w5' instead of storing it")


@pytest.mark.parametrize("count", [0, 2])
def test_another_number_of_classifiers(tmp_path: Path, graph: Graph, count: int) -> None:
    if count:
        graph.nodes.append(helper.make_node("MatMul", ["image", "head"], ["second"]))
    else:
        graph.nodes.remove(graph.node("product"))
    refused(graph, tmp_path, f"has {count} classifiers instead of one")


@pytest.mark.parametrize("kind", [None, "Relu"])
def test_a_classifier_without_bias(tmp_path: Path, graph: Graph, kind: str | None) -> None:
    graph.nodes.remove(graph.node("answer"))
    if kind:
        graph.nodes.append(helper.make_node(kind, ["product"], ["answer"]))
    refused(graph, tmp_path, "no bias follows the classifier")


def test_weights_of_other_shapes_are_listed(tmp_path: Path, graph: Graph) -> None:
    stages = tuple(Stage(depth=depth, width=2) for depth in (2, 1))
    net = ResNet(stem_width=4, stages=stages, num_classes=2, folded=True)
    with pytest.raises(CheckpointError, match=r"wrong shape: conv1\.weight \(4, 1, 1, 1\)"):
        load_open_nsfw(graph.write(tmp_path / "net.onnx"), net)


def test_without_onnx_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(CheckpointError, match=r"needs: pip install 'laudserve\[train\]'"):
        read_open_nsfw(tmp_path / "net.onnx")
