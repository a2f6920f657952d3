"""Skipping changes nothing: the native engine in fp32 against the masked-dense reference.

Thresholds and caps are chosen while the reference runs, for the activation rate that a case wants
and away from every logit, so that rounding cannot turn a decision. Scratch memory is poisoned.
"""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engines.architecture import MapSize, ResNet
from engines.bundle import Preprocessing
from engines.core import Paradigm
from engines.macs import static_macs
from tests.engines.cpu.cases import (
    BF16_ISAS,
    BGR,
    FP32_ISAS,
    MASKERS,
    NET,
    RGB,
    SIZE,
    bundle,
    load,
    net_of,
    networks,
    pictures,
    point,
    stage,
    units,
)
from tests.engines.cpu.comparing import Wish, assert_equal, points_for, reference_answer

pytestmark = pytest.mark.torch

SIZES = [1, 2, 7, 31, 33, 48]
BF16_BOUND = 0.1
"""bf16 has 8 significant bits; networks here are at most ten blocks deep."""

wishes = st.builds(
    Wish,
    st.sampled_from([None, 0.0, 0.1, 0.3, 0.5, 0.8, 1.0]),
    st.sampled_from([None, None, None, 0, 1, 2, 5, 10**7]),
)


def check(
    net: ResNet,
    isa: str,
    size: int,
    of_images: list[list[Wish]],
    *,
    seed: int = 0,
    threads: int = 1,
    preprocessing: Preprocessing = BGR,
) -> None:
    """One image per list of wishes, all in one batch."""
    source = bundle(net, seed, preprocessing=preprocessing)
    images = pictures(len(of_images), size, seed)
    points = points_for(source, images, of_images)
    with load(source, isa=isa, threads=threads) as engine:
        found = engine.infer(images, points)
    assert_equal(found, reference_answer(source, images, points))


# Each property by itself, so that a failure names it


@pytest.mark.parametrize("isa", FP32_ISAS)
@pytest.mark.parametrize("rate", [None, 0.0, 0.2, 0.5, 0.8, 1.0])
def test_every_rate_in_every_paradigm(isa: str, rate: float | None) -> None:
    check(NET, isa, SIZE, [[Wish(rate)] * MASKERS] * 2)


@pytest.mark.parametrize("isa", FP32_ISAS)
@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5])
def test_every_image_of_a_batch_has_its_own_point(isa: str, batch: int) -> None:
    rates = [0.5, None, 0.0, 0.3, 1.0]
    check(NET, isa, SIZE, [[Wish(rate)] * MASKERS for rate in rates[:batch]])


