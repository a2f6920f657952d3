"""Profiles of the real engine on a tiny network: which runs there are, and what becomes of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from engines.architecture import MapSize, ResNet
from engines.bench.masks import MaskKind, draw_masks
from engines.core import OperatingPoint, Output, Paradigm, UInt8Array
from engines.cpu.engine import CpuEngine
from engines.latency import profiling
from engines.latency.grids import grid_of
from engines.latency.profiling import (
    CROSSED_RATES,
    RATES,
    decisions_of,
    mask_plans,
    profiles_of,
    timed,
)
from engines.latency.rates import executed_rates
from engines.latency.tables import Profile
from tests.engines.cpu.cases import MASKERS, NET, SIZE, bundle, load, net_of, pictures, point, stage

IMAGE = MapSize(SIZE, SIZE)
SPATIAL, BOTH, CHANNEL, LAYER = (0, 1, 2), (3, 4), (5, 6), (7, 8)
"""Blocks of NET by what they skip."""


def taken(
    engine: CpuEngine,
    net: ResNet = NET,
    *,
    sizes: Sequence[int] = (SIZE,),
    batches: Sequence[int] = (1,),
    repeats: int = 3,
    seed: int = 0,
) -> list[Profile]:
    inputs = {size: pictures(max(batches), size) for size in sizes}
    rng = np.random.default_rng(seed)
    return profiles_of(engine, net, inputs, batches, repeats=repeats, rng=rng)


@pytest.fixture(scope="module")
def engine() -> Iterator[CpuEngine]:
    with load(bundle(), poison=False) as engine:
        yield engine


@pytest.fixture(scope="module")
def profile(engine: CpuEngine) -> Profile:
    """One image a call."""
    (found,) = taken(engine)
    return found


# Which masks are tried.


def test_rates_go_from_nothing_to_everything() -> None:
    for rates in (RATES, CROSSED_RATES):
        assert (rates[0], rates[-1]) == (0.0, 1.0)
        assert all(a < b for a, b in pairwise(rates))


@pytest.mark.parametrize(
    ("paradigm", "kinds"),
    [
        (Paradigm.SPATIAL, {MaskKind.CLUSTERED, MaskKind.RANDOM}),
        (Paradigm.CHANNEL, {MaskKind.CLUSTERED, MaskKind.RANDOM}),
        (Paradigm.LAYER, {MaskKind.RANDOM}),
    ],
)
def test_one_way_to_skip_goes_through_all_rates(paradigm: Paradigm, kinds: set[MaskKind]) -> None:
    plans = mask_plans(net_of(stage(paradigm, 8, group=2)))
    assert {plan.kind for plan in plans} == kinds
    assert [p.spatial for p in plans if p.kind is MaskKind.RANDOM] == list(RATES)
    assert all(plan.spatial == plan.channel for plan in plans)


def test_where_a_block_skips_both_every_pair_of_rates_is_tried() -> None:
    pairs = [(p.spatial, p.channel) for p in mask_plans(NET) if p.kind is MaskKind.RANDOM]
    assert pairs == [(s, c) for s in CROSSED_RATES for c in CROSSED_RATES]


def test_a_static_network_has_nothing_to_try() -> None:
    assert mask_plans(net_of(stage(Paradigm.STATIC, 8))) == ()


def test_patches_and_layers_have_one_rate_and_channels_another() -> None:
    draw = draw_masks(NET, IMAGE, MaskKind.RANDOM, 2, np.random.default_rng(0))
    decided = decisions_of(NET, draw, 0.0, 1.0)
    assert [masks.all() for masks in decided] == [m.kind == "channel" for m in NET.maskers]
    assert [masks.any() for masks in decided] == [m.kind == "channel" for m in NET.maskers]


# What a profile is.


def test_a_profile_says_how_it_was_run(profile: Profile) -> None:
    assert (profile.precision, profile.threads) == ("fp32", 1)
    assert (profile.size, profile.batch) == (SIZE, 1)
    assert len(profile.static_s) == len(NET.blocks) + 2
    assert all(seconds > 0.0 for seconds in profile.static_s)
    assert profile.overhead_s > 0.0
    assert [each.block for each in profile.blocks] == list(range(len(NET.blocks)))


def test_curves_go_from_nothing_to_everything(profile: Profile) -> None:
    for index in (*SPATIAL, *BOTH, *LAYER):
        table = profile.blocks[index]
        for curve in filter(None, (table.clustered, table.random)):
            assert (curve.active[0], curve.active[-1]) == (0.0, 1.0)
            assert (curve.dilated[0], curve.dilated[-1]) == (0.0, 1.0)


def test_patches_are_measured_together_and_apart(profile: Profile) -> None:
    table = profile.blocks[0]
    assert table.channel == (1.0,)
    assert table.random is not None
    assert len(table.clustered.active) > 2
    for curve in (table.clustered, table.random):
        assert all(d >= a for a, d in zip(curve.active, curve.dilated, strict=True))


def test_random_masks_need_more_pixels_than_clustered_ones() -> None:
    net = net_of(stage(Paradigm.SPATIAL, 8, patch=2))
    with load(bundle(net), poison=False) as engine:
        (found,) = taken(engine, net, sizes=(96,))
    (table,) = found.blocks
    assert table.random is not None
    rates = RATES[2:-2]
    clustered, apart = (
        np.interp(rates, curve.active, curve.dilated) for curve in (table.clustered, table.random)
    )
    assert (apart > clustered).all()


def test_blocks_that_skip_both_have_a_row_for_every_share_of_channels(profile: Profile) -> None:
    for index in BOTH:
        table = profile.blocks[index]
        # Four groups of three channels: rates of 0.3 and 0.6 are one and two of them.
        assert table.channel == (0.0, 0.25, 0.5, 1.0)
        assert {len(row) for row in table.clustered.seconds} == {len(table.clustered.active)}
        assert len(table.clustered.seconds) == len(table.channel)


def test_channels_have_one_column_and_no_order(profile: Profile) -> None:
    for index in CHANNEL:
        table = profile.blocks[index]
        assert table.clustered.active == (1.0,)
        assert (table.channel[0], table.channel[-1]) == (0.0, 1.0)
        assert table.random is None


def test_a_layer_is_skipped_or_run(profile: Profile) -> None:
    for index in LAYER:
        table = profile.blocks[index]
        assert table.clustered.active == table.clustered.dilated == (0.0, 1.0)
        assert table.random is None


def test_in_a_batch_some_images_run_a_layer(engine: CpuEngine) -> None:
    (found,) = taken(engine, batches=(4,), repeats=4)
    active = found.blocks[LAYER[0]].clustered.active
    assert (active[0], active[-1]) == (0.0, 1.0)
    assert set(active) <= {0.0, 0.25, 0.5, 0.75, 1.0}


def test_a_static_network_has_only_its_static_times() -> None:
    net = net_of(stage(Paradigm.STATIC, 8, depth=2))
    with load(bundle(net), poison=False) as engine:
        (found,) = taken(engine, net)
    assert found.blocks == ()
    assert len(found.static_s) == 4


def test_every_size_and_batch_is_measured(engine: CpuEngine) -> None:
    found = taken(engine, sizes=(16, SIZE), batches=(1, 2))
    assert [(p.size, p.batch) for p in found] == [(16, 1), (16, 2), (SIZE, 1), (SIZE, 2)]


def test_a_round_is_one_call_of_everything(engine: CpuEngine) -> None:
    done: list[int] = []
    profiles_of(
        engine,
        NET,
        {SIZE: pictures(1)},
        (1,),
        repeats=3,
        rng=np.random.default_rng(0),
        after_round=done.append,
    )
    assert done == [1, 2, 3]


def test_a_seed_decides_the_masks(engine: CpuEngine, profile: Profile) -> None:
    def shares(of: Profile) -> list[object]:
        return [
            (table.block, table.channel, table.clustered.active, table.clustered.dilated)
            for table in of.blocks
        ]

    assert shares(taken(engine)[0]) == shares(profile)
    assert shares(taken(engine, seed=1)[0]) != shares(profile)


def test_a_profile_predicts_what_it_was_made_from(engine: CpuEngine, profile: Profile) -> None:
    """Within a factor of five: this is about order and units, a machine in a hurry may be off."""
    grid = grid_of(profile, NET)
    asking = point([0.0] * MASKERS)
    draw = draw_masks(NET, IMAGE, MaskKind.CLUSTERED, 1, np.random.default_rng(5))
    ratios = []
    for _ in range(21):
        decisions = decisions_of(NET, draw, 0.5, 0.5)
        seconds, output = timed(engine, pictures(1), [asking], decisions)
        rates = executed_rates(NET, IMAGE, output, np.ones(len(NET.blocks), np.bool_))
        ratios.append(seconds / grid.seconds(rates))
    assert 0.2 < np.median(ratios) < 5.0


def test_patches_at_the_border_may_cover_less_than_fewer_in_the_middle() -> None:
    """Of a map of 9 pixels in patches of 8 the first covers 64 and the others 17 together."""
    net = net_of(stage(Paradigm.SPATIAL, 8, patch=8))
    with load(bundle(net), poison=False) as engine:
        for seed in range(8):
            (found,) = taken(engine, net, seed=seed)
            for curve in (found.blocks[0].clustered, found.blocks[0].random):
                assert curve is not None
                assert (curve.active[0], curve.active[-1]) == (0.0, 1.0)
                assert all(a < b for a, b in pairwise(curve.active))


def test_medians_of_parts_and_of_what_a_call_takes_besides(
    engine: CpuEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here part i takes i + 1 seconds, or half of that under masks, and one run is an outlier."""
    calls = 0

    def scripted(
        engine: CpuEngine, images: UInt8Array, points: Sequence[OperatingPoint], decisions: Any
    ) -> tuple[float, Output]:
        nonlocal calls
        calls += 1
        output = engine.infer(images, points, decisions)
        slow = 100.0 if calls == 2 else 1.0
        parts = slow * np.arange(1.0, len(NET.blocks) + 3.0)
        parts *= 1.0 if decisions is None else 0.5
        told = replace(output, parts_s=parts, durations_s={"network": parts.sum()})
        return parts.sum() + 7.0, told

    monkeypatch.setattr(profiling, "timed", scripted)
    (found,) = taken(engine)
    assert found.overhead_s == pytest.approx(7.0)
    assert found.static_s == tuple(range(1, len(NET.blocks) + 3))
    for table in found.blocks:
        assert table.clustered.seconds[-1][-1] == (table.block + 2) / 2


# A single call.


def test_a_call_is_timed_from_outside(engine: CpuEngine) -> None:
    ticks = iter([10.0, 10.25])
    seconds, output = timed(
        engine, pictures(1), [point([0.0] * MASKERS)], None, lambda: next(ticks)
    )
    assert seconds == 0.25
    assert output.activation.shape == (1, MASKERS)


def test_parts_of_a_call_make_up_its_pass(engine: CpuEngine) -> None:
    """Stem, blocks and head, one after the other, fill what the engine calls `network`."""
    for images, asked in ((1, None), (2, 0.0)):
        points = [point([asked] * MASKERS)] * images
        output = engine.infer(pictures(images), points)
        assert output.parts_s is not None
        assert output.parts_s.shape == (len(NET.blocks) + 2,)
        assert (output.parts_s > 0.0).all()
        assert output.parts_s.sum() == pytest.approx(output.durations_s["network"], rel=0.05)
