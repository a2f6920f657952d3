"""How many multiply-accumulates given masks execute, and which rate or size has how many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engines.architecture import MapSize, ResNet
from engines.bench.masks import BoolArray, Draw, Float64Array
from engines.errors import InvalidInput
from engines.macs import BlockRates, executed_macs, static_macs

_BISECTIONS = 20


def masked_macs(net: ResNet, image: MapSize, decisions: Sequence[BoolArray]) -> Float64Array:
    """Multiply-accumulates (N,) with decisions (N, units) per masker, every masker evaluated."""
    of = {(m.block, m.kind): units for m, units in zip(net.maskers, decisions, strict=True)}
    rates: list[BlockRates] = []
    for i, (size_in, size_out) in enumerate(net.block_sizes(image)):
        block = net.blocks[i]
        spatial, channel = of.get((i, "spatial")), of.get((i, "channel"))
        pixels = dilated = 1.0
        if spatial is not None:
            active = _pixels(spatial, block.granularity.spatial, size_out)
            stride = 1 if net.stride_in_1x1 else block.stride
            needed = _dilated(active, stride, size_out if net.stride_in_1x1 else size_in)
            pixels, dilated = (each.mean(axis=(1, 2)) for each in (active, needed))
        rates.append(
            BlockRates(
                spatial=pixels,
                dilated=dilated,
                channel=1.0 if channel is None else channel.mean(axis=1),
                spatial_masker=float(spatial is not None),
                channel_masker=float(channel is not None),
            )
        )
    return np.asarray(executed_macs(net, image, rates), np.float64)


def rate_for_macs(net: ResNet, image: MapSize, draws: Sequence[Draw], share: float) -> float:
    """The rate of units at which `draws` execute `share` of the static network's work on average.

    As near as whole units allow. Raises InvalidInput where even rate 0 executes more.
    """

    def executed(rate: float) -> float:
        found = [masked_macs(net, image, draw.at(rate)).mean() for draw in draws]
        return float(np.mean(found)) / static_macs(net, image)

    least = executed(0.0)
    if share < least:
        raise InvalidInput(
            f"no mask brings this network down to {share:.3f} of its multiply-accumulates: what is "
            f"never skipped (stem, shortcuts, classifier, maskers) takes {least:.3f}"
        )
    # Masks are nested, so work grows with the rate.
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if executed(middle) <= share else (low, middle)
    return min((low, high), key=lambda rate: abs(executed(rate) - share))


def size_for_macs(net: ResNet, largest: int, macs: float) -> int:
    """The image size, at most `largest` pixels, at which nothing skipped costs nearest to `macs`.

    Work grows in steps, since every stage rounds its map up; of equals the larger image.
    """
    return min(
        range(largest, 0, -1), key=lambda size: abs(static_macs(net, MapSize(size, size)) - macs)
    )


def _pixels(units: BoolArray, patch: int | None, size: MapSize) -> BoolArray:
    """Decisions (N, patches) to pixels (N, H, W)."""
    grid = size.patches(patch)
    coarse = units.reshape(-1, grid.height, grid.width)
    if patch is None:
        return np.broadcast_to(coarse, (len(units), size.height, size.width))
    fine = coarse.repeat(patch, axis=1).repeat(patch, axis=2)
    return fine[:, : size.height, : size.width]


def _dilated(pixels: BoolArray, stride: int, size: MapSize) -> BoolArray:
    """Output pixels (N, H, W) of a 3x3 to the input pixels (N, size) that it reads."""
    rows, columns = (side * stride for side in pixels.shape[1:])
    # A frame of one pixel for what is read outside; an odd map is one short of twice its output.
    framed = np.zeros((len(pixels), rows + 2, columns + 2), np.bool_)
    for row in range(3):
        for column in range(3):
            framed[:, row : row + rows : stride, column : column + columns : stride] |= pixels
    return framed[:, 1 : 1 + size.height, 1 : 1 + size.width]
