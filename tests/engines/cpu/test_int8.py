"""int8: every instruction set equals the numpy reference in exact integers, to the last bit.

Logits of maskers are bits of that answer too, so that no threshold has to be chosen with care.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engines.architecture import ResNet
from engines.bundle import Bundle, Preprocessing
from engines.core import OperatingPoint, Output, Paradigm, UInt8Array
from engines.cpu.engine import CpuEngine
from engines.errors import BundleError, InvalidInput, LaudError
from engines.reference.integer import IntegerReference
from tests.engines.cpu.cases import (
    BGR,
    INT8_ISAS,
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
    random_decisions,
    stage,
    varied_points,
)
from tests.engines.int8 import random_weights

Decisions = list[npt.NDArray[np.bool_]]

IMAGES, POINTS = pictures(5), varied_points()
SIZES = [1, 2, 7, 31, 33, 48]

wishes = st.tuples(
    st.sampled_from([None, -1e9, -1.0, -0.3, 0.0, 0.3, 1.0, 1e9]),
    st.sampled_from([None, None, None, 0, 1, 2, 5, 10**7]),
)


def answers(
    source: Bundle,
    images: UInt8Array,
    points: list[OperatingPoint],
    isa: str,
    decisions: Decisions | None = None,
    threads: int = 1,
) -> tuple[Output, Output]:
    """The engine's and the reference's."""
    with load(source, isa=isa, precision="int8", threads=threads) as engine:
        found = engine.infer(images, points, decisions)
    with IntegerReference(source) as reference:
        return found, reference.infer(images, points, decisions)


def assert_bits(found: Output, wanted: Output) -> None:
    """Everything in them but the time that it took."""
    for name in ("scores", "probabilities", "decisions"):
        np.testing.assert_array_equal(found.arrays[name], wanted.arrays[name])
    np.testing.assert_array_equal(found.activation, wanted.activation)
    assert found.macs.tolist() == wanted.macs.tolist()


@pytest.mark.parametrize("isa", INT8_ISAS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stride_in_1x1", [False, True], ids=["3x3", "1x1"])
@pytest.mark.parametrize("pool", ["padded", "trailing"])
@pytest.mark.parametrize("preprocessing", [BGR, RGB], ids=lambda value: value.channel_order)
def test_any_size_and_geometry(
    isa: str, size: int, stride_in_1x1: bool, pool: str, preprocessing: Preprocessing
) -> None:
    net = net_of(stride_in_1x1=stride_in_1x1, stem_pool=pool)
    source = bundle(net, preprocessing=preprocessing, scaled=True)
    assert_bits(*answers(source, pictures(5, size), varied_points(size=size), isa))


@pytest.mark.parametrize("isa", INT8_ISAS)
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("scale", [1 / 4, 1 / 64, 1 / 1000], ids=["coarse", "fitting", "clamping"])
def test_any_rate_and_scale(isa: str, rate: float, scale: float) -> None:
    """Coarse scales leave few steps in use, fine ones drive sums into the clamp at 255."""
    source = bundle(scaled=True, scale=scale)
    decisions = random_decisions(NET, 5, SIZE, rate)
    asked = [point([0.0] * MASKERS)] * 5
    assert_bits(*answers(source, IMAGES, asked, isa, decisions))


@pytest.mark.parametrize("isa", INT8_ISAS)
@pytest.mark.parametrize(
    ("width", "group"),
    [(1, 1), (5, 1), (12, 2), (12, 3), (20, 5), (33, 11), (36, 12), (64, 16), (96, 32), (160, 32)],
)
def test_widths_and_groups_that_are_no_vector(isa: str, width: int, group: int) -> None:
    net = net_of(
        stage(Paradigm.CHANNEL, width, depth=2, group=group),
        stage(Paradigm.SPATIAL_CHANNEL, width, patch=3, group=group),
        stem_width=width,
        num_classes=width,
    )
    points = varied_points(len(net.maskers), 20)
    assert_bits(*answers(bundle(net, scaled=True), pictures(5, 20), points, isa, threads=2))


@pytest.mark.parametrize("isa", INT8_ISAS)
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
        scale=st.sampled_from([1 / 20, 1 / 64, 1 / 300]),
        rate=st.sampled_from([None, None, 0.2, 0.6]),
        data=st.data(),
    )
    def holds(
        net: ResNet,
        size: int,
        batch: int,
        threads: int,
        seed: int,
        scale: float,
        rate: float | None,
        data: st.DataObject,
    ) -> None:
        source = bundle(net, seed, scaled=True, scale=scale)
        drawn = [[data.draw(wishes) for _ in net.maskers] for _ in range(batch)]
        points = [point([t for t, _ in of], [cap for _, cap in of], size=size) for of in drawn]
        decisions = None if rate is None else random_decisions(net, batch, size, rate, seed)
        assert_bits(*answers(source, pictures(batch, size, seed), points, isa, decisions, threads))

    holds()


@pytest.mark.parametrize("isa", INT8_ISAS)
@pytest.mark.parametrize("pixel", [0, 255])
def test_the_largest_sums_there_can_be(isa: str, pixel: int) -> None:
    """Every weight is at its limit and every activation at 255: 16 bits would not hold a pair."""
    net = net_of(stage(Paradigm.STATIC, 64, depth=2), stem_width=16)
    for sign in (1.0, -1.0):
        weights = {
            name: np.full_like(value, 0.3 if name.endswith("bias") else sign)
            for name, value in random_weights(net).items()
        }
        # Positive everywhere but in one layer, so that large activations reach it.
        for layer in ("conv1", "layer1.0.conv1", "layer1.0.downsample.0"):
            weights[f"{layer}.weight"] = np.ones_like(weights[f"{layer}.weight"])
        source = bundle(net, weights=weights, scaled=True)
        images = np.full((1, 31, 31, 3), pixel, np.uint8)
        assert_bits(*answers(source, images, [point([], size=31)], isa))


@pytest.mark.parametrize("isa", INT8_ISAS)
def test_decisions_count_whatever_the_point_asks(isa: str) -> None:
    """A point that skips nothing pays no masker; what is skipped from outside is not counted."""
    decisions = random_decisions(NET, 5, SIZE, 0.4)
    assert_bits(*answers(bundle(scaled=True), IMAGES, POINTS[:1] * 5, isa, decisions))


def test_these_answers_are_near_those_of_floats() -> None:
    """So that the scales make a network, and not noise."""
    source, points = bundle(scaled=True), [point([None] * MASKERS)] * 5
    found, _ = answers(source, IMAGES, points, "")
    with load(source, precision="fp32") as engine:
        wanted = engine.infer(IMAGES, points)
    rounded, exact = (
        output.arrays["scores"].astype(np.float64).ravel() for output in (found, wanted)
    )
    assert np.corrcoef(rounded, exact)[0, 1] > 0.95
    assert (rounded != exact).all()


# Which precision


def test_a_bundle_with_scales_runs_in_int8_and_one_without_does_not() -> None:
    with load(bundle(scaled=True), precision=None) as engine:
        assert (engine.precision, engine.isa) == ("int8", INT8_ISAS[0])
    with load(bundle(scaled=True), precision="fp32") as engine:
        assert engine.precision == "fp32"
    with load(bundle(), precision=None) as engine:
        assert engine.precision == "fp32"


def test_int8_of_a_bundle_without_scales_is_refused() -> None:
    with pytest.raises(BundleError, match=r"int8\.laud' has no scales for int8; .*laud export"):
        CpuEngine(bundle(), precision="int8")


def spoiled(where: str, value: float) -> Bundle:
    """A bundle whose manifest was never validated with that scale."""
    source = bundle(scaled=True)
    scales = source.manifest.quantisation
    assert scales is not None
    changes: dict[str, Any] = {where: value}
    if where == "trunk":
        changes = {"trunk": (value, *scales.trunk[1:])}
    if where in ("inner1", "shortcut"):
        block = scales.blocks[0].model_copy(update={where: value})
        changes = {"blocks": (block, *scales.blocks[1:])}
    quantisation = scales.model_copy(update=changes)
    manifest = source.manifest.model_copy(update={"quantisation": quantisation})
    return Bundle(source.path, manifest, source.hash, source.weights)


@pytest.mark.parametrize("where", ["stem", "features", "trunk", "inner1", "shortcut"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, -1.0])
def test_scales_that_are_none_are_named(where: str, value: float) -> None:
    with pytest.raises(InvalidInput, match=f"scale '.*{where}.*' must be a positive number"):
        CpuEngine(spoiled(where, value))


@pytest.mark.parametrize("where", ["stem", "trunk", "inner1", "shortcut"])
def test_scales_that_float32_does_not_hold_are_refused(where: str) -> None:
    with pytest.raises(InvalidInput, match="does not fit float32"):
        CpuEngine(spoiled(where, 1e-300))


@pytest.mark.parametrize("name", ["conv1.weight", "layer2.0.conv2.bias", "fc.weight"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_named(name: str, value: float) -> None:
    weights = random_weights(NET)
    spoilt = np.array(weights[name])
    spoilt.flat[1] = value
    with pytest.raises(LaudError, match=name.replace(".", r"\.")):
        CpuEngine(bundle(weights={**weights, name: spoilt}, scaled=True))
