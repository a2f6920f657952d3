"""Designs: what is listed, what is chosen, and what is named as an alternative."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.architecture import MapSize
from engines.core import Paradigm
from engines.errors import InvalidInput
from engines.latency.candidates import (
    LAYER,
    STATIC,
    Candidate,
    SkipRates,
    StageShape,
    candidates,
    network_with,
    shape_with,
    stages_of,
)
from engines.latency.design import NUM_ALTERNATIVES, TIE, StageOption, choose, curves, design
from engines.latency.design_costs import (
    GpuCosts,
    NativeCosts,
    NetworkCost,
    Setting,
    StageCost,
    macs_of,
    rates_of,
)
from engines.latency.devices import corrections_of
from engines.latency.gpu import predict_gpu
from engines.latency.hardware import gpu
from engines.latency.identity import DeviceIdentity
from engines.latency.native import predict_native
from engines.latency.shapes import named_shape, uniform_shape_rates
from engines.macs import BlockRates, executed_macs, fixed_macs
from tests.engines.latency.hosts import host

IMAGE = MapSize(224, 224)
STAGE = StageShape(name="layer3", depth=6, width=256, map_height=14, map_width=14)
RATES = SkipRates(spatial=0.5, channel=0.6, layer=0.7)


SETTING = Setting(
    arch="resnet50",
    size=224,
    device="counter",
    model="native",
    precision="fp32",
    batch=1,
    threads=1,
    clustered=True,
)


def spatial(patch: int) -> Candidate:
    return Candidate(paradigm=Paradigm.SPATIAL, patch=patch)


def channel(group: int) -> Candidate:
    return Candidate(paradigm=Paradigm.CHANNEL, group=group)


def option(candidate: Candidate, seconds: float) -> StageOption:
    return StageOption(candidate=candidate, seconds=seconds, ratio=seconds, macs_ratio=1.0)


@dataclass(frozen=True)
class Priced:
    """Stages cost what `prices` says of their candidate, 1 s where it says nothing; a network also
    `extra_s` for every stage that skips."""

    prices: dict[Candidate, float] = field(default_factory=dict)
    extra_s: float = 0.0
    setting: Setting = SETTING

    def network(self, choice: Sequence[Candidate], rates: SkipRates) -> NetworkCost:
        skipping = sum(each != STATIC for each in choice)
        stages = tuple(StageCost(self.prices.get(each, 1.0), macs=1.0) for each in choice)
        total = sum(stage.seconds for stage in stages) + self.extra_s * skipping
        return NetworkCost(stages, total)


def listed(stage: StageShape = STAGE, **given: Any) -> list[str]:
    return [each.label for each in candidates(stage, **given)]


def test_every_patch_below_the_map_and_every_group_within_the_width_is_listed() -> None:
    assert listed() == [
        "static",
        *(f"spatial S={patch}" for patch in (1, 2, 4, 7, 8)),
        *(f"channel G={group}" for group in (1, 2, 4, 8, 16, 32, 64)),
        "layer",
    ]


def test_what_covers_the_map_or_the_width_is_layer_skipping_and_listed_once() -> None:
    narrow = StageShape(name="layer1", depth=3, width=64, map_height=7, map_width=7)
    assert listed(narrow, patches=(4, 7, 56), groups=(32, 64)) == [
        "static",
        "spatial S=4",
        "channel G=32",
        "layer",
    ]


def test_groups_that_do_not_divide_the_width_are_left_out() -> None:
    odd = StageShape(name="layer2", depth=3, width=104, map_height=28, map_width=28)
    assert [label for label in listed(odd) if "channel" in label] == [
        f"channel G={group}" for group in (1, 2, 4, 8)
    ]


@pytest.mark.parametrize("given", [{"patches": (0, 4)}, {"groups": (0,)}, {"patches": (-1,)}])
def test_granularity_of_nothing_is_refused(given: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(InvalidInput, match="must be at least 1"):
        candidates(STAGE, **given)


@pytest.mark.parametrize("name", ["spatial", "channel", "layer"])
@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_rates_outside_0_to_1_are_refused(name: str, rate: float) -> None:
    with pytest.raises(InvalidInput, match=f"rate of {name} skipping must be 0 to 1"):
        SkipRates(**{name: rate})


def test_a_paradigm_has_its_own_rate() -> None:
    assert [RATES.of(c) for c in (STATIC, spatial(4), channel(2), LAYER)] == [1.0, 0.5, 0.6, 0.7]


def test_stages_are_those_of_the_network() -> None:
    found = stages_of(named_shape("resnet101", image=IMAGE))
    assert [(s.name, s.depth, s.width, s.map_height) for s in found] == [
        ("layer1", 3, 64, 56),
        ("layer2", 4, 128, 28),
        ("layer3", 23, 256, 14),
        ("layer4", 3, 512, 7),
    ]


def test_shape_and_network_have_the_chosen_candidates() -> None:
    choice = [spatial(4), STATIC, channel(16), LAYER]
    net = network_with("resnet50", choice)
    assert [stage.paradigm for stage in net.stages] == [each.paradigm for each in choice]
    assert (net.stages[0].spatial_granularity, net.stages[2].channel_granularity) == (4, 16)
    blocks = shape_with("resnet50", choice, IMAGE).blocks
    for block, own in zip(blocks, net.blocks, strict=True):
        assert (block.paradigm, block.granularity) == (own.paradigm, own.granularity)


def test_our_engine_runs_no_regnet() -> None:
    with pytest.raises(InvalidInput, match="our engine runs no 'regnet_y_400mf'"):
        network_with("regnet_y_400mf", [STATIC] * 4)


def test_the_fastest_is_chosen() -> None:
    options = [option(STATIC, 1.0), option(spatial(4), 0.5), option(channel(4), 0.4)]
    assert choose(STAGE, options).candidate == channel(4)


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({spatial(8): 0.500, spatial(2): 0.504, spatial(1): 0.506}, spatial(2)),
        ({channel(64): 0.500, channel(1): 0.505, spatial(1): 0.505}, channel(1)),
        ({LAYER: 0.500, spatial(7): 0.504, channel(1): 0.504}, spatial(7)),
        ({spatial(8): 0.500, STATIC: 0.504}, STATIC),
        ({LAYER: 0.500, spatial(7): 0.51}, LAYER),
    ],
    ids=["finer patch", "finer group", "patch, not block", "static before skipping", "too slow"],
)
def test_among_equals_accuracy_decides(seconds: dict[Candidate, float], chosen: Candidate) -> None:
    options = [option(candidate, taken) for candidate, taken in seconds.items()]
    assert choose(STAGE, options).candidate == chosen


ALL = candidates(STAGE)
SECONDS = st.lists(st.floats(0.1, 10.0), min_size=len(ALL), max_size=len(ALL))


@given(SECONDS)
def test_nothing_is_faster_than_the_choice_by_more_than_a_tie(seconds: list[float]) -> None:
    options = [option(c, s) for c, s in zip(ALL, seconds, strict=True)]
    assert choose(STAGE, options).seconds <= min(seconds) * (1.0 + TIE)


@given(SECONDS, st.integers(0, len(ALL) - 1), st.floats(1.02, 50.0))
def test_a_slower_candidate_changes_nothing(
    seconds: list[float], which: int, slower: float
) -> None:
    options = [option(c, s) for c, s in zip(ALL, seconds, strict=True)]
    without = [*options[:which], *options[which + 1 :]]
    before = choose(STAGE, without)
    late = option(ALL[which], min(o.seconds for o in without) * slower)
    assert choose(STAGE, [*without, late]) == before


def test_a_design_has_the_choice_of_every_stage_and_the_best_alternatives() -> None:
    prices = {LAYER: 0.4, spatial(7): 0.5, spatial(4): 0.6, channel(8): 0.7}
    found = design(Priced(prices), RATES)
    assert found.chosen.stages == (LAYER,) * 4
    assert found.chosen.total_s == pytest.approx(1.6)
    assert (found.static.stages, found.static.total_s) == ((STATIC,) * 4, 4.0)
    assert len(found.alternatives) == NUM_ALTERNATIVES
    assert len({each.stages for each in found.alternatives} | {found.chosen.stages}) == 11
    # The map of the last stage is 7 pixels wide, so that a patch of 7 is the whole map there.
    for each in found.alternatives[:3]:
        assert sorted(each.stages, key=LAYER.__ne__) == [LAYER, LAYER, LAYER, spatial(7)]
        assert each.stages[3] == LAYER
        assert each.total_s == pytest.approx(1.7)


def test_alternatives_are_the_fastest_of_all_other_combinations() -> None:
    prices = {LAYER: 0.4, spatial(2): 0.43, channel(8): 0.5, channel(4): 0.65}
    prices[STATIC] = 0.9
    found = design(Priced(prices, extra_s=0.2), RATES, patches=(2,), groups=(4, 8))
    each_stage = [STATIC, spatial(2), channel(4), channel(8), LAYER]
    totals = sorted(
        sum(prices[c] + (0.2 if c != STATIC else 0.0) for c in combination)
        for combination in itertools.product(each_stage, repeat=4)
        if combination != found.chosen.stages
    )
    assert [each.total_s for each in found.alternatives] == pytest.approx(totals[:10])


def test_granularities_that_cost_the_same_are_one_alternative() -> None:
    same = {channel(group): 0.4 for group in (1, 2, 4, 8, 16, 32, 64)}
    found = design(Priced({**same, LAYER: 0.5}), RATES)
    assert found.chosen.stages == (channel(1),) * 4
    assert not [each for each in found.alternatives if channel(2) in each.stages]
    # They are one to the model only: the coarsest is named besides, to be measured.
    assert (channel(32), channel(64), channel(64), channel(64)) in [
        each.stages for each in found.besides
    ]


def test_the_best_network_of_each_paradigm_is_named() -> None:
    found = design(Priced({LAYER: 0.1, spatial(4): 0.7, channel(8): 0.8}), RATES)
    named = [each.stages for each in found.besides]
    assert named[:2] == [(spatial(4),) * 4, (channel(8),) * 4]


def test_other_paradigms_are_named_where_twins_fill_the_alternatives() -> None:
    twins = {channel(group): 0.3 + 0.004 * i for i, group in enumerate((1, 2, 4, 8, 16, 32, 64))}
    found = design(Priced({**twins, LAYER: 0.5, spatial(2): 0.6}), RATES)
    channels = (Paradigm.CHANNEL,) * 4
    kinds = [tuple(c.paradigm for c in each.stages) for each in found.alternatives]
    assert set(kinds) == {channels}
    others = [tuple(c.paradigm for c in each.stages) for each in found.besides]
    # One stage each as whole blocks, then one with patches: all 0.3 s but that stage.
    mixed = [kind for kind in others if len(set(kind)) > 1]
    assert len(mixed) == len(set(mixed)) == 5
    assert sorted(kind.count(Paradigm.LAYER) for kind in mixed) == [0, 1, 1, 1, 1]


def test_nothing_is_skipped_where_nothing_is_gained() -> None:
    found = design(Priced(), RATES)
    assert found.chosen == found.static
    assert found.chosen.stages not in [each.stages for each in found.alternatives]


@pytest.mark.parametrize("arch", ["resnet50", "regnet_y_400mf"])
@pytest.mark.parametrize("mode", ["paper", "fixed"])
def test_gpu_costs_are_those_of_the_predictor(arch: str, mode: Any) -> None:
    device = gpu("v100", "paper" if mode == "paper" else "datasheet")
    costs = GpuCosts(arch, 224, device, batch=4, mode=mode)
    choice = [spatial(4), channel(2), LAYER, STATIC]
    shape = shape_with(arch, choice, IMAGE)
    rates = rates_of(shape, choice, RATES, clustered=True)
    predicted = predict_gpu(shape, rates, batch=4, device=device, corrections=corrections_of(mode))
    found = costs.network(choice, RATES)
    assert found.total_s == pytest.approx(predicted.total_s)
    for stage, cost in enumerate(found.stages):
        parts = [p.total_s for p in predicted.parts if p.name.startswith(f"layer{stage + 1}.")]
        assert cost.seconds == pytest.approx(sum(parts))


def test_fusion_is_decided_where_patches_are_skipped_only() -> None:
    found = design(GpuCosts("resnet50", 224, gpu("v100")), RATES)
    for stage in found.stages:
        for each in stage.options:
            if each.candidate.paradigm is Paradigm.SPATIAL:
                assert each.fused_blocks is not None
                assert 0 <= each.fused_blocks <= stage.stage.depth
            else:
                assert each.fused_blocks is None


def test_executed_macs_are_those_of_the_count() -> None:
    choice = [spatial(4), channel(16), LAYER, STATIC]
    shape, net = shape_with("resnet50", choice, IMAGE), network_with("resnet50", choice)
    rates = rates_of(shape, choice, RATES, clustered=False)
    total = sum(macs_of(block, rate) for block, rate in zip(shape.blocks, rates, strict=True))
    assert total + fixed_macs(net, IMAGE) == pytest.approx(executed_macs(net, IMAGE, rates))


def test_macs_of_a_regnet_count_groups_and_squeeze_and_excitation() -> None:
    block = named_shape("regnet_y_400mf", image=IMAGE).blocks[1]
    assert (block.in_channels, block.mid_channels, block.groups) == (48, 104, 13)
    by_hand = 48 * 104 * 56**2 + 9 * 104 * 8 * 28**2 + 104 * 104 * 28**2
    by_hand += 48 * 104 * 28**2 + 104 * (28**2 + 2 * block.se_channels)
    assert macs_of(block, BlockRates()) == by_hand


def test_curves_are_ratios_of_every_candidate() -> None:
    costs = GpuCosts("resnet50", 224, gpu("tx2"), batch=1)
    found = curves(costs, activations=(0.0, 0.5, 1.0), patches=(2, 4), groups=(16,))
    assert [(c.stage, c.candidate.short) for c in found[:4]] == [
        ("layer1", "S=2"),
        ("layer1", "S=4"),
        ("layer1", "G=16"),
        ("layer1", "layer"),
    ]
    of = {(c.stage, c.candidate): c.ratios for c in found}
    half = design(costs, SkipRates(), patches=(2, 4), groups=(16,))
    for stage in half.stages:
        for each in stage.options[1:]:
            low, middle, high = of[stage.stage.name, each.candidate]
            assert low < middle < high
            assert middle == pytest.approx(each.ratio)


def test_rates_of_one_paradigm_are_uniform_rates() -> None:
    shape = shape_with("resnet50", [spatial(4)] * 4, IMAGE)
    same = rates_of(shape, [spatial(4)] * 4, SkipRates(spatial=0.3), clustered=True)
    assert same == uniform_shape_rates(shape, 0.3, clustered=True)


IDENTITY = DeviceIdentity(cpu="Abacus 3000", cpus=2, isa={"fp32": "beads", "int8": "beads"})


def test_native_costs_are_those_of_the_predictor() -> None:
    machine = host(device=IDENTITY, score_channel_s=1e-9)
    costs = NativeCosts("resnet50", 96, machine, batch=2, threads=2, clustered=False)
    choice, image = [spatial(4), channel(16), LAYER, STATIC], MapSize(96, 96)
    predicted = predict_native(
        network_with("resnet50", choice),
        image,
        rates_of(shape_with("resnet50", choice, image), choice, RATES, clustered=False),
        batch=2,
        threads=2,
        precision="fp32",
        host=machine,
    )
    found = costs.network(choice, RATES)
    assert found.total_s == predicted.total_s
    for stage, cost in enumerate(found.stages):
        parts = [p.total_s for p in predicted.parts if p.name.startswith(f"layer{stage + 1}.")]
        assert cost.seconds == pytest.approx(sum(parts))
        assert cost.fused_blocks is None
    assert costs.setting == Setting(
        arch="resnet50",
        size=96,
        device="abacus-3000-2cpu-beads",
        model="native",
        precision="fp32",
        batch=2,
        threads=2,
        clustered=False,
    )


def test_a_native_design_is_no_slower_than_any_network_it_names() -> None:
    costs = NativeCosts("resnet50", 96, host(device=IDENTITY, score_channel_s=1e-9))
    found = design(costs, RATES, patches=(2, 8), groups=(8, 32))
    others = [found.static, *found.alternatives, *found.besides]
    assert found.chosen.total_s <= min(each.total_s for each in others) * (1.0 + TIE)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"precision": "bf16"}, "was not measured in 'bf16'"),
        ({"threads": 3}, "threads must be 1 to 2"),
        ({"batch": 0}, "at least one image"),
    ],
)
def test_what_the_machine_cannot_run_is_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        design(
            NativeCosts("resnet50", 96, host(device=IDENTITY, score_channel_s=1e-9), **options),
            RATES,
        )
