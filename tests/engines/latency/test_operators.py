"""Operators on devices where only one thing takes time, computed by hand."""

from __future__ import annotations

import math

import pytest

from engines.architecture import MapSize
from engines.latency import dynamic_operators as dynamic
from engines.latency import operators as static
from engines.latency.corrections import PAPER, Corrections
from engines.latency.dynamic_operators import Patches
from engines.latency.hardware import Gpu, gpu
from engines.latency.operators import Conv, Cost, Density, Target
from tests.engines.latency.devices import ARITHMETIC, CACHE, MEMORY, PLAIN, UNLIMITED, on

MAP = MapSize(4, 4)
LAUNCH = PLAIN.launch_s


# Costs


def test_costs_add_and_repeat_part_by_part() -> None:
    cost = Cost(1.0, 2.0, 3.0) + Cost(10.0, 20.0, 30.0)
    assert cost == Cost(11.0, 22.0, 33.0)
    assert cost.scaled(0.5) == Cost(5.5, 11.0, 16.5)
    assert cost.total_s == 66.0


# Dense operators, words from and to DRAM


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        pytest.param(Conv(3, 5, MAP), 3 * 5 + 2 * (3 + 5) * 16, id="1x1"),
        pytest.param(Conv(3, 5, MAP, 3), 3 * 5 * 9 + 2 * (3 + 5) * 16, id="3x3"),
        pytest.param(Conv(3, 5, MAP, 3, 2), 135 + 2 * (3 * 64 + 5 * 16), id="strided"),
        pytest.param(Conv(4, 6, MAP, 3, 1, 2), 2 * 6 * 9 + 2 * (4 + 6) * 16, id="grouped"),
    ],
)
def test_a_convolution_reads_weights_once_and_maps_per_image(shape: Conv, words: int) -> None:
    cost = static.conv(on(MEMORY, batch=2), shape)
    assert cost.memory_s == pytest.approx(words)
    assert cost.fixed_s == LAUNCH


