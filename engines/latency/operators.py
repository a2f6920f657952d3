"""What one operator of a network costs on a GPU, where nothing or whole channels are skipped.

Formulas of LAUDNet's predictor (arXiv:2308.15949), in words of four bytes: arithmetic of the best
tile, plus L2 traffic of all tiles, plus DRAM traffic of the whole, plus a launch. Maps are square
runs of `width` pixels in memory; `MapSize` is the operator's output.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from engines.architecture import MapSize
from engines.latency.corrections import FIXED, Corrections
from engines.latency.hardware import L2_RATIO, WORD_BYTES, Gpu
from engines.latency.tiles import (
    Floats,
    imbalance,
    round_up,
    sector_overhead,
    tile_grid,
    tile_sizes,
)

CACHE = 16384


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of a batch: arithmetic, data and launches, which add (nothing overlaps)."""

    compute_s: float = 0.0
    memory_s: float = 0.0
    fixed_s: float = 0.0

    @property
    def total_s(self) -> float:
        """All of it."""
        return self.compute_s + self.memory_s + self.fixed_s

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.compute_s + other.compute_s,
            self.memory_s + other.memory_s,
            self.fixed_s + other.fixed_s,
        )

    def scaled(self, factor: float) -> Cost:
        """What happens `factor` times."""
        return Cost(self.compute_s * factor, self.memory_s * factor, self.fixed_s * factor)


@dataclass(frozen=True, slots=True)
class Target:
    """A call on a device: `batch` images (an expectation need not be whole), and what is corrected.

    Rates are in words of four bytes per second.
    """

    gpu: Gpu
    batch: float
    corrections: Corrections = FIXED

    @property
    def lane_hz(self) -> float:
        """Multiply-accumulates per second of one processing element."""
        return self.gpu.frequency_hz * self.gpu.lanes

    @property
    def full(self) -> int:
        """Outputs in flight that fill a processing element."""
        return self.gpu.lanes * self.gpu.pipeline_depth

    @property
    def sector(self) -> int:
        """Words that one memory transaction moves."""
        return self.gpu.sector_bytes // WORD_BYTES

    @property
    def dram(self) -> float:
        """Words per second off the chip."""
        return self.gpu.dram_bytes_per_s / WORD_BYTES

    @property
    def l2(self) -> float:
        """Words per second of the L2 cache."""
        bytes_per_s = self.gpu.l2_bytes_per_s
        if self.corrections.separate_l2 and bytes_per_s <= self.gpu.dram_bytes_per_s:
            bytes_per_s = L2_RATIO * self.gpu.dram_bytes_per_s
        return bytes_per_s / WORD_BYTES

    @property
    def own_masks(self) -> bool:
        """Whether more than one image is there, and each has its own mask."""
        return self.corrections.batch_compaction and self.batch > 1


@dataclass(frozen=True, slots=True)
class Conv:
    """A convolution: channels, output map, kernel edge, stride and groups."""

    in_channels: int
    out_channels: int
    size: MapSize
    kernel: int = 1
    stride: int = 1
    groups: int = 1

    @property
    def weights(self) -> int:
        """Number of its weights."""
        return self.in_channels * self.out_channels * self.kernel**2 // self.groups

    @property
    def depth(self) -> int:
        """Multiply-accumulates per output."""
        return self.in_channels // self.groups * self.kernel**2


@dataclass(frozen=True, slots=True)
class Density:
    """Shares of a convolution's channels that are active, and how many a decision covers.

    group: channels per decision of a channel masker, None where there is none.
    """

    inputs: float = 1.0
    outputs: float = 1.0
    group: int | None = None

    @property
    def weights(self) -> float:
        """Share of the weights that are used."""
        return self.inputs * self.outputs

    @property
    def selects(self) -> bool:
        """Whether a channel masker leaves weights out, others for every image."""
        return self.group is not None and self.weights < 1.0


DENSE = Density()


