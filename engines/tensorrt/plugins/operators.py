"""Operators of the domain `laud` as plugins: tensors, output shapes, kernels.

Neither TensorRT nor Triton is needed here. `engines.export.onnx.operators` says what each operator
means; names, inputs, outputs and attributes are the same. Sizes are ints, or TensorRT's expressions
of ints, which know +, * and // with an int on the right. Maps are (N, C, H, W) by their shape and
NHWC in memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from engines.errors import EngineError
from engines.tensorrt.spec import (
    WHOLE_MAP,
    ConvSpec,
    DilateSpec,
    Dtype,
    KernelSpec,
    PartitionSpec,
)

NAMESPACE = "laud"
"""Of all plugins; the domain of the nodes."""

Kind = Literal["map", "weight", "list", "number"]
"""Of a tensor. map, weight: of the layer's type; list: int32; number: float32."""

Size = Any
Shapes = Mapping[str, Sequence[Size]]
"""Of inputs, by name."""

Attributes = Mapping[str, int]


@dataclass(frozen=True)
class Launch:
    """A kernel, what it is told about sizes, in order, and how many programs run, by axis."""

    spec: KernelSpec
    numbers: Sequence[Size]
    grid: tuple[Size, Size, Size]


class Operator(ABC):
    """What a plugin has to tell of an operator."""

    @property
    @abstractmethod
    def inputs(self) -> Mapping[str, Kind]:
        """In the order of the node and of the kernel."""

    @property
    @abstractmethod
    def attributes(self) -> Sequence[str]:
        """Single integers, all of them given."""

    @property
    @abstractmethod
    def outputs(self) -> Mapping[str, Kind]:
        """In the order of the node and of the kernel."""

    @abstractmethod
    def output_shapes(self, shapes: Shapes, attributes: Attributes) -> list[tuple[Size, ...]]:
        """One for each output."""

    @abstractmethod
    def launch(self, dtype: Dtype, shapes: Shapes, attributes: Attributes, cc: int) -> Launch:
        """For maps of that type, on a device of that compute capability.

        Raises EngineError for weights whose shape is not known, InvalidInput for what no kernel
        does.
        """


class Partition(Operator):
    """From logits to a list of active units."""

    inputs: Mapping[str, Kind] = {"logits": "number", "thresholds": "number", "caps": "list"}
    attributes: Sequence[str] = ("masker",)
    outputs: Mapping[str, Kind] = {"index": "list", "place": "list", "count": "list"}

    def output_shapes(self, shapes: Shapes, attributes: Attributes) -> list[tuple[Size, ...]]:
        images, units = shapes["logits"]
        return [(images, units), (images, units), (images,)]

    def launch(self, dtype: Dtype, shapes: Shapes, attributes: Attributes, cc: int) -> Launch:
        images, units = shapes["logits"]
        _, maskers = shapes["thresholds"]
        return Launch(PartitionSpec(attributes["masker"]), [units, maskers], (images, 1, 1))


class Dilate(Operator):
    """From active patches to the pixels that a 3x3 reads."""

    inputs: Mapping[str, Kind] = {"place": "list", "count": "list", "x": "map"}
    attributes: Sequence[str] = ("patch", "stride", "stride_before")
    outputs: Mapping[str, Kind] = {"index": "list", "num_pixels_active": "list"}

    def output_shapes(self, shapes: Shapes, attributes: Attributes) -> list[tuple[Size, ...]]:
        height, width = self._read(shapes, attributes)
        images = shapes["x"][0]
        return [(images, _product(height, width)), (images,)]

    def launch(self, dtype: Dtype, shapes: Shapes, attributes: Attributes, cc: int) -> Launch:
        spec = DilateSpec(dtype, attributes["patch"], attributes["stride"])
        read_height, read_width = self._read(shapes, attributes)
        height, width = (_ceil(side, spec.stride) for side in (read_height, read_width))
        grid_height, grid_width = (_ceil(side, spec.patch) for side in (height, width))
        units = _product(grid_height, grid_width)
        numbers = [units, grid_width, height, width, read_height, read_width]
        return Launch(spec, numbers, (shapes["x"][0], 1, 1))

    @staticmethod
    def _read(shapes: Shapes, attributes: Attributes) -> tuple[Size, Size]:
        """Height and width of the map that the 3x3 reads."""
        _, _, height, width = shapes["x"]
        before = attributes["stride_before"]
        return _ceil(height, before), _ceil(width, before)


