"""Which pixels a batch's decisions made a network compute: the plan says decisions alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engines.architecture import MapSize, ResNet
from engines.macs import masker_units

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Spatial:
    """A spatial masker: its units in all decisions, and which rows and columns its patches cover.

    rows, columns: of the output, pixels per patch. read_rows, read_columns: of the map that a 3x3
    reads, (pixels, patches), 1 where a patch needs it.
    """

    block: int
    units: slice
    rows: Float32Array
    columns: Float32Array
    read_rows: Float32Array
    read_columns: Float32Array


class PixelCounter:
    """Counts for one network at one image size."""

    def __init__(self, net: ResNet, size: MapSize) -> None:
        sizes = net.block_sizes(size)
        self._areas = np.array(
            [(out.area, (out if net.stride_in_1x1 else into).area) for into, out in sizes],
            np.int64,
        )
        self._spatial: list[_Spatial] = []
        begins, begin = [], 0
        for masker in net.maskers:
            block = net.blocks[masker.block]
            into, out = sizes[masker.block]
            count = masker_units(block, out, masker.kind)
            begins.append(begin)
            units = slice(begin, begin + count)
            begin += count
            if masker.kind != "spatial":
                continue
            stride, read = (1, out) if net.stride_in_1x1 else (block.stride, into)
            patch = block.granularity.spatial
            self._spatial.append(
                _Spatial(
                    masker.block,
                    units,
                    _lengths(out.height, patch),
                    _lengths(out.width, patch),
                    _covered(out.height, read.height, patch, stride),
                    _covered(out.width, read.width, patch, stride),
                )
            )
        self.units = np.diff([*begins, begin]).astype(np.int64)
        self._begins = np.array(begins, np.int64)

    def active(self, decisions: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """Units that are active per masker, (N, maskers), of decisions (N, units)."""
        if not len(self._begins):
            return np.zeros((len(decisions), 0), np.int64)
        return np.add.reduceat(decisions, self._begins, axis=1, dtype=np.int64)

    def pixels(self, decisions: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """Pixels (N, blocks, 2): active ones, and those that the first convolution is computed on.

        A block without a spatial masker has all of both.
        """
        found = np.broadcast_to(self._areas, (len(decisions), *self._areas.shape)).copy()
        for each in self._spatial:
            shape = (-1, len(each.rows), len(each.columns))
            patches = decisions[:, each.units].reshape(shape).astype(np.float32)
            found[:, each.block, 0] = each.rows @ patches @ each.columns
            read = each.read_rows @ patches @ each.read_columns.T
            found[:, each.block, 1] = np.count_nonzero(read, axis=(1, 2))
        return found


def _lengths(pixels: int, patch: int | None) -> Float32Array:
    """Pixels of each patch along a side: the last may be cut."""
    first = np.arange(0, pixels, patch or pixels)
    return np.minimum(patch or pixels, pixels - first).astype(np.float32)


def _covered(pixels: int, read: int, patch: int | None, stride: int) -> Float32Array:
    """(read, patches): 1 where a 3x3 for a pixel of the patch reads that row or column."""
    width = patch or pixels
    first = np.arange(0, pixels, width)
    last = np.minimum(first + width, pixels) - 1
    at = np.arange(read)[:, None]
    return ((at >= stride * first - 1) & (at <= stride * last + 1)).astype(np.float32)