@dataclass(frozen=True, slots=True)
class Tile:
    """The best tile of a convolution and how many there are."""

    channels: int
    height: int
    width: int
    count: int


def conv(on: Target, shape: Conv, density: Density = DENSE) -> Cost:
    """A dense convolution, or one that computes and reads some channels only."""
    return _searched_conv(on, shape, density)[0]


def conv_tile(on: Target, shape: Conv, density: Density = DENSE) -> Tile:
    """The tile that `conv` chose."""
    return _searched_conv(on, shape, density)[1]


@lru_cache(maxsize=CACHE)
def _searched_conv(on: Target, shape: Conv, density: Density) -> tuple[Cost, Tile]:
    size, halo, stride = shape.size, shape.kernel - 1, shape.stride
    c, h, w = tile_grid(shape.out_channels, size.height, size.width)
    tiles = np.ceil(shape.out_channels / c) * np.ceil(size.height / h) * np.ceil(size.width / w)
    compute = (
        (round_up(c * h * w, on.full) * shape.depth * on.batch / on.lane_hz)
        * density.inputs
        * tile_imbalance(on, shape.out_channels, density)[:, None, None]
        * np.ceil(tiles / on.gpu.num_sms)
    )
    per_group = shape.out_channels / shape.groups
    depth = shape.in_channels // shape.groups
    l2_words = tiles * (
        c * shape.depth * weight_reads(on, density)
        + np.ceil(c / per_group)
        * (depth * (h + halo) * stride * (w + halo) * stride)
        * (density.inputs * on.batch)
        + c * h * w * density.outputs * on.batch
    )
    l2 = l2_words / on.l2 * sector_overhead(w, size.width - w, on.sector)
    dram = (
        shape.weights * dram_weight_reads(on, density)
        + shape.in_channels * size.area * stride**2 * on.batch * density.inputs
        + shape.out_channels * size.area * on.batch * density.outputs
    ) / on.dram
    total = compute + l2 + dram
    best = np.unravel_index(np.argmin(total), total.shape)
    memory = float(l2[best]) + dram
    tile = Tile(
        int(c[best[0], 0, 0]), int(h[0, best[1], 0]), int(w[0, 0, best[2]]), int(tiles[best])
    )
    return Cost(float(compute[best]), memory, on.gpu.launch_s), tile


def tile_imbalance(on: Target, out_channels: int, density: Density) -> Floats:
    """Share of active outputs in the fullest tile, per candidate size of tiles of channels."""
    chosen = on.corrections
    active = density.outputs if chosen.single_input_density else density.weights
    group = density.group if chosen.group_size and density.group else 1
    return np.array(
        [
            imbalance(
                math.ceil(out_channels / size), int(size), active, group, chosen.exact_expectation
            )
            for size in tile_sizes(out_channels)
        ]
    )


def weight_reads(on: Target, density: Density) -> float:
    """How often all weights are read from L2, per tile: once per mask that there is.

    The published model lets a batch of several images read all of them once.
    """
    if on.own_masks and density.selects:
        return on.batch * density.weights
    return density.weights if on.batch == 1 else 1.0


def dram_weight_reads(on: Target, density: Density) -> float:
    """How often all weights are read from DRAM: gathered copies one by one, else once."""
    if on.corrections.weight_gather and density.selects:
        return density.weights * (on.batch if on.own_masks else 1.0)
    return density.outputs if on.batch == 1 else 1.0


@lru_cache(maxsize=CACHE)
def add(on: Target, channels: int, size: MapSize) -> Cost:
    """The sum of two maps: three words per element, all from and to DRAM."""
    c, h, w = tile_grid(channels, size.height, size.width)
    tiles = np.ceil(channels / c) * np.ceil(size.height / h) * np.ceil(size.width / w)
    memory = 3 * c * h * w * tiles / on.dram * on.batch
    compute = element_compute(on, c * h * w, tiles)
    return _cheapest(on, compute, memory)


