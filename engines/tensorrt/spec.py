"""What kernels are compiled for, and how many programs they take. No Triton, no torch.

A specification is a layer's: types, channels, granularity. Of it and a device's compute capability
(86 for sm_86) follow the kernel's signature and, with a map's size, the numbers that it is given.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from engines.architecture import MapSize
from engines.core import MAX_IMAGE_SIZE
from engines.errors import InvalidInput

Dtype = Literal["fp16", "fp32"]
Constant = int | bool | None

TENSOR_CORES_FROM = 80
"""Compute capability below which Triton multiplies without tensor cores."""

WHOLE_MAP = MAX_IMAGE_SIZE
"""`patch` of layer skipping, as in the operators of ONNX: no map is larger."""

_HWC = {"fp16": 8, "fp32": 1}
# Numbers that one instruction moves.
_VECTORS = {"fp16": 8, "fp32": 4}
_LIST_BLOCK = 1024
_LIST_WARPS = 4


@dataclass(frozen=True)
class Signature:
    """How a kernel is compiled. arguments: types by name, in order; constants: the rest by name."""

    kernel: str
    arguments: dict[str, str]
    constants: dict[str, Constant]
    warps: int
    stages: int


@dataclass(frozen=True)
class Tile:
    """Pixels, output channels and input channels of one step of a convolution."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


class KernelSpec(ABC):
    """One kernel as a layer needs it."""

    @abstractmethod
    def signature(self, cc: int) -> Signature:
        """For a device of that compute capability."""


@dataclass(frozen=True)
class PartitionSpec(KernelSpec):
    """Lists of a masker's active units. masker: its column of thresholds and caps."""

    masker: int

    def signature(self, cc: int) -> Signature:
        pointers = {"logits_ptr": "*fp32", "thresholds_ptr": "*fp32", "caps_ptr": "*i32"}
        return Signature(
            kernel="partition",
            arguments={
                **pointers,
                **dict.fromkeys(("num_units", "num_maskers"), "i32"),
                **dict.fromkeys(("index_ptr", "place_ptr", "count_ptr"), "*i32"),
            },
            constants={"MASKER": self.masker, "BLOCK": _LIST_BLOCK},
            warps=_LIST_WARPS,
            stages=1,
        )


@dataclass(frozen=True)
class DilateSpec(KernelSpec):
    """Pixels that a 3x3 reads for active patches. dtype: of the map that sizes are taken from."""

    dtype: Dtype
    patch: int
    stride: int

    def signature(self, cc: int) -> Signature:
        return Signature(
            kernel="dilate",
            arguments={
                **dict.fromkeys(("place_ptr", "count_ptr"), "*i32"),
                "x_ptr": f"*{self.dtype}",
                **dict.fromkeys(
                    ("num_units", "grid_width", "height", "width", "read_height", "read_width"),
                    "i32",
                ),
                **dict.fromkeys(("index_ptr", "num_pixels_ptr"), "*i32"),
            },
            constants={"PATCH": self.patch, "STRIDE": self.stride, "BLOCK": _LIST_BLOCK},
            warps=_LIST_WARPS,
            stages=1,
        )

    def numbers(self, read: MapSize) -> dict[str, int]:
        """Arguments that are numbers, for a 3x3 that reads a map of that size."""
        size = _strided(read, self.stride)
        grid = size.patches(self.patch)
        return {
            "num_units": grid.area,
            "grid_width": grid.width,
            "height": size.height,
            "width": size.width,
            "read_height": read.height,
            "read_width": read.width,
        }


