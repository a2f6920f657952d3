"""What a call computed, from the pixels and units that the native engine reports."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from engines.architecture import MapSize, ResNet
from engines.core import OperatingPoint
from engines.macs import all_block_macs, fixed_macs, masker_units, static_macs

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

_NO_CAP = -1
_MOST_POINTS = 256
_MOST_SIZES = 64


@lru_cache(maxsize=_MOST_POINTS)
def wishes_of(point: OperatingPoint) -> tuple[npt.NDArray[np.float32], Int64Array, Float64Array]:
    """Thresholds (-inf: none), caps (-1: none) and whether each masker is asked (1 or 0)."""
    thresholds = [-np.inf if t is None else t for t in point.thresholds]
    # More than there can be means no limit; a number that int64 holds.
    caps = [_NO_CAP if cap is None else min(cap, 2**62) for cap in point.caps]
    asked = [
        t is not None or cap is not None
        for t, cap in zip(point.thresholds, point.caps, strict=True)
    ]
    with np.errstate(over="ignore"):
        # Thresholds that float32 does not hold are infinite, as in torch.
        as_float32 = np.array(thresholds, np.float64).astype(np.float32)
    return as_float32, np.array(caps, np.int64), np.array(asked, np.float64)


class Wishes(NamedTuple):
    """What the points of a batch ask of every masker, as the native engine takes it: see
    `wishes_of`, (N, maskers) each. any: whether one is asked at all."""

    thresholds: npt.NDArray[np.float32]
    caps: Int64Array
    asked: Float64Array
    any: bool


@lru_cache(maxsize=_MOST_POINTS)
def wishes_of_batch(points: tuple[OperatingPoint, ...]) -> Wishes:
    """Those of a batch. Batches are alike, and whoever serves them waits for the caches to warm
    up after every network that ran: what is remembered need not be worked out again."""
    thresholds, caps, asked = map(np.stack, zip(*map(wishes_of, points), strict=True))
    for array in (thresholds, caps, asked):
        array.setflags(write=False)
    return Wishes(thresholds, caps, asked, bool(asked.any()))


class Counter:
    """Counts one network at one image size, as `engines.macs.executed_macs` does."""

    def __init__(self, net: ResNet, size: MapSize) -> None:
        sizes = net.block_sizes(size)
        maskers = enumerate(net.maskers)
        by_block = {(masker.block, masker.kind): i for i, masker in maskers}
        macs = all_block_macs(net, size)
        self.units: Int64Array = np.array(
            [masker_units(net.blocks[m.block], sizes[m.block][1], m.kind) for m in net.maskers],
            np.int64,
        )
        self.num_units = int(self.units.sum())
        self.static = float(static_macs(net, size))
        self._constant = fixed_macs(net, size) + sum(each.projection for each in macs)
        self._convolutions = np.array([(b.conv1, b.conv2, b.conv3) for b in macs], np.float64).T
        self._masker_macs = np.array(
            [
                macs[m.block].spatial_masker
                if m.kind == "spatial"
                else macs[m.block].channel_masker
                for m in net.maskers
            ],
            np.float64,
        )
        middle = [out if net.stride_in_1x1 else into for into, out in sizes]
        self._areas = np.array(
            [(out.area, mid.area) for (_, out), mid in zip(sizes, middle, strict=True)], np.float64
        )
        self._spatial = _places(by_block, "spatial", len(sizes))
        self._channel = _places(by_block, "channel", len(sizes))

    def macs(
        self, rates: Float64Array, pixels: Int64Array, asked: Float64Array
    ) -> npt.NDArray[np.float64]:
        """Multiply-accumulates per image, (N,).

        rates: activation (N, maskers). pixels: active and dilated pixels (N, blocks, 2). asked: 1
        where a point asks a masker, (N, maskers). An image that asks none costs `static`.
        """
        shares = pixels / self._areas
        shares[:, self._spatial < 0] = 1.0
        channel = np.ones(shares.shape[:2])
        masked = self._channel >= 0
        channel[:, masked] = rates[:, self._channel[masked]]
        conv1, conv2, conv3 = self._convolutions
        active, dilated = shares[:, :, 0], shares[:, :, 1]
        blocks = conv1 * dilated * channel + (conv2 * channel + conv3) * active * channel
        total: npt.NDArray[np.float64] = (
            self._constant + blocks.sum(axis=1) + asked @ self._masker_macs
        )
        return total


class Counters:
    """Counters of a network, one for each image size that came."""

    def __init__(self, net: ResNet) -> None:
        self._net = net
        self._counters: dict[MapSize, Counter] = {}

    def of(self, height: int, width: int) -> Counter:
        """The one for that size."""
        size = MapSize(height, width)
        found = self._counters.get(size)
        if found is None:
            # Several threads may come here at once: each ends with a counter that is right.
            if len(self._counters) >= _MOST_SIZES:
                self._counters.clear()
            found = self._counters[size] = Counter(self._net, size)
        return found


def _places(
    by_block: dict[tuple[int, Literal["spatial", "channel"]], int],
    kind: Literal["spatial", "channel"],
    blocks: int,
) -> Int64Array:
    """Per block the index of its masker of that kind, -1 without one."""
    return np.array([by_block.get((b, kind), -1) for b in range(blocks)], np.int64)