@pytest.mark.parametrize("isa", FP32_ISAS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stride_in_1x1", [False, True], ids=["3x3", "1x1"])
@pytest.mark.parametrize("pool", ["padded", "trailing"])
def test_any_size_and_either_stride(isa: str, size: int, stride_in_1x1: bool, pool: str) -> None:
    net = net_of(stride_in_1x1=stride_in_1x1, stem_pool=pool)
    check(net, isa, size, [[Wish(0.5)] * MASKERS, [Wish(0.2)] * MASKERS])


@pytest.mark.parametrize("isa", FP32_ISAS)
@pytest.mark.parametrize("patch", [1, 2, 3, 4, 5, 7, 9, 40])
def test_patches_that_do_not_divide_the_map(isa: str, patch: int) -> None:
    """Maps are 9 and then 5 wide; the second stage begins with a stride."""
    net = net_of(*[stage(Paradigm.SPATIAL, 8, depth=2, patch=patch)] * 2)
    check(net, isa, SIZE, [[Wish(rate)] * 4 for rate in (0.3, 0.6)])


@pytest.mark.parametrize("isa", FP32_ISAS)
@pytest.mark.parametrize(
    ("width", "group"),
    [(5, 1), (12, 1), (12, 2), (12, 3), (15, 5), (20, 5), (24, 12), (40, 8), (48, 16), (64, 32)],
)
def test_groups_that_are_no_panel(isa: str, width: int, group: int) -> None:
    """A vector may hold channels of several groups, and a group may end inside one."""
    net = net_of(*[stage(Paradigm.CHANNEL, width, depth=2, group=group)] * 2)
    check(net, isa, 20, [[Wish(rate)] * 4 for rate in (0.5, 0.2, 0.0)])


@pytest.mark.parametrize("isa", FP32_ISAS)
@pytest.mark.parametrize("width", [1, 5, 12, 20, 33])
def test_widths_that_are_no_vector(isa: str, width: int) -> None:
    net = net_of(
        stage(Paradigm.STATIC, width),
        stage(Paradigm.SPATIAL_CHANNEL, width, patch=3, group=width),
        stem_width=width,
        num_classes=width,
    )
    check(net, isa, 31, [[Wish(0.5)] * 2, [Wish(1.0)] * 2])


@pytest.mark.parametrize("isa", FP32_ISAS)
@pytest.mark.parametrize("preprocessing", [BGR, RGB], ids=lambda value: value.channel_order)
def test_channel_order(isa: str, preprocessing: Preprocessing) -> None:
    check(NET, isa, SIZE, [[Wish(0.5)] * MASKERS], preprocessing=preprocessing)


def test_the_channel_order_matters_here() -> None:
    images, points = pictures(1), [point([None] * MASKERS)]
    answers = []
    for preprocessing in (BGR, RGB):
        with load(bundle(preprocessing=preprocessing)) as engine:
            answers.append(engine.infer(images, points).arrays["scores"])
    assert np.abs(np.subtract(*answers)).max() > 0.01


@pytest.mark.parametrize("isa", FP32_ISAS)
@pytest.mark.parametrize("cap", [0, 1, 3, 10**6, 2**62])
@pytest.mark.parametrize("rate", [None, 0.5])
def test_caps_beside_thresholds(isa: str, cap: int, rate: float | None) -> None:
    check(NET, isa, SIZE, [[Wish(rate, cap)] * MASKERS] * 2)


@pytest.mark.parametrize("isa", FP32_ISAS)
def test_everything_active_is_the_static_network(isa: str) -> None:
    """But for the maskers' own work, and a point that asks nothing does not pay that either."""
    images = pictures(1)
    wanted = static_macs(NET, MapSize(SIZE, SIZE))
    with load(bundle(), isa=isa) as engine:
        full = engine.infer(images, [point([None] * MASKERS)])
        all_asked = engine.infer(images, [point([-1e9] * MASKERS)])
    assert full.macs[0] == wanted < all_asked.macs[0]
    np.testing.assert_array_equal(full.arrays["scores"], all_asked.arrays["scores"])


def test_these_cases_do_skip() -> None:
    """Rates between 0 and 1 are met, so that the cases above show what they say."""
    source, images = bundle(), pictures(1)
    points = points_for(source, images, [[Wish(0.5)] * MASKERS])
    with load(source) as engine:
        activation = engine.infer(images, points).activation[0]
    many = [m for m, count in enumerate(units(NET, SIZE)) if count >= 4]
    assert len(many) >= MASKERS - 3
    assert ((activation[many] > 0.2) & (activation[many] < 0.8)).all()


# All together


@pytest.mark.parametrize("isa", FP32_ISAS)
def test_any_network_any_point(isa: str) -> None:
    @settings(
        max_examples=60,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(
        net=networks(),
        size=st.sampled_from(SIZES),
        batch=st.integers(1, 5),
        threads=st.integers(1, 3),
        seed=st.integers(0, 10**6),
        preprocessing=st.sampled_from([BGR, RGB]),
        data=st.data(),
    )
    def holds(
        net: ResNet,
        size: int,
        batch: int,
        threads: int,
        seed: int,
        preprocessing: Preprocessing,
        data: st.DataObject,
    ) -> None:
        of_images = [[data.draw(wishes) for _ in net.maskers] for _ in range(batch)]
        check(net, isa, size, of_images, seed=seed, threads=threads, preprocessing=preprocessing)

    holds()


@pytest.mark.skipif(not BF16_ISAS, reason="this CPU has no bf16")
@pytest.mark.parametrize("rate", [None, 0.0, 0.5])
def test_bf16_stays_near(rate: float | None) -> None:
    """With the reference's decisions, since near a threshold its own may differ."""
    source, images = bundle(), pictures(3)
    points = points_for(source, images, [[Wish(rate)] * MASKERS] * 3)
    wanted = reference_answer(source, images, points)
    ends = np.cumsum(units(NET, SIZE))[:-1]
    decisions = np.split(wanted.arrays["decisions"].astype(np.bool_), ends, axis=1)
    with load(source, precision="bf16") as engine:
        found = engine.infer(images, points, decisions)
    np.testing.assert_allclose(
        found.arrays["probabilities"].astype(np.float64),
        wanted.arrays["probabilities"].astype(np.float64),
        rtol=0,
        atol=BF16_BOUND,
    )