def test_a_convolution_multiplies_every_weight_at_every_output() -> None:
    """One lane: tiles never leave it idle, whatever their size."""
    cost = static.conv(on(ARITHMETIC, batch=2), Conv(4, 6, MAP, 3, 1, 2))
    assert cost.compute_s == pytest.approx(2 * 6 * 16 * (4 // 2) * 9)


@pytest.mark.parametrize(
    ("cost", "words"),
    [
        pytest.param(static.add(on(MEMORY, 2), 3, MAP), 2 * 3 * 48, id="add"),
        pytest.param(
            static.average_pool(on(MEMORY, 2), 3, MAP, MapSize(2, 2)), 2 * 3 * 20, id="pool"
        ),
        pytest.param(static.multiply(on(MEMORY, 2), 3, MAP), 2 * (2 * 48 + 3), id="multiply"),
        pytest.param(static.fully_connected(on(MEMORY, 2), 3, 5), 15 + 2 * 8, id="fully_connected"),
    ],
)
def test_words_of_small_operators(cost: Cost, words: int) -> None:
    assert cost.memory_s == pytest.approx(words)
    assert cost.fixed_s == LAUNCH


def test_squeeze_and_excitation_is_four_kernels() -> None:
    """Pool 48, layers 3x2 twice with 5 values each, multiply 99, and images of the batch."""
    cost = static.squeeze_excite(on(MEMORY, 2), 3, 2, MAP)
    assert cost.fixed_s == 4 * LAUNCH
    pool = static.global_pool(on(MEMORY, 2), 3, MAP).memory_s
    assert cost.memory_s == pytest.approx(pool + 2 * (6 + 2 * 5) + 2 * (2 * 48 + 3))


def test_a_tree_adds_values_in_halves() -> None:
    """8 values: 4, then 2 at a time, one lane: 4 + 2 steps; the last pair is the tile's own."""
    assert float(static.reduction_s(on(ARITHMETIC), 1.0, 8)) == 6.0
    assert float(static.reduction_s(on(ARITHMETIC), 3.0, 8)) == 18.0
    assert float(static.reduction_s(on(ARITHMETIC), 3.0, 2)) == 0.0


# Convolutions of patches


def test_patches_count_partial_ones_and_round_up() -> None:
    patches = Patches(MapSize(14, 10), 4, 0.26)
    assert patches.grid == 4 * 3
    assert patches.active == 4
    assert Patches(MapSize(14, 10), 4, 3 * (1 / 12)).active == 3
    assert patches.typical == 6.5
    assert Patches(MapSize(14, 10), None, 0.5).patch == MapSize(14, 10)
    assert Patches(MapSize(14, 10), 12, 0.5).patch == MapSize(12, 10)


@pytest.mark.parametrize(
    ("dense_input", "inputs"),
    [(True, 2 * 16), (False, 2 * 2 * 16)],
    ids=["the whole map", "two packed patches with a frame of one pixel"],
)
def test_a_patch_convolution_reads_a_map_or_packed_patches(dense_input: bool, inputs: int) -> None:
    patches = Patches(MAP, 2, 0.5)
    shape = Conv(2, 3, MAP, 3)
    cost = dynamic.patch_conv(on(MEMORY, 5), shape, patches, dense_input=dense_input)
    assert cost.memory_s == pytest.approx(2 * 3 * 9 + 5 * (inputs + 2 * 3 * 4))


def test_a_patch_convolution_computes_active_patches_only() -> None:
    patches = Patches(MAP, 2, 0.5)
    cost = dynamic.patch_conv(on(ARITHMETIC), Conv(2, 3, MAP, 3), patches, dense_input=True)
    whole = static.conv(on(ARITHMETIC), Conv(2, 3, MAP, 3))
    assert cost.compute_s == pytest.approx(whole.compute_s / 2)


def test_scatter_add_moves_the_map_twice_and_active_patches_once() -> None:
    cost = dynamic.scatter_add(on(MEMORY, 2), 3, Patches(MAP, 2, 0.5))
    assert cost.memory_s == pytest.approx(2 * 3 * (2 * 4 + 2 * 16))


def test_gather_and_scatter_move_the_map_and_the_patches() -> None:
    patches = Patches(MAP, 2, 0.5)
    assert dynamic.scatter(on(MEMORY, 2), 3, patches).memory_s == 2 * 3 * (16 + 8)
    assert dynamic.gather(on(MEMORY, 2), 3, patches).memory_s == 2 * 3 * (16 + 8)
    assert dynamic.gather(on(MEMORY, 2), 3, patches, halo=1).memory_s == 2 * 3 * (16 + 32)
    through_l2 = dynamic.gather(on(CACHE, 2, PAPER), 3, patches, halo=1)
    assert through_l2.memory_s == pytest.approx(2 * 2 * 3 * 32)


def test_squeeze_and_excitation_over_patches_multiplies_the_whole_map() -> None:
    cost = dynamic.dynamic_squeeze_excite(on(MEMORY), 3, 2, Patches(MAP, 2, 0.5))
    assert cost.memory_s == pytest.approx((24 + 48) + 2 * (6 + 5) + (2 * 48 + 3))
    assert cost.fixed_s == 4 * LAUNCH


# Maskers


def test_a_fused_masker_is_one_more_output() -> None:
    shape = Conv(2, 3, MAP)
    fused = dynamic.fused_masker_conv(on(PLAIN, 2), shape)
    assert fused == static.conv(on(PLAIN, 2), Conv(2, 4, MAP))


def test_a_separate_masker_reads_the_map_twice() -> None:
    cost = dynamic.separate_masker_conv(on(MEMORY), Conv(2, 3, MAP), Patches(MAP, 2, 0.5))
    masker, conv1 = 2 * 2 + 2 * 16 + 2 * 16, 2 * 3 + 2 * 16 + 3 * 8
    assert cost.memory_s == pytest.approx(masker + conv1)
    assert cost.fixed_s == 2 * LAUNCH


def test_an_idle_masker_reads_its_input_and_computes_nothing() -> None:
    cost = dynamic.idle_masker_conv(on(PLAIN), Conv(2, 3, MAP))
    assert cost.compute_s == 0.0
    assert cost.memory_s == pytest.approx(2 * 16)
    assert cost.fixed_s == LAUNCH


def test_a_channel_masker_decides_nothing_about_one_group() -> None:
    assert dynamic.channel_masker(on(PLAIN), 8, MAP, 1) == Cost()


# Channels


@pytest.mark.parametrize("rate", [0.0, 0.25, 1.0])
def test_skipped_channels_are_neither_read_nor_written(rate: float) -> None:
    """A batch of two under the published model: one mask, weights read whole."""
    density = Density(rate, rate, group=2)
    cost = static.conv(on(MEMORY, 2, PAPER), Conv(8, 8, MAP), density)
    assert cost.memory_s == pytest.approx(64 + 2 * 16 * 16 * rate)


# Everything together


OPERATORS = [
    lambda on: static.conv(on, Conv(256, 256, MapSize(14, 14), 3)),
    lambda on: dynamic.patch_conv(
        on, Conv(64, 64, MapSize(14, 14), 3), Patches(MapSize(14, 14), 2, 0.5), dense_input=True
    ),
    lambda on: static.add(on, 256, MapSize(14, 14)),
    lambda on: dynamic.scatter_add(on, 256, Patches(MapSize(14, 14), 2, 0.5)),
    lambda on: static.squeeze_excite(on, 320, 80, MapSize(14, 14)),
]


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("device", [gpu("v100"), gpu("tx2")], ids=lambda device: device.name)
def test_time_grows_with_the_batch(operator: object, device: Gpu) -> None:
    assert callable(operator)
    times = [operator(Target(device, batch)).total_s for batch in (1, 2, 3, 8, 128)]
    assert times == sorted(times)
    assert all(math.isfinite(time) and time > device.launch_s for time in times)


def test_a_correction_changes_no_dense_convolution() -> None:
    shape = Conv(64, 64, MAP, 3)
    fixed, paper = static.conv(on(PLAIN, 4), shape), static.conv(on(PLAIN, 4, PAPER), shape)
    assert fixed == paper


def test_unlimited_devices_take_no_time_but_launches() -> None:
    nothing = static.conv(on(MEMORY, 4, Corrections()), Conv(8, 8, MAP))
    assert nothing.compute_s < 1e6 / UNLIMITED
