"""Which units are active: ties, caps, thresholds that a logit equals, decisions from outside."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch")

from engines.bundle import Bundle
from engines.core import OperatingPoint, Paradigm
from engines.models.inputs import normalise
from engines.models.masks import Mask
from engines.reference.deciding import point_decision
from tests.engines.cpu.cases import (
    FP32_ISAS,
    MASKERS,
    NET,
    SIZE,
    bundle,
    load,
    net_of,
    pictures,
    point,
    random_decisions,
    stage,
    units,
)
from tests.engines.cpu.comparing import assert_equal, network_of, reference_answer
from tests.engines.int8 import random_weights

pytestmark = pytest.mark.torch

IMAGES = pictures(2)


def tied_bundle(seed: int = 0) -> Bundle:
    """Standardised means are 0 or 5 and masker weights whole, so that logits are few and exact."""
    rng = np.random.default_rng(seed)
    weights = random_weights(NET, seed)
    for name, value in weights.items():
        if ".masker_" not in name:
            continue
        if name.endswith(".std"):
            weights[name] = np.full_like(value, 2.0**-30)
        elif name.endswith(".mean"):
            weights[name] = np.zeros_like(value)
        else:
            weights[name] = rng.integers(-1, 2, value.shape).astype(np.float32)
    return bundle(weights=weights)


def masks_of(source: Bundle, at: OperatingPoint, image: int = 0) -> list[Mask]:
    """What the reference's maskers say and decide."""
    x = normalise(IMAGES[image : image + 1], source.manifest.preprocessing)
    with torch.inference_mode():
        _, masks = network_of(source)(x, point_decision(at))
    return list(masks)


def decisions_of(source: Bundle, points: list[OperatingPoint]) -> list[npt.NDArray[np.bool_]]:
    """The reference's, per masker."""
    by_image = [masks_of(source, at, image) for image, at in enumerate(points)]
    return [
        np.concatenate([masks[m].units.numpy() > 0 for masks in by_image]) for m in range(MASKERS)
    ]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("cap", [0, 1, 2, 3, 5, 8, 10**6])
def test_ties_go_to_the_lower_index(seed: int, cap: int) -> None:
    source = tied_bundle(seed)
    points = [point([None] * MASKERS, [cap] * MASKERS), point([0.0] * MASKERS, [cap] * MASKERS)]
    wanted = reference_answer(source, IMAGES, points)
    for isa in FP32_ISAS:
        with load(source, isa=isa) as engine:
            assert_equal(engine.infer(IMAGES, points), wanted)


def test_there_are_ties_at_caps_and_logits_at_thresholds() -> None:
    """Of several values each, so that the cases above show what they say."""
    at_cap, zeros, values = 0, 0, set()
    for seed in range(4):
        for mask in masks_of(tied_bundle(seed), point([None] * MASKERS, [3] * MASKERS)):
            falling = np.sort(mask.logits[0].numpy())[::-1]
            at_cap += len(falling) > 3 and falling[2] == falling[3]
            zeros += int((falling == 0).sum())
            values.add(len(set(falling.tolist())))
    assert at_cap >= 4
    assert zeros >= 4
    assert max(values) >= 4


@pytest.mark.parametrize("isa", FP32_ISAS)
def test_which_of_equal_patches_is_active_shows_in_the_answer(isa: str) -> None:
    """Against the same network that is told to take the first ones, and then others."""
    net = net_of(stage(Paradigm.SPATIAL, 8, patch=3))
    weights = random_weights(net)
    weights["layer1.0.masker_spatial.weight"] = np.zeros_like(
        weights["layer1.0.masker_spatial.weight"]
    )
    first, last = np.zeros((2, 1, 9), bool)
    first[0, :2], last[0, -2:] = True, True
    capped = point([None], [2])
    with load(bundle(net, weights=weights), isa=isa) as engine:
        decided, told_first, told_last = (
            engine.infer(IMAGES[:1], [capped], told).arrays["scores"]
            for told in (None, [first], [last])
        )
    assert decided.tobytes() == told_first.tobytes() != told_last.tobytes()


@pytest.mark.parametrize("isa", FP32_ISAS)
@pytest.mark.parametrize("threshold", [-1e30, -3.4e38, 3.4e38])
def test_extreme_thresholds(isa: str, threshold: float) -> None:
    source, points = bundle(), [point([threshold] * MASKERS)] * 2
    with load(source, isa=isa) as engine:
        found = engine.infer(IMAGES, points)
    assert_equal(found, reference_answer(source, IMAGES, points))
    assert (found.activation == (threshold < 0)).all()


@pytest.mark.parametrize("threshold", [1e39, -1e39, 1e300, -1e300])
def test_thresholds_that_float32_does_not_hold_are_infinite(threshold: float) -> None:
    source, points = bundle(), [point([threshold] * MASKERS)] * 2
    with load(source) as engine:
        found = engine.infer(IMAGES, points)
    assert_equal(found, reference_answer(source, IMAGES, points))


# Decisions from outside


@pytest.mark.parametrize("isa", FP32_ISAS)
@pytest.mark.parametrize("kind", [np.bool_, np.uint8])
def test_decisions_replace_the_maskers(isa: str, kind: Any) -> None:
    """The reference's own, given to the engine, make its answer whatever the point's threshold."""
    source = bundle()
    points = [point([0.0] * MASKERS), point([-0.5] * MASKERS)]
    decisions = [array.astype(kind) for array in decisions_of(source, points)]
    wanted = reference_answer(source, IMAGES, points)
    others = [point([threshold] * MASKERS) for threshold in (1e9, -1e9)]
    with load(source, isa=isa) as engine:
        assert_equal(engine.infer(IMAGES, others, decisions), wanted)


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_decisions_hold_where_the_point_asks_nothing(rate: float) -> None:
    """No masker is evaluated then: the work is the same but for theirs."""
    decisions = random_decisions(NET, 2, SIZE, rate)
    full, asked = point([None] * MASKERS), point([0.0] * MASKERS)
    with load(bundle()) as engine:
        without = engine.infer(IMAGES, [full] * 2, decisions)
        with_maskers = engine.infer(IMAGES, [asked] * 2, decisions)
        everything = (
            engine.infer(IMAGES, [point([-1e9] * MASKERS)] * 2).macs
            - engine.infer(IMAGES, [full] * 2).macs
        )
    shares = [array.mean(axis=1) for array in decisions]
    np.testing.assert_allclose(without.activation, np.transpose(shares), rtol=1e-6)
    np.testing.assert_array_equal(without.arrays["decisions"], np.concatenate(decisions, axis=1))
    np.testing.assert_array_equal(without.arrays["scores"], with_maskers.arrays["scores"])
    np.testing.assert_allclose(with_maskers.macs - without.macs, everything)


def test_units_of_this_network() -> None:
    """What the tests above reckon with: maps of 9, 5, 3 and 2 pixels."""
    assert units(NET, SIZE) == [9, 9, 9, 9, 4, 9, 4, 4, 4, 1, 1]
