"""What the operators cost that only a dynamic network has: maskers, patches, gathered weights.

Formulas of LAUDNet's predictor (arXiv:2308.15949). Patches of all images form one list; a
processing element works on `q` of them at a time and walks through the rest. Tiles are chosen for
the mean number of patches, since a kernel is compiled before that number is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from engines.architecture import CHANNEL_MASKER_REDUCTION, MapSize
from engines.latency.operators import (
    CACHE,
    DENSE,
    Conv,
    Cost,
    Density,
    Target,
    average_pool,
    conv,
    dram_weight_reads,
    fully_connected,
    multiply,
    reduction_s,
    tile_imbalance,
    weight_reads,
)
from engines.latency.tiles import Floats, round_up, sector_overhead, tile_grid, tile_sizes

CONV_PATCHES_AT_ONCE = 256
"""Up to how many patches a convolution's tile search takes at a time, however many there are."""


@dataclass(frozen=True, slots=True)
class Patches:
    """A map cut into patches `side` pixels wide (None: one patch), and the share that is active.

    side: at least 1; a patch is never larger than the map. rate: 0 to 1.
    """

    size: MapSize
    side: int | None
    rate: float

    @property
    def grid(self) -> int:
        """Patches of a map, partial ones included."""
        return self.size.patches(self.side).area

    @property
    def patch(self) -> MapSize:
        """Pixels of one patch."""
        side = self.side or max(self.size.height, self.size.width)
        return MapSize(min(side, self.size.height), min(side, self.size.width))

    @property
    def active(self) -> int:
        """Active patches per image, whole ones."""
        # A rate that was computed as k / n must give k, whatever the last bit.
        return math.ceil(round(self.rate * self.grid, 9))

    @property
    def typical(self) -> float:
        """What a kernel's tiles are chosen for: the mean of 1 to all patches."""
        return (self.grid + 1) / 2


def _at_best_tile(
    on: Target, patches: Patches, parts: Callable[[float], tuple[Floats, Floats]]
) -> Cost:
    """`parts(n)` gives arithmetic and data of n active patches for every tile."""
    compute, memory = parts(patches.typical)
    best = int(np.argmin(compute + memory))
    compute, memory = np.broadcast_arrays(*parts(patches.active))
    return Cost(float(compute.ravel()[best]), float(memory.ravel()[best]), on.gpu.launch_s)


@lru_cache(maxsize=CACHE)
def patch_conv(
    on: Target, shape: Conv, patches: Patches, *, dense_input: bool, density: Density = DENSE
) -> Cost:
    """A convolution of the active patches only; `patches` cut its output.

    dense_input: it reads a whole map through indices (the gather is fused into it), else patches
    that lie packed. Published vectors fit only if the 1x1 behind a separate masker does, too.
    """
    patch, halo, stride = patches.patch, shape.kernel - 1, shape.stride
    q = tile_sizes(CONV_PATCHES_AT_ONCE)[:, None, None, None]
    c, h, w = tile_grid(shape.out_channels, patch.height, patch.width)
    tiles = np.ceil(shape.out_channels / c) * np.ceil(patch.height / h) * np.ceil(patch.width / w)
    waves = np.ceil(tiles / on.gpu.num_sms)
    filled = round_up(c * h * w * on.batch * q, on.full) * shape.depth / on.lane_hz * waves
    filled = filled * density.inputs
    filled = filled * tile_imbalance(on, shape.out_channels, density)[:, None, None]
    depth = shape.in_channels // shape.groups
    per_tile = (
        np.ceil(c / (shape.out_channels / shape.groups))
        * (depth * (h + halo) * stride * (w + halo) * stride)
        * density.inputs
        + c * h * w * density.outputs
    )
    whole = shape.size.area * stride**2
    packed = (patch.height + halo) * (patch.width + halo) * stride**2

    def parts(active: float) -> tuple[Floats, Floats]:
        l2 = tiles * (c * shape.depth * weight_reads(on, density) + per_tile * active * on.batch)
        inputs = shape.in_channels * (whole if dense_input else active * packed) * density.inputs
        outputs = active * shape.out_channels * patch.area * density.outputs
        dram = shape.weights * dram_weight_reads(on, density) + (inputs + outputs) * on.batch
        return filled * np.ceil(active / q), (l2 / on.l2 + dram / on.dram)[None]

    return _at_best_tile(on, patches, parts)


@lru_cache(maxsize=CACHE)
def scatter_add(on: Target, channels: int, patches: Patches) -> Cost:
    """Shortcut plus active patches in one pass over the map."""
    patch = patches.patch
    q = tile_sizes(patches.grid)[:, None, None, None]
    c, h, w = tile_grid(channels, patch.height, patch.width)
    tiles = np.ceil(channels / c) * np.ceil(patch.height / h) * np.ceil(patch.width / w)
    filled = round_up(c * h * w * on.batch * q, on.full) / on.lane_hz
    filled = filled * np.ceil(tiles / on.gpu.num_sms)
    overhead = sector_overhead(w, patch.width - w, on.sector)

    def parts(active: float) -> tuple[Floats, Floats]:
        l2 = 3 * c * h * w * active * tiles * on.batch / on.l2 * overhead
        dram = (active * patch.area + 2 * patches.size.area) * channels * on.batch / on.dram
        return filled * np.ceil(active / q), (l2 + dram)[None]

    return _at_best_tile(on, patches, parts)


def gather(on: Target, channels: int, patches: Patches, halo: int = 0) -> Cost:
    """Copying active patches, with `halo` pixels around each, to a packed list."""
    return _moved(on, channels, patches, halo)


