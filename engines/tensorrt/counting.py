"""What a batch's decisions made a network compute: the plan says decisions alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from engines.architecture import MapSize, RegNet, ResNet
from engines.cpu.counting import Counter
from engines.detection.architecture import (
    Detector,
    LevelRates,
    executed_dense_macs,
    level_units_of,
    pyramid_sizes,
)
from engines.macs import BlockRates, executed_macs, masker_units, static_macs

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

    def __init__(self, net: ResNet | RegNet, size: MapSize) -> None:
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


class Counts(NamedTuple):
    """Of a batch of N: activation, float32 (N, maskers); multiply-accumulates (N,); pixels
    (N, blocks, 2), as `PixelCounter.pixels`."""

    activation: Float32Array
    macs: npt.NDArray[np.float64]
    pixels: npt.NDArray[np.int64]


class DecisionCounter:
    """Counts what engines tell of a call, for one network at one image size.

    It is what the decisions ask for, as the reference counts it. A plan of a RegNet computes the
    first two convolutions of its blocks everywhere all the same.
    """

    def __init__(self, net: ResNet | RegNet, image_size: int) -> None:
        self._net, self._size = net, MapSize(image_size, image_size)
        self._pixels = PixelCounter(net, self._size)
        self._resnet = Counter(net, self._size) if isinstance(net, ResNet) else None
        self._static = float(static_macs(net, self._size))
        self.units = self._pixels.units
        self.num_units = int(self.units.sum())

    def counted(self, decisions: npt.NDArray[np.bool_], asked: npt.NDArray[np.float64]) -> Counts:
        """decisions: bool (N, units). asked: 1 where an image's point asks a masker, (N, maskers);
        an image whose point asks none costs what the static network costs."""
        rates = self._pixels.active(decisions) / self.units
        pixels = self._pixels.pixels(decisions)
        if self._resnet is not None:
            macs: npt.NDArray[Any] = self._resnet.macs(rates, pixels, asked)
        else:
            found = self._block_rates(decisions, rates, pixels, asked)
            total = executed_macs(self._net, self._size, found)
            macs = np.broadcast_to(total, len(decisions)).astype(np.float64)
        macs[~asked.any(axis=1)] = self._static
        return Counts(rates.astype(np.float32), macs, pixels)

    def _block_rates(
        self,
        decisions: npt.NDArray[np.bool_],
        rates: npt.NDArray[np.float64],
        pixels: npt.NDArray[np.int64],
        asked: npt.NDArray[np.float64],
    ) -> list[BlockRates]:
        """What every block of a RegNet executes; `pixels` are corrected where a mean wants all."""
        net = self._net
        whole = isinstance(net, RegNet) and net.squeeze_ratio > 0 and net.squeeze_over == "map"
        maskers = {(each.block, each.kind): i for i, each in enumerate(net.maskers)}
        ends = np.cumsum(self.units)
        found = []
        for i, (block, (into, out)) in enumerate(
            zip(net.blocks, net.block_sizes(self._size), strict=True)
        ):
            spatial, channel = maskers.get((i, "spatial")), maskers.get((i, "channel"))
            middle = pairs = None
            if spatial is not None and whole:
                # A mean over the whole map needs every pixel of it, as soon as one is active.
                middle = (pixels[:, i, 0] > 0).astype(np.float64)
                pixels[:, i, 1] = middle * into.area
            if channel is not None and block.conv_groups > 1:
                groups = decisions[:, ends[channel] - self.units[channel] : ends[channel]]
                channels = np.repeat(groups, block.width // block.num_groups, axis=1)
                shares = channels.reshape(len(decisions), block.conv_groups, -1).mean(axis=2)
                pairs = (shares * shares).mean(axis=1)
            found.append(
                BlockRates(
                    spatial=pixels[:, i, 0] / out.area,
                    dilated=pixels[:, i, 1] / into.area,
                    channel=1.0 if channel is None else rates[:, channel],
                    spatial_masker=0.0 if spatial is None else asked[:, spatial],
                    channel_masker=0.0 if channel is None else asked[:, channel],
                    middle=middle,
                    pairs=pairs,
                )
            )
        return found


class DetectorCounter:
    """The same for a detector, whose levels may have maskers too: their decisions come last."""

    def __init__(self, net: ResNet, detector: Detector, image_size: int) -> None:
        self._net, self._detector = net, detector
        self._size = MapSize(image_size, image_size)
        self._own = DecisionCounter(net, image_size)
        self._grids = level_units_of(net, detector, self._size)
        self._sizes = pyramid_sizes(net, self._size)
        self.units = np.array([*self._own.units.tolist(), *self._grids], np.int64)

    def counted(self, decisions: npt.NDArray[np.bool_], asked: npt.NDArray[np.float64]) -> Counts:
        """See `DecisionCounter.counted`; the mask head is not counted."""
        own = len(self._own.units)
        split = self._own.num_units
        found = self._own.counted(decisions[:, :split], asked[:, :own])
        activation, levels = [found.activation], []
        begin = split
        for i, size in enumerate(self._sizes):
            if not self._grids or self._detector.level_patches is None:
                levels.append(LevelRates())
                continue
            patch = self._detector.level_patches[i]
            rows, columns = _lengths(size.height, patch), _lengths(size.width, patch)
            patches = decisions[:, begin : begin + self._grids[i]].astype(np.float32)
            begin += self._grids[i]
            pixels = rows @ patches.reshape(-1, len(rows), len(columns)) @ columns
            levels.append(LevelRates(pixels.astype(np.float64) / size.area, asked[:, own + i]))
            activation.append(patches.mean(axis=1, keepdims=True))
        macs = executed_dense_macs(self._net, self._detector, self._size, found.macs, levels)
        return Counts(np.concatenate(activation, axis=1), macs, found.pixels)


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