@dataclass(frozen=True)
class Convolution(Operator):
    """patches: on a list of them. read, written: inputs, outputs of a list of groups. add: a
    residual. relu: of the result."""

    patches: bool = False
    read: bool = False
    written: bool = False
    add: bool = False
    relu: bool = True

    @property
    def inputs(self) -> Mapping[str, Kind]:
        found: dict[str, Kind] = {"x": "map"}
        if self.patches:
            found |= {"index": "list", "count": "list"}
        if self.read or self.written:
            found |= {"groups": "list", "num_groups": "list"}
        found |= {"weight": "weight", "bias": "weight"}
        return {**found, "residual": "map"} if self.add else found

    @property
    def attributes(self) -> Sequence[str]:
        found = ["stride"] + ["patch"] * self.patches
        return [*found, "group"] if self.read or self.written else found

    @property
    def outputs(self) -> Mapping[str, Kind]:
        return {"y": "map"}

    def output_shapes(self, shapes: Shapes, attributes: Attributes) -> list[tuple[Size, ...]]:
        images, _, height, width = shapes["x"]
        channels, stride = shapes["weight"][3], attributes["stride"]
        return [(images, channels, _ceil(height, stride), _ceil(width, stride))]

    def launch(self, dtype: Dtype, shapes: Shapes, attributes: Attributes, cc: int) -> Launch:
        if not all(isinstance(side, int) for side in shapes["weight"]):
            raise EngineError("the weights of a convolution that skips have to be constants")
        kernel, _, inputs, outputs = shapes["weight"]
        spec = ConvSpec(
            dtype,
            inputs,
            outputs,
            kernel=kernel,
            stride=attributes["stride"],
            patch=attributes.get("patch"),
            group=attributes.get("group"),
            read=self.read,
            written=self.written,
            add=self.add,
            relu=self.relu,
        )
        images, _, height, width = shapes["x"]
        out_height, out_width = _ceil(height, spec.stride), _ceil(width, spec.stride)
        tile = spec.tile(cc)
        if spec.patch in (None, WHOLE_MAP):
            units = grid_width = 1
            pixels = _product(out_height, out_width)
        else:
            grid_width = _ceil(out_width, spec.patch)
            units = _product(_ceil(out_height, spec.patch), grid_width)
            pixels = units * (spec.patch * spec.patch)
        numbers = [height, width, out_height, out_width, units, grid_width]
        return Launch(
            spec, numbers, (_ceil(pixels, tile.rows), _ceil(spec.outputs, tile.columns), images)
        )


OPERATORS: Mapping[str, Operator] = {
    "partition": Partition(),
    "dilate": Dilate(),
    "block_conv": Convolution(patches=True),
    "block_conv_add": Convolution(patches=True, add=True),
    "block_conv_linear_add": Convolution(patches=True, add=True, relu=False),
    "conv_to_groups": Convolution(written=True),
    "conv_within_groups": Convolution(read=True, written=True),
    "conv_from_groups_add": Convolution(read=True, add=True),
    "block_conv_to_groups": Convolution(patches=True, written=True),
    "block_conv_within_groups": Convolution(patches=True, read=True, written=True),
    "block_conv_from_groups_add": Convolution(patches=True, read=True, add=True),
}
"""Every operator that has a plugin."""


def _ceil(size: Size, divisor: int) -> Size:
    return (size + (divisor - 1)) // divisor


def _product(one: Size, other: Size) -> Size:
    """The int, if there is one, on the right."""
    return other * one if isinstance(one, int) else one * other
