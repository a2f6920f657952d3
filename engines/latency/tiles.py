"""Pieces that every operator's cost is made of: tile sizes, efficiencies and imbalance of tiles.

A tile is what one processing element (SM) computes at a time; an operator's cost is that of its
best tile. Formulas are those of LAUDNet's predictor (arXiv:2308.15949).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

MONTE_CARLO_DRAWS = 100
MONTE_CARLO_SEED = 0
IMPOSSIBLE = 1e30
"""A factor that no chosen tile has; finite, so that it leaves nothing where nothing is moved."""


@lru_cache(maxsize=4096)
def tile_sizes(extent: int) -> Floats:
    """Candidate tile edges for a dimension, ascending: powers of two up to 128 (and 2 x extent),
    even parts of it, and small numbers. The array is shared and must not be written to."""
    powers = {2**k for k in range(8) if 2**k <= 2 * extent}
    parts = {math.ceil(extent / i) for i in range(1, min(extent, 8))}
    sizes = np.array(sorted(powers | parts | set(range(2, min(extent, 8)))), np.float64)
    sizes.setflags(write=False)
    return sizes


@lru_cache(maxsize=4096)
def tile_grid(*extents: int) -> tuple[Floats, ...]:
    """Every combination of tile sizes of the dimensions: one array each, that broadcast."""
    return tuple(np.meshgrid(*(tile_sizes(n) for n in extents), indexing="ij", sparse=True))


def round_up(work: Floats | float, unit: float) -> Floats:
    """Work in whole units: a processing element that is not full takes as long as a full one."""
    return np.ceil(np.asarray(work) / unit) * unit


def sector_overhead(run: Floats | float, gap: Floats | float, sector: int) -> Floats:
    """Words moved per word used, where runs of `run` words are `gap` apart and memory moves
    `sector` words at a time. IMPOSSIBLE for a negative gap: a run longer than its row."""
    run, gap = np.asarray(run, np.float64), np.asarray(gap, np.float64)
    # A run in a sector of its own moves the whole sector; two that share one move what is between.
    short = np.where(run + gap > sector, sector, run + gap) / run
    overhead = np.where(run > sector, round_up(run, sector) / run, short)
    return np.where(gap < 0, IMPOSSIBLE, overhead)


@lru_cache(maxsize=65536)
def imbalance(tiles: int, channels: int, density: float, group: int, exact: bool) -> float:
    """Expected share of active channels in the fullest of `tiles` tiles of `channels` channels.

    Groups of `group` consecutive channels are active with probability `density` each, independent
    of one another; the fullest tile is waited for. exact: the expectation itself, else the mean of
    100 draws, the same at every call.
    """
    if density >= 1.0 or density <= 0.0:
        return min(max(density, 0.0), 1.0)
    if exact:
        return _expected_maximum(tiles, channels, density, group)
    rng = np.random.default_rng((MONTE_CARLO_SEED, tiles, channels, group))
    whole, rest = divmod(channels, group)
    size = (MONTE_CARLO_DRAWS, tiles)
    active = rng.binomial(whole, density, size) * group + rng.binomial(1, density, size) * rest
    return max(density, float(active.max(axis=1).mean()) / channels)


def _expected_maximum(tiles: int, channels: int, density: float, group: int) -> float:
    if channels <= group:
        # Several tiles lie in one group, so there are fewer independent ones than tiles.
        groups = math.ceil(tiles * channels / group)
        return 1.0 - (1.0 - density) ** groups
    whole, rest = divmod(channels, group)
    k = np.arange(whole)
    odds = math.log(density / (1.0 - density))
    log_ratios = np.log((whole - k) / (k + 1.0)) + odds
    start = whole * math.log1p(-density)
    log_pmf = start + np.concatenate(([0.0], np.cumsum(log_ratios)))
    pmf = np.zeros(channels + 1)
    pmf[: whole * group + 1 : group] = np.exp(log_pmf)
    if rest:
        with_rest = np.zeros(channels + 1)
        with_rest[rest:] = pmf[: channels + 1 - rest]
        pmf = (1.0 - density) * pmf + density * with_rest
    at_most = np.minimum(np.cumsum(pmf), 1.0)
    # E[X] of a whole number is the sum of P(X > k); the fullest tile has at most k if all have.
    return float((1.0 - at_most[:-1] ** tiles).sum()) / channels
