"""Detectors whose maskers decide where they look: decisions, answers and work equal torch's."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from engines.architecture import MapSize
from engines.bundle import Bundle
from engines.core import OperatingPoint, Output, UInt8Array
from engines.detection.architecture import (
    LEVELS,
    Detector,
    detector_macs,
    macs_per_object,
    pyramid_sizes,
)
from engines.errors import InvalidInput
from engines.reference.deciding import point_decision
from tests.engines.cpu.cases import FP32_ISAS, pictures, point
from tests.engines.cpu.comparing import Wish
from tests.engines.cpu.comparing_objects import (
    assert_near,
    places_of,
    points_at,
    reference_answer,
)
from tests.engines.cpu.detectors import (
    ABROAD,
    DYNAMIC,
    LOOKING,
    MASKED,
    RAGGED,
    SKIPPING,
    bundle,
    full,
    load,
    num_maskers,
    random_weights,
    same,
)
from tests.engines.cpu.same_objects import assert_same_objects

pytestmark = pytest.mark.torch

OWN = len(SKIPPING.maskers)
MASKERS = OWN + LEVELS
SIZE = 96
NEVER = 1e9
GRIDS = (36, 36, 36, 9)
"""Units of the levels' maskers of DYNAMIC."""

isas = pytest.mark.parametrize("isa", FP32_ISAS)
detectors = pytest.mark.parametrize(
    "detector", [DYNAMIC, RAGGED, LOOKING, ABROAD], ids=["whole", "ragged", "looking", "abroad"]
)


def assert_equals_reference(
    found: Output, source: Bundle, images: UInt8Array, points: list[OperatingPoint]
) -> None:
    """The same places are active, with the same answers, objects, rates and operations."""
    told = np.concatenate(
        [
            places_of(source, images[i : i + 1], decide=point_decision(each))
            for i, each in enumerate(points)
        ]
    )
    assert_near(found.arrays["places"].astype(np.float32), told)
    wanted = reference_answer(source, images, points)
    np.testing.assert_array_equal(found.arrays["decisions"], wanted.arrays["decisions"])
    arrays = {name: array for name, array in found.arrays.items() if name != "places"}
    assert_same_objects(Output(arrays, found.activation, found.macs, {}), wanted)
    np.testing.assert_array_equal(found.activation, wanted.activation)
    detector = source.manifest.detector
    assert detector is not None
    apart = found.arrays["counts"].astype(np.int64) - wanted.arrays["counts"].astype(np.int64)
    np.testing.assert_allclose(
        found.macs - macs_per_object(detector) * apart, wanted.macs, rtol=1e-12
    )


def areas(size: int = SIZE) -> list[int]:
    return [each.area for each in pyramid_sizes(SKIPPING, MapSize(size, size))]


def of_level(found: Output, level: int, size: int = SIZE) -> npt.NDArray[np.float32]:
    """Dense answers of one level (N, places, labels + 5)."""
    first = sum(areas(size)[:level])
    return found.arrays["places"][:, first : first + areas(size)[level]].astype(np.float32)


# The same as torch


@isas
@detectors
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_at_every_rate(isa: str, detector: Detector, rate: float) -> None:
    source, images = bundle(SKIPPING, detector), pictures(2, SIZE)
    points = points_at(source, images, [[Wish(rate)] * MASKERS] * 2)
    with load(source, isa=isa, threads=2) as engine:
        found = engine.infer(images, points, tell_places=True)
    assert_equals_reference(found, source, images, points)
    assert abs(found.activation.mean() - rate) < 0.1
    if rate == 0:
        assert not found.arrays["counts"].any()


@detectors
@pytest.mark.parametrize("size", [32, 64, 160, 256])
def test_at_every_size(detector: Detector, size: int) -> None:
    source, images = bundle(SKIPPING, detector), pictures(1, size)
    points = points_at(source, images, [[Wish(0.4)] * MASKERS])
    with load(source) as engine:
        found = engine.infer(images, points, tell_places=True)
    assert_equals_reference(found, source, images, points)


