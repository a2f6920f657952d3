"""Layers of a bundle's network as nodes: convolutions of both kinds, in the type of the maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from engines.export.onnx.graph import Graph, Tensors


class Shape(NamedTuple):
    """Of a convolution: channels out and in, and pixels on a side of the kernel."""

    outputs: int
    inputs: int
    kernel: int = 1


class Layers:
    """Adds layers to a graph, each named as its tensors are in the bundle, behind `prefix`."""

    def __init__(self, graph: Graph, weights: Tensors, prefix: str = "") -> None:
        self.graph = graph
        self._weights = weights
        self._prefix = prefix

    def below(self, prefix: str) -> Layers:
        """Layers of the same graph whose tensors are named so in the bundle."""
        return Layers(self.graph, self._weights, f"{self._prefix}{prefix}")

    def take(self, name: str, *shape: int) -> npt.NDArray[np.float32]:
        """A tensor of the bundle. Raises BundleError where it is missing or of another shape."""
        return self._weights.take(f"{self._prefix}{name}", *shape)

    def constant(self, name: str, *shape: int, dtype: npt.DTypeLike = np.float32) -> str:
        """A tensor of the bundle as it is there."""
        return self.graph.constant(name, self.take(name, *shape), dtype)

    def convolution(
        self,
        x: str,
        name: str,
        shape: Shape,
        *,
        stride: int = 1,
        groups: int = 1,
        out: str | None = None,
    ) -> str:
        """A standard one with a bias; at a stride of 1 the map keeps its size. out: what the result
        is called where one convolution is used more than once."""
        weight = self.take(
            f"{name}.weight", shape.outputs, shape.inputs // groups, shape.kernel, shape.kernel
        )
        return self.graph.add(
            "Conv", x, self._stored(f"{name}.weight", weight), self._bias(name, shape),
            out=out or name, strides=[stride] * 2, pads=[shape.kernel // 2] * 4, group=groups,
        )  # fmt: skip

    def doubling(self, x: str, name: str, outputs: int, inputs: int) -> str:
        """A transposed convolution of 2x2 pixels with a stride of 2: a map of twice the size."""
        weight = self.take(f"{name}.weight", inputs, outputs, 2, 2)
        return self.graph.add(
            "ConvTranspose", x, self._stored(f"{name}.weight", weight),
            self._bias(name, Shape(outputs, inputs)),
            out=name, kernel_shape=[2, 2], strides=[2, 2],
        )  # fmt: skip

    def skipping(
        self,
        operator: str,
        x: str,
        lists: Sequence[str],
        name: str,
        shape: Shape,
        *,
        attributes: Mapping[str, int],
        stride: int = 1,
        residual: str | None = None,
        out: str | None = None,
    ) -> str:
        """One of our own operators: a convolution of what is in the lists. out: what the result is
        called where one convolution is used more than once."""
        weight = self.take(f"{name}.weight", *shape[:2], shape.kernel, shape.kernel)
        stored = self._stored(f"{name}.weight", weight.transpose(2, 3, 1, 0))
        (y,) = self.graph.laud(
            operator, x, *lists, stored, self._bias(name, shape),
            *([] if residual is None else [residual]), out=[out or name],
            stride=stride, **attributes,
        )  # fmt: skip
        return y

    def relu(self, x: str) -> str:
        """The map without what is negative."""
        return self.graph.add("Relu", x, out=f"{x}/relu")

    def linear(self, x: str, name: str, outputs: int, inputs: int) -> str:
        """A linear layer in float32: (N, inputs) to (N, outputs)."""
        weight = self.constant(f"{name}.weight", outputs, inputs)
        bias = self.constant(f"{name}.bias", outputs)
        return self.graph.add("Gemm", x, weight, bias, out=name, transB=1)

    def pointwise(self, x: str, name: str, outputs: int, inputs: int) -> str:
        """A 1x1 convolution of a map of one pixel as a linear layer."""
        weight = self.take(f"{name}.weight", outputs, inputs, 1, 1).reshape(outputs, inputs)
        stored = self.graph.constant(f"{name}.weight", weight, np.float32)
        bias = self.constant(f"{name}.bias", outputs)
        return self.graph.add("Gemm", x, stored, bias, out=name, transB=1)

    def _stored(self, name: str, array: npt.NDArray[np.float32]) -> str:
        return self.graph.constant(name, np.ascontiguousarray(array), self.graph.maps)

    def _bias(self, name: str, shape: Shape) -> str:
        return self.constant(f"{name}.bias", shape.outputs, dtype=self.graph.maps)
