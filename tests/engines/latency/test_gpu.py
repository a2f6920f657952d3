"""Whole predictions: what they are made of, how they behave, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from engines.architecture import MapSize, ResNet, Stage
from engines.core import Paradigm
from engines.errors import InvalidInput
from engines.latency.corrections import FIXED, PAPER, Corrections
from engines.latency.gpu import network_costs, predict_gpu, target
from engines.latency.hardware import GPU_NAMES, Gpu, gpu
from engines.latency.shapes import (
    NetworkShape,
    named_shape,
    shape_of,
    uniform_shape_rates,
)
from engines.macs import BlockRates

V100, TX2 = gpu("v100"), gpu("tx2")
DYNAMIC = [p for p in Paradigm if p is not Paradigm.STATIC]
WHOLE = BlockRates()


def seconds(
    shape: NetworkShape,
    rate: float,
    *,
    device: Gpu = V100,
    batch: int = 1,
    corrections: Corrections = FIXED,
) -> float:
    rates = uniform_shape_rates(shape, rate)
    return predict_gpu(shape, rates, batch=batch, device=device, corrections=corrections).total_s


# What a prediction is made of


@pytest.mark.parametrize("paradigm", Paradigm)
def test_parts_in_execution_order_add_up(paradigm: Paradigm) -> None:
    shape = named_shape("resnet50", paradigm)
    prediction = predict_gpu(shape, uniform_shape_rates(shape, 0.5), batch=4, device=V100)
    names = [block.name for block in shape.blocks]
    assert [part.name for part in prediction.parts] == ["stem", *names, "head"]
    for part in prediction.parts:
        assert part.total_s == pytest.approx(part.compute_s + part.memory_s + part.fixed_s)
        assert min(part.compute_s, part.memory_s, part.fixed_s) >= 0.0
    assert prediction.total_s == pytest.approx(sum(part.total_s for part in prediction.parts))
    assert prediction.overhead_s == 0.0


@pytest.mark.parametrize(
    ("paradigm", "operators"),
    [
        (Paradigm.STATIC, "conv1 conv2 conv3 add"),
        (Paradigm.SPATIAL, "masker_conv1 gather_conv2 conv3 scatter_add"),
        (Paradigm.CHANNEL, "conv1 masker weight_gather conv2 conv3 scatter_add"),
        (Paradigm.LAYER, "masker image_gather conv1 conv2 conv3 add"),
        (
            Paradigm.SPATIAL_CHANNEL,
            "masker_conv1 channel_masker weight_gather gather_conv2 conv3 scatter_add",
        ),
    ],
)
def test_operators_of_a_block(paradigm: Paradigm, operators: str) -> None:
    shape = named_shape("resnet50", paradigm)
    costs = network_costs(shape, uniform_shape_rates(shape, 0.5), target(V100, 4))
    first, second = costs[1], costs[2]
    assert [name for name, _ in second.operators] == operators.split()
    assert [name for name, _ in first.operators] == [*operators.split(), "projection"]


@pytest.mark.parametrize("paradigm", Paradigm)
def test_squeeze_and_excitation_is_in_every_block_that_has_it(paradigm: Paradigm) -> None:
    shape = named_shape("regnet_y_400mf", paradigm)
    costs = network_costs(shape, uniform_shape_rates(shape, 0.5), target(V100, 1))
    assert all("squeeze_excite" in dict(block.operators) for block in costs[1:-1])


def test_masker_and_first_1x1_are_fused_where_that_is_cheaper() -> None:
    shape = named_shape("resnet50", Paradigm.SPATIAL)
    on = target(V100, 128)
    choices = set()
    for rate in (0.05, 0.9):
        for block in network_costs(shape, uniform_shape_rates(shape, rate), on)[1:-1]:
            assert block.fusion is not None
            taken = dict(block.operators)["masker_conv1"].total_s
            assert taken == min(block.fusion.fused_s, block.fusion.separate_s)
            assert block.fusion.fused == (taken == block.fusion.fused_s)
            choices.add((rate, block.fusion.fused))
    assert {(0.05, False), (0.9, True)} <= choices


@pytest.mark.parametrize("paradigm", [Paradigm.STATIC, Paradigm.CHANNEL, Paradigm.LAYER])
def test_without_a_spatial_masker_nothing_is_fused(paradigm: Paradigm) -> None:
    shape = named_shape("resnet50", paradigm)
    costs = network_costs(shape, uniform_shape_rates(shape, 0.5), target(V100, 4))
    assert all(block.fusion is None for block in costs)


# How predictions behave


@pytest.mark.parametrize("corrections", [PAPER, FIXED], ids=["paper", "fixed"])
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("paradigm", DYNAMIC)
def test_maskers_that_are_not_asked_cost_what_the_static_network_costs(
    paradigm: Paradigm, batch: int, corrections: Corrections
) -> None:
    dynamic, static = named_shape("resnet50", paradigm), named_shape("resnet50")
    rates = [WHOLE] * len(static.blocks)
    of_dynamic, of_static = (
        predict_gpu(shape, rates, batch=batch, device=V100, corrections=corrections)
        for shape in (dynamic, static)
    )
    assert of_dynamic == of_static


@pytest.mark.parametrize("device", [V100, TX2], ids=lambda device: device.name)
@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("paradigm", DYNAMIC)
def test_skipping_more_never_costs_more(paradigm: Paradigm, batch: int, device: Gpu) -> None:
    # Where all channels are active their weights need no copy, so the last step is another one.
    shape = named_shape("resnet50", paradigm)
    rates = [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99]
    times = [seconds(shape, rate, device=device, batch=batch) for rate in rates]
    assert all(low <= high * (1 + 1e-9) for low, high in pairwise(times))
    assert times[0] < 0.8 * times[-1]


@pytest.mark.parametrize("corrections", [PAPER, FIXED], ids=["paper", "fixed"])
@pytest.mark.parametrize("paradigm", [Paradigm.CHANNEL, Paradigm.SPATIAL, Paradigm.LAYER])
def test_everything_active_costs_more_than_the_static_network(
    paradigm: Paradigm, corrections: Corrections
) -> None:
    """Which does not ask maskers."""
    dynamic, static = named_shape("resnet101", paradigm), named_shape("resnet101")
    for device, batch in ((V100, 128), (TX2, 1)):
        whole = seconds(dynamic, 1.0, device=device, batch=batch, corrections=corrections)
        assert whole > seconds(static, 1.0, device=device, batch=batch, corrections=corrections)


def test_space_and_channels_skipped_together_cost_less_than_either() -> None:
    both, space, channels = (
        seconds(named_shape("resnet101", paradigm), 0.5, device=TX2)
        for paradigm in (Paradigm.SPATIAL_CHANNEL, Paradigm.SPATIAL, Paradigm.CHANNEL)
    )
    assert both < min(space, channels)


def test_a_spatial_and_channel_block_may_ask_only_one_of_its_maskers() -> None:
    both = named_shape("resnet50", Paradigm.SPATIAL_CHANNEL)
    for paradigm in (Paradigm.SPATIAL, Paradigm.CHANNEL):
        single = named_shape("resnet50", paradigm)
        rates = uniform_shape_rates(single, 0.5)
        of_both, of_single = (
            predict_gpu(shape, rates, batch=4, device=V100) for shape in (both, single)
        )
        assert of_both == of_single


def test_a_patch_larger_than_the_map_means_the_whole_map() -> None:
    whole, larger = (
        named_shape("resnet50", Paradigm.SPATIAL, spatial_granularity=s)
        for s in ((56, 28, 14, 7), (57, 1000, 15, 8))
    )
    assert seconds(whole, 0.5) == seconds(larger, 0.5)


@pytest.mark.parametrize("image", [MapSize(32, 32), MapSize(225, 97), MapSize(1, 1)])
@pytest.mark.parametrize("paradigm", Paradigm)
def test_any_image_size_can_be_predicted(paradigm: Paradigm, image: MapSize) -> None:
    shape = named_shape("regnet_y_800mf", paradigm, image=image)
    for rate in (0.0, 0.37, 1.0):
        assert 0.0 < seconds(shape, rate, batch=3) < 1.0


def test_a_network_of_ours_with_its_stride_in_the_first_1x1() -> None:
    def shape(stride_in_1x1: bool) -> NetworkShape:
        stage = Stage(depth=2, width=16, paradigm=Paradigm.SPATIAL, spatial_granularity=4)
        stages = (stage, stage.model_copy(update={"width": 32}))
        net = ResNet(stages=stages, num_classes=2, stride_in_1x1=stride_in_1x1)
        return shape_of(net, MapSize(224, 224))

    assert seconds(shape(True), 0.5, device=TX2) < seconds(shape(False), 0.5, device=TX2)


@pytest.mark.parametrize("name", GPU_NAMES)
def test_every_device_answers(name: str) -> None:
    times = [
        seconds(named_shape("resnet50", paradigm), 0.5, device=gpu(name), batch=8)
        for paradigm in Paradigm
    ]
    assert all(1e-4 < time < 1.0 for time in times)


def test_predictions_do_not_depend_on_what_was_predicted_before() -> None:
    shape = named_shape("resnet50", Paradigm.CHANNEL)
    before = seconds(shape, 0.3, corrections=PAPER)
    seconds(shape, 0.4, corrections=PAPER)
    assert seconds(shape, 0.3, corrections=PAPER) == before


def test_a_device_with_other_numbers_is_another_device() -> None:
    """Costs are remembered by the numbers, not by the name."""
    shape = named_shape("resnet50")
    slow = replace(V100, frequency_hz=V100.frequency_hz / 2)
    assert seconds(shape, 1.0, device=slow) > seconds(shape, 1.0)


# Bad input


@pytest.mark.parametrize("batch", [0, -1, 65537])
def test_a_batch_that_cannot_be_is_refused(batch: int) -> None:
    with pytest.raises(InvalidInput, match=f"1 to 65536 images, got {batch}"):
        seconds(named_shape("resnet50"), 1.0, batch=batch)


def test_rates_must_be_as_many_as_blocks() -> None:
    with pytest.raises(InvalidInput, match="16 blocks need as many rates, got 1"):
        predict_gpu(named_shape("resnet50"), [WHOLE], batch=1, device=V100)


@pytest.mark.parametrize(
    ("paradigm", "rate", "message"),
    [
        (Paradigm.SPATIAL, BlockRates(spatial=1.5), "rate 'spatial' must be 0 to 1, got 1.5"),
        (Paradigm.SPATIAL, BlockRates(dilated=float("nan")), "rate 'dilated' must be 0 to 1"),
        (Paradigm.SPATIAL, BlockRates(channel=0.5), "'spatial' has no channel masker"),
        (Paradigm.CHANNEL, BlockRates(spatial=0.5), "'channel' has no spatial masker"),
        (Paradigm.STATIC, BlockRates(spatial_masker=1.0), "'static' has no spatial masker"),
    ],
)
def test_rates_that_a_block_cannot_have_are_refused(
    paradigm: Paradigm, rate: BlockRates, message: str
) -> None:
    shape = named_shape("resnet50", paradigm)
    with pytest.raises(InvalidInput, match=rf"layer1\.1: .*{message}"):
        predict_gpu(shape, [WHOLE, rate, *[WHOLE] * 14], batch=1, device=V100)


def test_the_published_model_has_no_block_that_skips_space_and_channels() -> None:
    shape = named_shape("resnet50", Paradigm.SPATIAL_CHANNEL)
    with pytest.raises(InvalidInput, match=r"layer1\.0: the published model has no block"):
        seconds(shape, 0.5, corrections=PAPER)