@isas
def test_points_of_a_batch_may_mix(isa: str) -> None:
    """Each with thresholds, caps, both or neither, for some maskers or all; every image its own."""
    source, images = bundle(SKIPPING, RAGGED), pictures(6, SIZE)
    some = [Wish(None) if m % 2 else Wish(0.3) for m in range(MASKERS)]
    levels = [Wish(None)] * OWN + [Wish(0.5), Wish(0.0), Wish(1.0), Wish(None, 2)]
    wishes: list[list[Wish]] = [
        [Wish(None)] * MASKERS,
        [Wish(0.5)] * MASKERS,
        [Wish(None, 3)] * MASKERS,
        some,
        levels,
        [Wish(0.0)] * MASKERS,
    ]
    points = points_at(source, images, wishes)
    with load(source, isa=isa, threads=2) as engine:
        found = engine.infer(images, points, tell_places=True)
        back = engine.infer(images[::-1].copy(), points[::-1], tell_places=True)
    with load(source, isa=isa) as engine:
        alone = [
            engine.infer(images[i : i + 1], [each], tell_places=True)
            for i, each in enumerate(points)
        ]
    assert_equals_reference(found, source, images, points)
    for i, one in enumerate(alone):
        for other, place in ((found, i), (back, len(alone) - 1 - i)):
            assert same(one, 0, other, place), f"image {i}"
            told, wanted = (each.arrays["places"] for each in (other, one))
            assert told[place].tobytes() == wanted[0].tobytes()
            assert other.macs[place] == one.macs[0]
            assert other.activation[place].tolist() == one.activation[0].tolist()


@pytest.mark.parametrize("cap", [0, 1, 2, 5, 30, 10**6])
def test_caps(cap: int) -> None:
    source, images = bundle(SKIPPING, RAGGED), pictures(2, SIZE)
    points = points_at(source, images, [[Wish(None, cap)] * MASKERS, [Wish(0.6, cap)] * MASKERS])
    with load(source, threads=2) as engine:
        found = engine.infer(images, points, tell_places=True)
    assert_equals_reference(found, source, images, points)


@isas
@pytest.mark.parametrize("seed", range(3))
def test_ties_go_to_the_lower_index(isa: str, seed: int) -> None:
    """Standardised means of levels are 0 or 5 and weights whole: logits are few and exact."""
    rng = np.random.default_rng(seed)
    weights = random_weights(SKIPPING, RAGGED, seed)
    for name, value in weights.items():
        if "level_maskers" in name and name.endswith(".std"):
            weights[name] = np.full_like(value, 2.0**-30)
        elif "level_maskers" in name:
            low = 0 if name.endswith(".mean") else -1
            weights[name] = rng.integers(low, -low + 1, value.shape).astype(np.float32)
    source, images = bundle(SKIPPING, RAGGED, weights=weights), pictures(2, SIZE)
    off: list[float | None] = [None] * OWN
    points = [
        point([*off, *[None] * LEVELS], [*[None] * OWN, 7, 3, 2, 1], size=SIZE),
        point([*off, *[0.0] * LEVELS], [*[None] * OWN, 11, 5, 3, 2], size=SIZE),
    ]
    with load(source, isa=isa, threads=2) as engine:
        found = engine.infer(images, points, tell_places=True)
    assert_equals_reference(found, source, images, points)


# What is not asked, and what is not computed


def test_a_point_that_skips_nothing_is_the_detector_without_maskers() -> None:
    images = pictures(2, SIZE)
    weights = random_weights(SKIPPING, DYNAMIC)
    plain = {name: value for name, value in weights.items() if "level_maskers" not in name}
    with load(bundle(SKIPPING, DYNAMIC, weights=weights)) as engine:
        found = engine.infer(images, [full(SIZE, MASKERS)] * 2, tell_places=True)
    with load(bundle(SKIPPING, MASKED, weights=plain)) as engine:
        wanted = engine.infer(images, [full(SIZE, OWN)] * 2, tell_places=True)
    assert all(same(found, i, wanted, i, decided=False) for i in range(2))
    assert found.arrays["decisions"].all()
    assert found.arrays["places"].tobytes() == wanted.arrays["places"].tobytes()
    assert found.macs.tolist() == wanted.macs.tolist()
    assert found.activation.tolist() == [[1.0] * MASKERS] * 2
    static = detector_macs(SKIPPING, DYNAMIC, MapSize(SIZE, SIZE))
    counts = found.arrays["counts"].astype(np.int64)
    assert found.macs.tolist() == (static.dense + static.per_object * counts).tolist()


