"""Caps: what most images ask for, and what no image can exceed under them. Needs no torch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.architecture import Block, MapSize, ResNet, Stage
from engines.caps import capped, macs_bound, units_of
from engines.core import OperatingPoint, Paradigm, static_point
from engines.macs import BlockRates, executed_macs, static_macs


def net_of(*, stride_in_1x1: bool) -> ResNet:
    """Every paradigm; stages after the first start with a stride."""
    stages = (
        Stage(depth=2, width=6, paradigm=Paradigm.SPATIAL, spatial_granularity=3),
        Stage(depth=2, width=6, paradigm=Paradigm.LAYER),
        Stage(
            depth=2,
            width=6,
            paradigm=Paradigm.SPATIAL_CHANNEL,
            spatial_granularity=2,
            channel_granularity=3,
        ),
        Stage(depth=1, width=8, paradigm=Paradigm.CHANNEL, channel_granularity=2),
    )
    return ResNet(
        stem_width=4, stages=stages, num_classes=3, folded=True, stride_in_1x1=stride_in_1x1
    )


NETS = {flag: net_of(stride_in_1x1=flag) for flag in (False, True)}


def point(net: ResNet, size: int, caps: list[int | None]) -> OperatingPoint:
    return OperatingPoint(
        name="some", image_size=size, thresholds=(0.0,) * len(net.maskers), caps=tuple(caps)
    )


def executed(net: ResNet, size: int, decisions: list[np.ndarray]) -> float:
    """What an image costs whose maskers decide so: pixels and their neighbours, one by one."""
    sizes = net.block_sizes(MapSize(size, size))
    found: list[dict[str, np.ndarray]] = [{} for _ in net.blocks]
    for masker, units in zip(net.maskers, decisions, strict=True):
        found[masker.block][masker.kind] = units
    rates = []
    for block, (into, out), units_by_kind in zip(net.blocks, sizes, found, strict=True):
        spatial = dilated = channel = 1.0
        if "spatial" in units_by_kind:
            spatial, dilated = _pixels(net, block, into, out, units_by_kind["spatial"])
        if "channel" in units_by_kind:
            channel = units_by_kind["channel"].mean()
        rates.append(
            BlockRates(
                spatial=spatial,
                dilated=dilated,
                channel=channel,
                spatial_masker=float("spatial" in units_by_kind),
                channel_masker=float("channel" in units_by_kind),
            )
        )
    return float(executed_macs(net, MapSize(size, size), rates))


def _pixels(
    net: ResNet, block: Block, into: MapSize, out: MapSize, units: np.ndarray
) -> tuple[float, float]:
    patch = block.granularity.spatial
    grid = out.patches(patch)
    stride, inner = (1, out) if net.stride_in_1x1 else (block.stride, into)
    active, needed = set(), set()
    for y in range(out.height):
        for x in range(out.width):
            row, column = (y // patch, x // patch) if patch else (0, 0)
            if not units[row * grid.width + column]:
                continue
            active.add((y, x))
            for v in range(stride * y - 1, stride * y + 2):
                for u in range(stride * x - 1, stride * x + 2):
                    if 0 <= v < inner.height and 0 <= u < inner.width:
                        needed.add((v, u))
    return len(active) / out.area, len(needed) / inner.area


# The bound


@given(st.data(), st.booleans(), st.integers(16, 70))
def test_no_image_exceeds_the_bound(data: st.DataObject, stride_in_1x1: bool, size: int) -> None:
    net = NETS[stride_in_1x1]
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    caps, decisions = [], []
    for units in units_of(net, size):
        cap = int(data.draw(st.integers(0, units)))
        decided = np.zeros(units, np.bool_)
        decided[rng.permutation(units)[: rng.integers(0, cap + 1)]] = True
        caps.append(cap if data.draw(st.booleans()) or cap < units else None)
        decisions.append(decided)
    bound = macs_bound(net, point(net, size, caps))
    assert executed(net, size, decisions) <= bound * (1 + 1e-12)


@pytest.mark.parametrize("stride_in_1x1", [False, True])
def test_bound_is_met_where_everything_is_active(stride_in_1x1: bool) -> None:
    net = NETS[stride_in_1x1]
    everything = [np.ones(units, np.bool_) for units in units_of(net, 45)]
    for cap in (None, 10**6):
        bound = macs_bound(net, point(net, 45, [cap] * len(net.maskers)))
        assert bound == pytest.approx(executed(net, 45, everything), rel=1e-12)


def test_bound_is_met_by_patches_that_lie_apart() -> None:
    """One stage of 5x5 patches, two of them in the inside and no pixel needed twice."""
    stage = Stage(depth=1, width=4, paradigm=Paradigm.SPATIAL, spatial_granularity=2)
    net = ResNet(stem_width=4, stages=(stage,), num_classes=2, folded=True)
    (units,) = units_of(net, 40)
    apart = np.zeros(units, np.bool_)
    apart[[1 * 5 + 1, 3 * 5 + 3]] = True
    bound = macs_bound(net, point(net, 40, [2]))
    assert bound == pytest.approx(executed(net, 40, [apart]), rel=1e-12)


def test_bound_of_a_point_that_skips_nothing_is_the_static_network() -> None:
    net = NETS[False]
    full = static_point("full", 40, len(net.maskers))
    assert macs_bound(net, full) == static_macs(net, MapSize(40, 40))


def test_bound_of_an_image_that_may_use_nothing() -> None:
    net = NETS[True]
    nothing = [np.zeros(units, np.bool_) for units in units_of(net, 40)]
    bound = macs_bound(net, point(net, 40, [0] * len(net.maskers)))
    assert bound == pytest.approx(executed(net, 40, nothing))


# The choice


def test_caps_are_what_all_but_one_image_in_a_hundred_ask_for() -> None:
    net = NETS[False]
    units = units_of(net, 64)
    active = np.zeros((200, len(units)), np.int64)
    active[:, 0] = np.arange(200) // 8  # 0 to 24, eight images each.
    active[:3, 1] = 7
    active[:1, -1] = 3
    caps = capped(net, point(net, 64, [None] * len(units)), active / units).caps
    assert caps[0] == 24
    assert caps[1] == 7
    # One image of 200 is active there: rare, but not to be forbidden altogether.
    assert caps[-1] == 1
    assert set(caps[2:-1]) == {0}


def test_caps_are_read_from_float32_rates_exactly() -> None:
    net = NETS[False]
    units = units_of(net, 112)
    for active in range(int(units[0]) + 1):
        rates = np.tile((np.full(len(units), active) / units).astype(np.float32), (4, 1))
        caps = capped(net, point(net, 112, [None] * len(units)), np.minimum(rates, 1)).caps
        assert caps[0] == active


@given(st.integers(0, 2**32), st.integers(1, 40))
def test_caps_are_at_least_the_median(seed: int, count: int) -> None:
    net = NETS[False]
    units = units_of(net, 64)
    active = np.random.default_rng(seed).integers(0, units + 1, (count, len(units)))
    caps = capped(net, point(net, 64, [None] * len(units)), active / units).caps
    assert (np.array(caps) >= np.median(active, axis=0)).all()
    assert (np.array(caps) <= active.max(axis=0)).all()


def test_a_masker_that_is_not_asked_gets_no_cap() -> None:
    net = NETS[False]
    static = static_point("full", 64, len(net.maskers))
    assert capped(net, static, np.ones((3, len(net.maskers)))) == static
