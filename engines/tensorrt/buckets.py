"""Which buckets a batch runs in, and where its tensors lie in memory. Plain arithmetic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.errors import InvalidInput
from engines.tensorrt.plans import Bucket

ALIGNMENT = 256
"""Bytes: what CUDA allocates at, and what kernels may expect."""


@dataclass(frozen=True)
class Portion:
    """Images `begin` to `end` of a batch, in a bucket that has places for at least as many."""

    begin: int
    end: int
    bucket: Bucket


@dataclass(frozen=True)
class TensorSpec:
    """A tensor of a bucket: dtype as NumPy has it, and its whole shape."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """Tensors in one piece of memory. offsets: bytes from its begin, by name."""

    tensors: Mapping[str, TensorSpec]
    offsets: Mapping[str, int]
    num_bytes: int

    def views(self, memory: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
        """The tensors in such a piece, without copies."""
        found: dict[str, npt.NDArray[Any]] = {}
        for name, tensor in self.tensors.items():
            begin = self.offsets[name]
            piece = memory[begin : begin + tensor.num_bytes]
            found[name] = piece.view(tensor.dtype).reshape(tensor.shape)
        return found


def portions(count: int, image_size: int, buckets: Sequence[Bucket]) -> tuple[Portion, ...]:
    """How `count` images of a size run: in the smallest bucket that takes them all; what is more
    than the largest takes fills that first. Raises InvalidInput for a size without buckets."""
    there = sorted(
        (bucket for bucket in buckets if bucket.image_size == image_size), key=lambda b: b.images
    )
    if not there:
        sizes = sorted({bucket.image_size for bucket in buckets})
        raise InvalidInput(
            f"the plan takes images of {', '.join(map(str, sizes))} px, not of {image_size}: build "
            f"it again with --size {image_size}"
        )
    found = []
    begin = 0
    while begin < count:
        left = count - begin
        bucket = next((each for each in there if each.images >= left), there[-1])
        end = begin + min(left, bucket.images)
        found.append(Portion(begin, end, bucket))
        begin = end
    return tuple(found)


def layout(tensors: Mapping[str, TensorSpec]) -> Layout:
    """One behind the other, each where CUDA would have put it."""
    offsets: dict[str, int] = {}
    end = 0
    for name, tensor in tensors.items():
        offsets[name] = end
        end += -(-tensor.num_bytes // ALIGNMENT) * ALIGNMENT
    return Layout(dict(tensors), offsets, end)