@pytest.mark.parametrize("empty", range(LEVELS))
def test_a_level_without_an_active_place_is_not_computed(empty: int) -> None:
    """Its own convolution gives NaN, which zeros multiplied would keep; other levels stay."""
    weights, images = random_weights(SKIPPING, DYNAMIC), pictures(1, SIZE)
    broken = {**weights}
    for layer in (f"layer_blocks.{empty}", *(["inner_blocks.0"] if empty == 0 else [])):
        name = f"dense.fpn.{layer}.0.weight"
        broken[name] = np.full_like(weights[name], np.nan)
    skips: list[float | None] = [None] * MASKERS
    skips[OWN + empty] = NEVER
    points = [point(skips, size=SIZE)]
    with load(bundle(SKIPPING, DYNAMIC, weights=weights)) as engine:
        static = engine.infer(images, [full(SIZE, MASKERS)], tell_places=True)
        wanted = engine.infer(images, points, tell_places=True)
    with load(bundle(SKIPPING, DYNAMIC, weights=broken)) as engine:
        found = engine.infer(images, points, tell_places=True)
    assert same(found, 0, wanted, 0)
    assert found.activation[0].tolist() == [float(m != OWN + empty) for m in range(MASKERS)]
    for level in range(LEVELS):
        if level == empty:
            assert np.isneginf(of_level(found, level)[..., : SKIPPING.num_classes]).all()
        else:
            assert of_level(found, level).tobytes() == of_level(static, level).tobytes()


def test_nothing_active_anywhere_finds_nothing() -> None:
    source, images = bundle(SKIPPING, DYNAMIC), pictures(2, SIZE)
    with load(source, threads=2) as engine:
        found = engine.infer(images, [point([NEVER] * MASKERS, size=SIZE)] * 2)
        static = engine.infer(images, [full(SIZE, MASKERS)] * 2)
    assert found.arrays["counts"].tolist() == [0, 0]
    assert found.arrays["masks"].shape == (2, 0, 28, 28)
    assert not found.activation.any()
    assert (found.macs < 0.7 * static.macs).all()


def test_neither_memory_nor_what_ran_before_changes_a_bit() -> None:
    source, images = bundle(SKIPPING, RAGGED), pictures(3, SIZE)
    points = [point([at] * MASKERS, size=SIZE) for at in (0.0, 0.5, NEVER)]
    answers = []
    for poison in (True, False):
        with load(source, poison=poison, threads=2) as engine:
            engine.infer(images, [full(SIZE, MASKERS)] * 3)
            engine.infer(pictures(1, 160), [point([0.1] * MASKERS, size=160)])
            answers.append(engine.infer(images, points, tell_places=True))
    assert all(same(answers[0], i, answers[1], i) for i in range(3))
    assert answers[0].arrays["places"].tobytes() == answers[1].arrays["places"].tobytes()


def test_places_from_outside_hold_whatever_maskers_decide() -> None:
    source, images = bundle(SKIPPING, DYNAMIC), pictures(1, SIZE)
    active = np.random.default_rng(0).random((1, sum(areas()))) < 0.5
    asking = point([*[None] * OWN, *[NEVER] * LEVELS], size=SIZE)
    with load(source) as engine:
        found = engine.infer(images, [asking], active=active, tell_places=True)
        static = engine.infer(images, [full(SIZE, MASKERS)], active=active, tell_places=True)
    assert_near(found.arrays["places"].astype(np.float32), places_of(source, images, active=active))
    assert same(found, 0, static, 0, decided=False)
    assert static.arrays["decisions"].all()
    assert not found.arrays["decisions"][0, -sum(GRIDS) :].any()
    maskers = found.macs[0] - static.macs[0]
    channels = (32, 48, 80, 96)
    assert maskers == sum(2 * c * grid for c, grid in zip(channels, GRIDS, strict=True))


# Refusals


def test_points_of_another_network_are_refused() -> None:
    with load(bundle(SKIPPING, DYNAMIC)) as engine:
        says = f"{OWN} thresholds, this network has {MASKERS} maskers"
        with pytest.raises(InvalidInput, match=says):
            engine.infer(pictures(1, SIZE), [full(SIZE, OWN)])
    assert num_maskers(SKIPPING, DYNAMIC) == MASKERS
