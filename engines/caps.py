"""Caps on active units: chosen from what images ask for, and what they promise. Needs no torch.

A threshold bounds what images cost on average, a cap what a single one can: with caps a deadline
can be promised for any image, also one that no calibration has seen.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from engines.architecture import Block, MapSize, RegNet, ResNet
from engines.core import OperatingPoint
from engines.macs import BlockRates, executed_macs, masker_units, static_macs

QUANTILE = 0.99
_TAP = 1
"""How far a 3x3 reaches beyond its centre."""


def units_of(net: ResNet | RegNet, image_size: int) -> npt.NDArray[np.int64]:
    """How many units each masker decides on, (maskers,)."""
    sizes = net.block_sizes(MapSize(image_size, image_size))
    return np.array(
        [masker_units(net.blocks[m.block], sizes[m.block][1], m.kind) for m in net.maskers],
        np.int64,
    )


def capped(
    net: ResNet | RegNet, point: OperatingPoint, activation: npt.NDArray[np.floating]
) -> OperatingPoint:
    """The point with a cap on every masker that it asks, so that one image in a hundred feels it.

    activation: rates (N, maskers) without caps. A masker that is ever active keeps one unit.
    """
    active = np.rint(activation * units_of(net, point.image_size)).astype(np.int64)
    usual = np.quantile(active, QUANTILE, axis=0, method="higher")
    at_least = np.minimum(active.max(axis=0), 1)
    caps = tuple(
        None if threshold is None else int(cap)
        for threshold, cap in zip(point.thresholds, np.maximum(usual, at_least), strict=True)
    )
    return point.model_copy(update={"caps": caps})


def macs_bound(net: ResNet | RegNet, point: OperatingPoint) -> float:
    """What no image can exceed at that point, in multiply-accumulates; maskers included.

    Every masker at its cap, the largest patches active, and no two of them sharing a pixel that
    their first convolution is computed on. A masker without a cap is taken to be all active. With a
    glance, both looks.
    """
    if point.glance is not None:
        return macs_bound(net, point.first_look) + macs_bound(net, point.second_look)
    image = MapSize(point.image_size, point.image_size)
    if point.skips_nothing:
        return float(static_macs(net, image))
    sizes = net.block_sizes(image)
    asked: list[dict[str, int | None]] = [{} for _ in net.blocks]
    for masker, threshold, cap in zip(net.maskers, point.thresholds, point.caps, strict=True):
        if threshold is not None or cap is not None:
            asked[masker.block][masker.kind] = cap
    rates = [
        _worst(net, block, *of_block, caps)
        for block, of_block, caps in zip(net.blocks, sizes, asked, strict=True)
    ]
    return float(executed_macs(net, image, rates))


def _worst(
    net: ResNet | RegNet,
    block: Block,
    size_in: MapSize,
    size_out: MapSize,
    caps: dict[str, int | None],
) -> BlockRates:
    patches, groups = caps.get("spatial"), caps.get("channel")
    spatial = dilated = 1.0
    middle: float | None = None
    if patches is not None:
        stride, inner = (1, size_out) if net.stride_in_1x1 else (block.stride, size_in)
        spatial = _largest(block, size_out, size_out, patches, stride=1, reach=0)
        dilated = _largest(block, size_out, inner, patches, stride=stride, reach=_TAP)
        if isinstance(net, RegNet) and net.squeeze_ratio > 0 and net.squeeze_over == "map":
            # A mean over the whole map needs every pixel of it, as soon as one is active.
            middle = dilated = float(patches > 0)
    return BlockRates(
        spatial=spatial,
        dilated=dilated,
        middle=middle,
        channel=1.0 if groups is None else min(groups / block.num_groups, 1.0),
        spatial_masker=float("spatial" in caps),
        channel_masker=float("channel" in caps),
    )


def _largest(
    block: Block, out: MapSize, inner: MapSize, patches: int, *, stride: int, reach: int
) -> float:
    """The share of a map `inner` that the `patches` largest patches of `out` read at most."""
    patch = block.granularity.spatial

    def lengths(pixels: int, limit: int) -> npt.NDArray[np.int64]:
        width = patch or pixels
        first = np.arange(0, pixels, width)
        last = np.minimum(first + width, pixels) - 1
        low = np.maximum(stride * first - reach, 0)
        return np.asarray(np.minimum(stride * last + reach, limit - 1) - low + 1, np.int64)

    areas = np.outer(lengths(out.height, inner.height), lengths(out.width, inner.width)).ravel()
    return float(min(np.sort(areas)[::-1][:patches].sum() / inner.area, 1.0))
