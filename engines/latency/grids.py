"""A profile resampled over evenly spaced rates, so that all blocks are looked up in a few steps.

Within a cell of that grid a block's time is linear in its active pixels and in its channels, and
in how far the pixels that its first convolution needs exceed those of clustered masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engines.architecture import ResNet
from engines.latency.rates import FloatArray, RateVector
from engines.latency.tables import BlockTable, Curve, Profile

IndexArray = npt.NDArray[np.intp]

CELLS = 16
"""Cells between rate 0 and rate 1, along pixels and along channels."""

_TERMS = 5
_LEAST_GAP = 0.02
_LEAST_SHARE = 1e-6
# Keeps a rate of exactly 1 in the last cell.
_BELOW_ONE = 1.0 - 1e-12


@dataclass(frozen=True, slots=True)
class Grid:
    """Seconds of a call of one size and batch.

    cells: (blocks * (along * across + 1), 5), the terms that are multiplied with 1, active pixels,
    dilated pixels, channels and active pixels x channels; the last cell of a block is for when its
    maskers are not asked. along, across: cells over active pixels and over channels. first: where a
    block's cells begin, (blocks,). static_s: (blocks + 2,). overhead_s: of the call.
    """

    cells: FloatArray
    along: int
    across: int
    first: IndexArray
    static_s: FloatArray
    overhead_s: float
    fixed_s: float

    def seconds(self, rates: RateVector) -> float:
        """Of the whole call."""
        features, rows = self._looked_up(rates)
        return float(rows.reshape(-1).dot(features.reshape(-1))) + self.fixed_s

    def parts(self, rates: RateVector) -> FloatArray:
        """Of stem, every block and head, (blocks + 2,)."""
        features, rows = self._looked_up(rates)
        found = self.static_s.copy()
        found[1:-1] = np.einsum("bt,bt->b", rows, features)
        return found

    def _looked_up(self, rates: RateVector) -> tuple[FloatArray, FloatArray]:
        """Features and terms, both (blocks, 5)."""
        x, y = rates.spatial, rates.channel
        cell = self.first + (x * (self.along * _BELOW_ONE)).astype(np.intp) * self.across
        if self.across > 1:
            cell += (y * (self.across * _BELOW_ONE)).astype(np.intp)
        if not rates.asked.all():
            cell = np.where(rates.asked, cell, self.first + self.along * self.across)
        features = np.empty((len(x), _TERMS))
        features[:, 0] = 1.0
        features[:, 1] = x
        features[:, 2] = rates.dilated
        features[:, 3] = y
        features[:, 4] = x * y
        return features, self.cells.take(cell, axis=0)


def grid_of(profile: Profile, net: ResNet) -> Grid:
    """Resample what was measured."""
    along = CELLS if any(b.paradigm.masks_space for b in net.blocks) else 1
    across = CELLS if any(b.paradigm.masks_channels for b in net.blocks) else 1
    static = np.array(profile.static_s, np.float64)
    per_block = along * across + 1
    cells = np.zeros((len(net.blocks), per_block, _TERMS))
    cells[:, :, 0] = static[1:-1, None]
    for table in profile.blocks:
        cells[table.block, :-1] = _terms(table, along, across).reshape(-1, _TERMS)
    return _grid(
        cells.reshape(-1, _TERMS), along, across, len(net.blocks), static, profile.overhead_s
    )


def grid_between(low: Grid, high: Grid, shares: FloatArray) -> Grid:
    """Linearly between two grids of one network; shares (blocks + 2,): 0 is `low`, 1 is `high`."""
    if low is high:
        return low
    blocks = len(low.first)
    per_block = low.along * low.across + 1
    by_cell = np.repeat(shares[1:-1], per_block)[:, None]
    return _grid(
        low.cells + by_cell * (high.cells - low.cells),
        low.along,
        low.across,
        blocks,
        low.static_s + shares * (high.static_s - low.static_s),
        float(low.overhead_s + shares.mean() * (high.overhead_s - low.overhead_s)),
    )


def _grid(
    cells: FloatArray, along: int, across: int, blocks: int, static: FloatArray, overhead_s: float
) -> Grid:
    first = np.arange(blocks) * (along * across + 1)
    fixed = float(static[0] + static[-1]) + overhead_s
    return Grid(cells, along, across, first, static, overhead_s, fixed)


def _terms(table: BlockTable, along: int, across: int) -> FloatArray:
    """Terms of every cell, (along, across, 5)."""
    x, y = np.linspace(0.0, 1.0, along + 1), np.linspace(0.0, 1.0, across + 1)
    seconds, dilated = _nodes(table.clustered, table, x, y)
    slope = np.zeros((along, across))
    if table.random is not None:
        scattered, needed = _nodes(table.random, table, x, y)
        gap = np.broadcast_to((needed - dilated)[:, None], seconds.shape)
        told = np.where(gap > _LEAST_GAP, 1.0, 0.0)
        steepness = told * (scattered - seconds) / np.maximum(gap, _LEAST_GAP)
        # The mean of the corners that tell; at rates 0 and 1 all masks are alike, and none does.
        mean = _corners(steepness).sum(axis=0) / np.maximum(_corners(told).sum(axis=0), 1.0)
        # Needing more pixels never saves time, and the first convolution does not take more than
        # the block: where it seems to, that is noise. So no mask is predicted to take less than 0.
        most = seconds / np.maximum(dilated, _LEAST_SHARE)[:, None]
        slope = np.clip(mean, 0.0, _corners(most).min(axis=0))
    low_x, low_y = x[:-1, None], y[None, :-1]
    wide, high = x[1] - x[0], y[1] - y[0]
    here, right, above, both = _corners(seconds)
    by_x, by_y = (right - here) / wide, (above - here) / high
    by_xy = (both - right - above + here) / (wide * high)
    rise = np.broadcast_to((np.diff(dilated) / wide)[:, None], slope.shape)
    level = np.broadcast_to(dilated[:-1, None], slope.shape)
    return np.stack(
        [
            here - by_x * low_x - by_y * low_y + by_xy * low_x * low_y
            - slope * (level - rise * low_x),
            by_x - by_xy * low_y - slope * rise,
            slope,
            by_y - by_xy * low_x,
            by_xy,
        ],
        axis=-1,
    )  # fmt: skip


def _nodes(
    curve: Curve, table: BlockTable, x: FloatArray, y: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Seconds at every node, (along + 1, across + 1), and dilated shares, (along + 1,)."""
    by_pixels = np.stack([np.interp(x, curve.active, row) for row in curve.seconds])
    seconds = np.stack([np.interp(y, table.channel, column) for column in by_pixels.T])
    return seconds, np.interp(x, curve.active, curve.dilated)


def _corners(nodes: FloatArray) -> FloatArray:
    """Values at the four corners of every cell, (4, along, across): lower, right, above, both."""
    return np.stack([nodes[:-1, :-1], nodes[1:, :-1], nodes[:-1, 1:], nodes[1:, 1:]])