@dataclass(frozen=True)
class ConvSpec(KernelSpec):
    """A convolution that skips. kernel: 1 or 3. patch: pixels on a side, WHOLE_MAP, or None where
    all pixels are computed. group: channels; which of them are lists: `read` inputs, `written`
    outputs. add: a residual is added. relu: what is negative becomes 0."""

    dtype: Dtype
    inputs: int
    outputs: int
    kernel: int = 1
    stride: int = 1
    patch: int | None = None
    group: int | None = None
    read: bool = False
    written: bool = False
    add: bool = False
    relu: bool = True

    def __post_init__(self) -> None:
        listed = [self.inputs] * self.read + [self.outputs] * self.written
        if bool(listed) != (self.group is not None):
            raise InvalidInput("groups are of inputs or outputs, and those need a group")
        if self.group is not None and any(channels % self.group for channels in listed):
            raise InvalidInput(f"a group of {self.group} channels does not divide {listed}")
        if self.patch is None and self.group is None:
            raise InvalidInput("a convolution that skips has patches or groups")

    @property
    def _patch(self) -> int | None:
        """None for the whole map."""
        return None if self.patch == WHOLE_MAP else self.patch

    def pitch(self, channels: int) -> int:
        """Channels from one pixel to the next in memory."""
        unit = _HWC[self.dtype]
        return -(-channels // unit) * unit

    def tile(self, cc: int) -> Tile:
        """What a program computes at once: the most that leaves every thread its registers.

        Channels that do not lie side by side, 16 bytes of them, are moved singly, which takes more.
        No tile has been timed.
        """
        if cc < TENSOR_CORES_FROM:
            return Tile(rows=32, columns=32, depth=16, warps=4, stages=1)
        vector = _VECTORS[self.dtype]
        single = math.gcd(vector, self.outputs, self.group or vector) < vector
        columns = 32 if single or self.outputs <= 32 else 64
        if self.dtype == "fp32":
            return Tile(rows=32, columns=columns, depth=16, warps=4, stages=2)
        if single:
            return Tile(rows=64, columns=columns, depth=16, warps=4, stages=2)
        return Tile(rows=64, columns=columns, depth=32, warps=4, stages=3)

    def signature(self, cc: int) -> Signature:
        tile, map_type = self.tile(cc), f"*{self.dtype}"
        there = {
            "x_ptr": map_type,
            "index_ptr": None if self.patch is None else "*i32",
            "count_ptr": None if self.patch is None else "*i32",
            "groups_ptr": None if self.group is None else "*i32",
            "num_groups_ptr": None if self.group is None else "*i32",
            "weight_ptr": map_type,
            "bias_ptr": map_type,
            "residual_ptr": map_type if self.add else None,
            **dict.fromkeys(self.numbers(MapSize(1, 1)), "i32"),
            "y_ptr": map_type,
        }
        return Signature(
            kernel="sparse_conv",
            arguments={name: kind for name, kind in there.items() if kind},
            constants={
                **{name: None for name, kind in there.items() if not kind},
                "INPUTS": self.inputs,
                "OUTPUTS": self.outputs,
                "X_PITCH": self.pitch(self.inputs),
                "Y_PITCH": self.pitch(self.outputs),
                "KERNEL": self.kernel,
                "STRIDE": self.stride,
                "PATCH": self._patch or 0,
                "GROUP": self.group or 1,
                "READ": self.read,
                "WRITTEN": self.written,
                "RELU": self.relu,
                "BLOCK_M": tile.rows,
                "BLOCK_N": tile.columns,
                "BLOCK_K": tile.depth,
            },
            warps=tile.warps,
            stages=tile.stages,
        )

    def numbers(self, x: MapSize) -> dict[str, int]:
        """Arguments that are numbers, for an input map of that size."""
        size = _strided(x, self.stride)
        grid = size.patches(self._patch)
        return {
            "height": x.height,
            "width": x.width,
            "out_height": size.height,
            "out_width": size.width,
            "num_units": grid.area,
            "grid_width": grid.width,
        }

    def grid(self, images: int, x: MapSize, cc: int) -> tuple[int, int, int]:
        """Programs for the most that can be active."""
        tile, size = self.tile(cc), _strided(x, self.stride)
        patch = self._patch
        pixels = size.patches(patch).area * patch**2 if patch else size.area
        return -(-pixels // tile.rows), -(-self.outputs // tile.columns), images


def _strided(size: MapSize, stride: int) -> MapSize:
    return MapSize(-(-size.height // stride), -(-size.width // stride))