def element_compute(on: Target, elements: Floats, tiles: Floats) -> Floats:
    """One operation per element of a tile, all images of the batch."""
    waves = np.ceil(tiles / on.gpu.num_sms)
    return np.asarray(round_up(elements, on.full) / on.lane_hz * waves * on.batch)


def _cheapest(on: Target, compute: Floats, memory: Floats) -> Cost:
    compute, memory = np.broadcast_arrays(compute, memory)
    best = int(np.argmin(compute + memory))
    return Cost(float(compute.ravel()[best]), float(memory.ravel()[best]), on.gpu.launch_s)


def average_pool(on: Target, channels: int, before: MapSize, after: MapSize) -> Cost:
    """Pooling of any kind: nothing but its input and output, from DRAM and through L2."""
    words = channels * (before.area + after.area) * on.batch
    return Cost(0.0, words / on.dram + words / on.l2, on.gpu.launch_s)


@lru_cache(maxsize=CACHE)
def fully_connected(on: Target, inputs: int, outputs: int) -> Cost:
    """A linear layer. Its tile search ends at 1 x 1: the number of tiles that the published model
    counts grows with their size, which the vectors confirm."""
    co, ci = tile_grid(outputs, inputs)
    tiles = co * ci
    weights = inputs * outputs * (1.0 if on.corrections.fc_weights_once else on.batch)
    l2 = (tiles + ci + co) * tiles * on.batch / on.l2 * sector_overhead(ci, inputs, on.sector)
    dram = (weights + (inputs + outputs) * on.batch) / on.dram
    compute = round_up(tiles * on.batch, on.full) / on.lane_hz * np.ceil(tiles / on.gpu.num_sms)
    return _cheapest(on, compute, l2 + dram)


def reduction_s(on: Target, channels: Floats | float, values: int) -> Floats:
    """Seconds to add up `values` numbers per channel in one processing element, as a tree."""
    total = np.zeros_like(np.asarray(channels, np.float64))
    left = math.ceil(values / 2)
    while left > 1:
        work = np.asarray(left * channels, np.float64)
        efficiency = work / round_up(work, on.full)
        total = total + np.ceil(work / on.gpu.lanes) / (efficiency * on.gpu.frequency_hz)
        left = math.ceil(left / 2)
    return total


@lru_cache(maxsize=CACHE)
def global_pool(on: Target, channels: int, size: MapSize) -> Cost:
    """The mean of a whole map inside squeeze-and-excitation, one pixel of a tile at a time."""
    c = np.array([2.0**k for k in range(8) if 2**k <= 2 * channels])
    blocks = np.ceil(channels / c)
    tiles = blocks * size.area
    compute = (
        round_up(c, on.full) / on.lane_hz * np.ceil(tiles / on.gpu.num_sms)
        + reduction_s(on, c, size.area) * on.batch
    )
    memory = on.batch * (tiles * (c / on.dram + c / on.l2) + blocks * (c * size.area + c) / on.l2)
    return _cheapest(on, compute, memory)


@lru_cache(maxsize=CACHE)
def multiply(on: Target, channels: int, size: MapSize) -> Cost:
    """A map times one number per channel."""
    c, h, w = tile_grid(channels, size.height, size.width)
    tiles = np.ceil(channels / c) * np.ceil(size.height / h) * np.ceil(size.width / w)
    l2 = tiles * (2 * c * h * w + c) / on.l2 * sector_overhead(w, size.width - w, on.sector)
    dram = (2 * channels * size.area + channels) / on.dram
    return _cheapest(on, element_compute(on, c * h * w, tiles), (l2 + dram) * on.batch)


def squeeze_excite(on: Target, channels: int, hidden: int, size: MapSize) -> Cost:
    """Squeeze-and-excitation: pool, two linear layers, multiply; four launches."""
    return (
        global_pool(on, channels, size)
        + fully_connected(on, channels, hidden)
        + fully_connected(on, hidden, channels)
        + multiply(on, channels, size)
    )
