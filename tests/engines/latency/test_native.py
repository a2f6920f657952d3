"""The model of our native engine, on machines whose numbers make its answers easy to check."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from engines.architecture import MapSize, ResNet, Stage
from engines.core import Paradigm
from engines.errors import InvalidInput
from engines.latency.core import HEAD, STEM, PartCost, Prediction, uniform_rates
from engines.latency.host import BarrierCost, Host, MemoryLevel
from engines.latency.native import predict_native
from engines.macs import BlockRates, all_block_macs, executed_macs
from tests.engines.latency.hosts import MACS_PER_S, UNITS, host

IMAGE = MapSize(64, 64)
RATES = (0.0, 0.1, 0.3, 0.5, 0.8, 1.0)

KINDS: dict[Paradigm, dict[str, int]] = {
    Paradigm.STATIC: {},
    Paradigm.LAYER: {},
    Paradigm.SPATIAL: {"spatial_granularity": 2},
    Paradigm.CHANNEL: {"channel_granularity": 4},
    Paradigm.SPATIAL_CHANNEL: {"spatial_granularity": 2, "channel_granularity": 4},
}
DYNAMIC = tuple(kind for kind in KINDS if kind is not Paradigm.STATIC)


def net_of(kind: Paradigm, *, depth: int = 2, **changes: Any) -> ResNet:
    """Two stages of one paradigm."""
    stages = tuple(
        Stage(depth=depth, width=width, paradigm=kind, **KINDS[kind]) for width in (16, 32)
    )
    return ResNet(stem_width=16, stages=stages, num_classes=10, folded=True, **changes)


def predict(
    net: ResNet,
    machine: Host,
    *,
    rate: float = 1.0,
    rates: tuple[BlockRates, ...] | None = None,
    image: MapSize = IMAGE,
    batch: int = 1,
    threads: int = 1,
    precision: str = "fp32",
) -> Prediction:
    return predict_native(
        net,
        image,
        uniform_rates(net, rate, image) if rates is None else rates,
        batch=batch,
        threads=threads,
        precision=precision,
        host=machine,
    )


def part(prediction: Prediction, name: str) -> PartCost:
    return next(each for each in prediction.parts if each.name == name)


def barriers(cost_s: float) -> tuple[BarrierCost, ...]:
    return tuple(BarrierCost(threads=t, barrier_s=cost_s) for t in (2, 4))


# Its cache holds nothing, and reading from memory is what takes time.
NO_CACHE = (
    MemoryLevel(name="L2", size_bytes=1, read_bytes_per_s=1e17, all_read_bytes_per_s=1e17),
    MemoryLevel(name="memory", size_bytes=2, read_bytes_per_s=1e15, all_read_bytes_per_s=1e15),
)
# Everything that a machine can be slow at, so that no part of the model hides.
REAL = host(
    segment_s=1e-9,
    late_byte_s=2e-11,
    scattered_byte_s=8e-11,
    stream_bytes_per_s=1e10,
    parallel_ratio=0.9,
    pool_number_s=1e-10,
    pool_channel_s=4e-10,
    score_channel_s=2e-10,
    prepare_pixel_s=2e-9,
    class_s=2e-8,
    call_s=1e-4,
    barriers=barriers(2e-6),
    list_pixel_s=5e-9,
)


def test_parts_are_the_networks_in_order_of_execution() -> None:
    net = net_of(Paradigm.SPATIAL)
    prediction = predict(net, REAL, rate=0.5)
    names = [each.name for each in prediction.parts]
    assert names == [STEM, *(block.name for block in net.blocks), HEAD]
    parts = sum(each.total_s for each in prediction.parts)
    assert prediction.total_s == pytest.approx(parts + prediction.overhead_s)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 3])
def test_where_only_arithmetic_costs_time_is_executed_macs(kind: Paradigm, batch: int) -> None:
    net = net_of(kind, stride_in_1x1=batch == 3)
    rates = uniform_rates(net, 0.5, IMAGE)
    unasked = tuple(replace(each, spatial_masker=0.0, channel_masker=0.0) for each in rates)
    # A vector of eight channels is two groups: both are computed where one is active.
    whole = {"vector": 1} if net.blocks[0].granularity.channel else {}
    machine = host(units=UNITS.model_copy(update=whole))
    found = predict(net, machine, rates=unasked, batch=batch)
    blocks = sum(each.total_s for each in found.parts[1:-1])
    fixed = executed_macs(net, IMAGE, [replace(each, spatial=0, dilated=0) for each in unasked])
    skippable = executed_macs(net, IMAGE, unasked) - fixed
    projections = sum(macs.projection for macs in all_block_macs(net, IMAGE))
    assert blocks == pytest.approx(batch * (skippable + projections) / MACS_PER_S)


def test_a_block_by_hand() -> None:
    """One static block of 16 channels on a map of 4 x 4, 64 channels outside: with the projection
    16 x (16*16 + 9*16*16 + 16*64 + 16*64) = 73,728 MACs, 32 listed pixels and 4 meetings."""
    stage = Stage(depth=1, width=16)
    net = ResNet(stem_width=16, stages=(stage,), num_classes=10, folded=True)
    machine = host(list_pixel_s=1e-3, barriers=barriers(1e-2))
    image = MapSize(16, 16)
    alone = part(predict(net, machine, image=image), "layer1.0")
    assert alone.compute_s == pytest.approx(73_728e-9)
    assert alone.fixed_s == pytest.approx(32e-3)
    assert alone.total_s == pytest.approx(73_728e-9 + 32e-3)
    together = part(predict(net, machine, image=image, threads=2), "layer1.0")
    assert together.fixed_s == pytest.approx(32e-3 + 4e-2)


@pytest.mark.parametrize("kind", DYNAMIC)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch", [1, 3])
def test_more_active_never_costs_less(kind: Paradigm, threads: int, batch: int) -> None:
    net = net_of(kind)
    times = [predict(net, REAL, rate=rate, batch=batch, threads=threads).total_s for rate in RATES]
    # Pieces of work do not fill threads evenly: a little more of it may end a little earlier.
    slack = 1.0 if threads == 1 else 0.9
    assert all(b >= a * slack for a, b in pairwise(times)), times
    assert times[-1] > times[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_larger_batches_and_images_cost_more_but_not_per_image(
    kind: Paradigm, precision: str
) -> None:
    net = net_of(kind)
    found = [
        predict(net, REAL, rate=0.5, batch=batch, precision=precision).total_s
        for batch in (1, 2, 4, 8)
    ]
    assert all(a < b < 2 * a for a, b in pairwise(found))
    sizes = [predict(net, REAL, rate=0.5, image=MapSize(s, s)).total_s for s in (32, 64, 65, 128)]
    assert sizes == sorted(set(sizes))


def test_layers_that_never_run_read_no_weights() -> None:
    net = net_of(Paradigm.LAYER)
    machine = host(memory=NO_CACHE, stream_bytes_per_s=1e6, late_byte_s=1e-7)
    off, on = (predict(net, machine, rate=rate) for rate in (0.0, 1.0))
    for block in net.blocks:
        size = block.in_channels * block.out_channels * 4 * block.projection
        assert part(off, block.name).memory_s == pytest.approx(size / 1e6, rel=1e-6)
        assert part(on, block.name).memory_s > part(off, block.name).memory_s
        if not block.projection:
            assert part(off, block.name).total_s == 0.0


@pytest.mark.parametrize(("batch", "read"), [(1, 0.5), (2, 0.75), (3, 0.875)])
def test_weights_of_a_layer_are_read_once_for_all_images_that_run_it(
    batch: int, read: float
) -> None:
    net = net_of(Paradigm.LAYER)
    machine = host(memory=NO_CACHE, stream_bytes_per_s=1e6)
    half = part(predict(net, machine, rate=0.5, batch=batch), "layer2.1")
    whole = part(predict(net, machine, batch=batch), "layer2.1")
    assert half.memory_s == pytest.approx(read * whole.memory_s)
    assert half.compute_s == pytest.approx(0.5 * whole.compute_s)


def test_inactive_channels_read_fewer_weights_and_read_them_more_slowly() -> None:
    net = net_of(Paradigm.CHANNEL)
    free = {"memory": NO_CACHE, "late_byte_s": 1e-9, "stream_bytes_per_s": 1e30}
    slow, fast = (
        part(predict(net, host(**free, scattered_byte_s=late), rate=0.5), "layer2.1")
        for late in (4e-9, 1e-9)
    )
    whole = part(predict(net, host(**free), rate=1.0), "layer2.1")
    assert slow.memory_s == pytest.approx(4 * fast.memory_s, rel=1e-3)
    assert fast.memory_s < whole.memory_s


def test_computing_hides_reading_but_for_what_is_late() -> None:
    net = net_of(Paradigm.STATIC)
    block = part(predict(net, host()), "layer2.1")
    slowest = host(memory=NO_CACHE, stream_bytes_per_s=1.0)
    assert part(predict(net, slowest), "layer2.1").total_s == pytest.approx(
        part(predict(net, slowest), "layer2.1").memory_s
    )
    late = part(predict(net, host(memory=NO_CACHE, late_byte_s=1e-9)), "layer2.1")
    assert late.memory_s > 0.0
    assert late.total_s == pytest.approx(block.total_s + late.memory_s)


def test_units_wider_than_groups_are_computed_whole() -> None:
    """Half of the groups of 4 in units of 16: a unit is idle once in 2^4 times."""
    net = net_of(Paradigm.CHANNEL)
    wide = host(units=UNITS.model_copy(update={"input_unit": 16, "vector": 16}))
    rates = tuple(BlockRates(channel=0.5) for _ in net.blocks)
    found = part(predict(net, wide, rates=rates), "layer2.1")
    macs = all_block_macs(net, IMAGE)[3]
    share = 1.0 - 0.5**4
    executed = macs.conv1 * share + macs.conv2 * share**2 + macs.conv3 * share
    assert found.compute_s == pytest.approx(executed / MACS_PER_S)


def test_pieces_of_inputs_cost_extra() -> None:
    net = net_of(Paradigm.CHANNEL)
    free, dear = (predict(net, host(segment_s=cost), rate=0.5).total_s for cost in (0.0, 1e-6))
    assert dear > free
    assert predict(net, host(segment_s=1e-6)).total_s == pytest.approx(predict(net, host()).total_s)


@pytest.mark.parametrize("kind", DYNAMIC)
def test_maskers_cost_only_where_they_are_asked(kind: Paradigm) -> None:
    net = net_of(kind)
    machine = host(pool_number_s=1e-9, pool_channel_s=1e-9, score_channel_s=1e-9)
    asked = uniform_rates(net, 1.0, IMAGE)
    unasked = tuple(replace(each, spatial_masker=0.0, channel_masker=0.0) for each in asked)
    free = predict(net, host(), rates=asked)
    for block in net.blocks:
        with_them = part(predict(net, machine, rates=asked), block.name).total_s
        without = part(predict(net, machine, rates=unasked), block.name).total_s
        assert with_them > without
        assert without == pytest.approx(part(free, block.name).total_s)


def test_windows_that_were_left_alone_are_not_pooled_again() -> None:
    """The second block's windows are the first one's, but a block with a projection writes all;
    the third finds the means of what the second skipped."""
    net = net_of(Paradigm.SPATIAL, depth=3)
    machine = host(pool_number_s=1e-6)
    rates = tuple(BlockRates(spatial_masker=1.0, spatial=0.25, dilated=0.25) for _ in net.blocks)
    first, second, third = (
        part(predict(net, machine, rates=rates), name).compute_s
        - part(predict(net, host(), rates=rates), name).compute_s
        for name in ("layer1.0", "layer1.1", "layer1.2")
    )
    area = 16 * 16
    assert first == pytest.approx(16 * area * 1e-6)
    assert second == pytest.approx(64 * area * 1e-6)
    assert third == pytest.approx(0.25 * second)


def test_threads_share_the_work_unless_pieces_are_too_few() -> None:
    net = net_of(Paradigm.STATIC)
    one, two, four = (
        part(predict(net, host(), threads=threads), "layer1.1").total_s for threads in (1, 2, 4)
    )
    assert [two, four] == pytest.approx([one / 2, one / 4])
    slowed = part(predict(net, host(parallel_ratio=0.5), threads=4), "layer1.1").total_s
    assert slowed == pytest.approx(2 * four)
    # A map of one pixel: of the layers 64 -> 16, 3x3 and 16 -> 64 only the last has panels for all.
    tiny = MapSize(4, 4)
    alone, shared = (
        part(predict(net, host(), image=tiny, threads=threads), "layer1.1").compute_s
        for threads in (1, 4)
    )
    assert alone == pytest.approx((64 * 16 + 9 * 16 * 16 + 16 * 64) / MACS_PER_S)
    assert shared == pytest.approx((64 * 16 + 9 * 16 * 16 + 16 * 64 / 4) / MACS_PER_S)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"precision": "bf16"}, "not measured in 'bf16'"),
        ({"batch": 0}, "at least one image"),
        ({"batch": -3}, "at least one image"),
        ({"threads": 0}, "threads must be 1 to 4"),
        ({"threads": 5}, "threads must be 1 to 4, the CPUs of 'Made up', got 5"),
        ({"image": MapSize(0, 64)}, "0x64"),
        ({"rates": (BlockRates(),) * 3}, "4 blocks need as many rates, got 3"),
        ({"rates": (BlockRates(),) * 3 + (BlockRates(channel=1.2),)}, "layer2.1: rate 'channel'"),
        ({"rates": (BlockRates(spatial=-0.1),) + (BlockRates(),) * 3}, "layer1.0: rate 'spatial'"),
        ({"rates": (BlockRates(dilated=float("nan")),) * 4}, "rate 'dilated'"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        predict(net_of(Paradigm.STATIC), host(), **change)