def scatter(on: Target, channels: int, patches: Patches) -> Cost:
    """Copying a packed list of patches back into the map."""
    return _moved(on, channels, patches, 0)


def _moved(on: Target, channels: int, patches: Patches, halo: int) -> Cost:
    width = patches.patch.width + 2 * halo
    moved = channels * patches.active * (patches.patch.height + 2 * halo) * width
    # A patch as wide as the map, or wider with its halo, is one run: nothing lies between.
    gap = max(patches.size.width - width, 0)
    overhead = float(sector_overhead(width, gap, on.sector))
    words = channels * patches.size.area + moved
    memory = words / on.dram + moved / on.l2 * (overhead + 1.0)
    return Cost(0.0, memory * on.batch, on.gpu.launch_s)


def dynamic_squeeze_excite(on: Target, channels: int, hidden: int, patches: Patches) -> Cost:
    """Squeeze-and-excitation whose mean is over active patches; it multiplies the whole map.

    The network means over the whole map: this is what the published model costs, not the same
    function (an engine that needs that must compute the 3x3 everywhere).
    """
    return (
        _patch_pool(on, channels, patches)
        + fully_connected(on, channels, hidden)
        + fully_connected(on, hidden, channels)
        + multiply(on, channels, patches.size)
    )


@lru_cache(maxsize=CACHE)
def _patch_pool(on: Target, channels: int, patches: Patches) -> Cost:
    patch, size = patches.patch, patches.size
    q = tile_sizes(patches.grid)[:, None, None, None]
    c, h, w = tile_grid(channels, patch.height, patch.width)
    c, h, w = np.broadcast_arrays(c, h, w)
    tiles = np.ceil(channels / c) * np.ceil(patch.height / h) * np.ceil(patch.width / w)
    # While the tiles are searched their results are added up within a patch, in the end over
    # the map.
    within = np.ceil(patch.height / h) * np.ceil(patch.width / w)
    over = np.ceil(size.height / h) * np.ceil(size.width / w)
    overhead = sector_overhead(w, patch.width - w, on.sector)

    def parts(active: float, partial: Floats) -> tuple[Floats, Floats]:
        per_sm = round_up(c * q, on.full) / on.lane_hz * (h * w * np.ceil(active / q) + 1.0)
        compute = per_sm * on.batch * np.ceil(tiles / on.gpu.num_sms)
        l2 = ((c * h * w * active + c) * tiles + c * over + c) / on.l2 * overhead
        dram = (active * channels * patch.area + channels * size.area) / on.dram
        adding = np.empty_like(tiles)
        for value in np.unique(partial):
            here = partial == value
            adding[here] = reduction_s(on, c[here], int(value))
        return compute + adding * on.batch, ((l2 + dram) * on.batch)[None]

    compute, memory = parts(patches.typical, within)
    best = int(np.argmin(compute + memory))
    compute, memory = np.broadcast_arrays(*parts(patches.active, over))
    return Cost(float(compute.ravel()[best]), float(memory.ravel()[best]), on.gpu.launch_s)


def fused_masker_conv(on: Target, shape: Conv, density: Density = DENSE) -> Cost:
    """Spatial masker and first 1x1 in one: one output channel more, computed on the whole map."""
    return conv(on, _with_logit(shape), density)


def separate_masker_conv(
    on: Target, shape: Conv, patches: Patches, density: Density = DENSE
) -> Cost:
    """The masker by itself (two logits), then the first 1x1 on active patches."""
    before = MapSize(shape.size.height * shape.stride, shape.size.width * shape.stride)
    masker = Conv(shape.in_channels, 2, before)
    return conv(on, masker) + patch_conv(on, shape, patches, dense_input=True, density=density)


def idle_masker_conv(on: Target, shape: Conv) -> Cost:
    """A layer's masker: the fused kernel without arithmetic or output, that is one read of x."""
    return conv(on, _with_logit(shape), Density(outputs=0.0))


def _with_logit(shape: Conv) -> Conv:
    return replace(shape, out_channels=shape.out_channels + 1)


def channel_masker(on: Target, channels: int, size: MapSize, num_groups: int) -> Cost:
    """Mean of the block's input and two linear layers to `num_groups` logits; none for one group.

    num_groups: of the network, mid / G. The published model has the input's channels / G outputs,
    and 16 times fewer hidden units (`Corrections.masker_sizes`): give it those.
    """
    if num_groups <= 1:
        return Cost()
    if on.corrections.masker_sizes:
        hidden = max(num_groups // CHANNEL_MASKER_REDUCTION, CHANNEL_MASKER_REDUCTION)
    else:
        hidden = num_groups // min(CHANNEL_MASKER_REDUCTION, num_groups)
    return (
        average_pool(on, channels, size, MapSize(1, 1))
        + fully_connected(on, channels, hidden)
        + fully_connected(on, hidden, num_groups)
    )


def weight_gather(on: Target, weights: float, active: float) -> Cost:
    """Copying the `active` of a block's weights, once per mask: read from DRAM once at most, then
    from L2, and written to DRAM."""
    copies = active * (on.batch if on.own_masks else 1.0)
    memory = (min(copies, weights) + copies) / on.dram + 2.0 * copies / on.l2
    return Cost(0.0, memory, on.gpu.launch_s)


def image_gather(on: Target, channels: int, size: MapSize) -> Cost:
    """Copying the batch's images together: every word is read and written once."""
    words = 2.0 * channels * size.area * on.batch
    return Cost(0.0, words / on.dram, on.gpu.launch_s)
