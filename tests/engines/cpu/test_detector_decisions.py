"""Decisions of a detector's maskers: told as torch's engine has them, and taken from outside."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from engines.architecture import MapSize
from engines.caps import units_of
from engines.detection.architecture import LEVELS, Detector, level_units_of, macs_per_object
from engines.errors import InvalidInput
from tests.engines.cpu.cases import FP32_ISAS, pictures, point
from tests.engines.cpu.comparing import Wish
from tests.engines.cpu.comparing_objects import (
    assert_near,
    forced_answer,
    points_at,
    reference_answer,
)
from tests.engines.cpu.detectors import (
    ABROAD,
    DYNAMIC,
    LOOKING,
    RAGGED,
    SKIPPING,
    bundle,
    full,
    load,
    same,
)

pytestmark = pytest.mark.torch

OWN = len(SKIPPING.maskers)
MASKERS = OWN + LEVELS
SIZE = 96
RATES = np.linspace(0.2, 1.0, MASKERS)

detectors = pytest.mark.parametrize(
    "detector", [DYNAMIC, RAGGED, LOOKING, ABROAD], ids=["whole", "ragged", "looking", "abroad"]
)


def units_at(detector: Detector, size: int) -> list[int]:
    """Of every masker, the backbone's first."""
    levels = level_units_of(SKIPPING, detector, MapSize(size, size))
    return [*units_of(SKIPPING, size).tolist(), *levels]


@detectors
@pytest.mark.parametrize("size", [32, 64, 96, 160])
def test_decisions_are_those_of_the_reference(detector: Detector, size: int) -> None:
    """The backbone's, block by block, then the levels'; also of patches that end at a border."""
    source, images = bundle(SKIPPING, detector), pictures(3, size)
    wishes = [[Wish(0.5)] * MASKERS, [Wish(None)] * MASKERS, [Wish(0.7, 3)] * MASKERS]
    points = points_at(source, images, wishes)
    with load(source, threads=2) as engine:
        found = engine.infer(images, points)
    told = found.arrays["decisions"]
    units = units_at(detector, size)
    assert told.shape == (3, sum(units))
    assert told[1].all()
    wanted = reference_answer(source, images, points)
    np.testing.assert_array_equal(told, wanted.arrays["decisions"])
    for masker, part in enumerate(np.split(told, np.cumsum(units)[:-1], axis=1)):
        rates = part.mean(axis=1).astype(np.float32)
        np.testing.assert_array_equal(rates, found.activation[:, masker])


@pytest.mark.parametrize(
    ("isa", "detector"), [*((isa, RAGGED) for isa in FP32_ISAS), ("", DYNAMIC), ("", LOOKING)]
)
def test_decisions_from_outside_hold(isa: str, detector: Detector) -> None:
    """What they make active costs what it costs, and no masker is looked at."""
    source, images = bundle(SKIPPING, detector), pictures(2, SIZE)
    units = units_at(detector, SIZE)
    rng = np.random.default_rng(0)
    given = [rng.random((2, count)) < rate for count, rate in zip(units, RATES, strict=True)]
    joined = np.concatenate(given, axis=1)
    static = [full(SIZE, MASKERS)] * 2
    with load(source, isa=isa, threads=2) as engine:
        found = engine.infer(images, static, given, tell_places=True)
        asking = engine.infer(images, [point([0.0] * MASKERS, size=SIZE)] * 2, given)
    np.testing.assert_array_equal(found.arrays["decisions"], joined)
    assert all(same(found, i, asking, i) for i in range(2))
    assert (asking.macs > found.macs).all()
    wanted = [forced_answer(source, images[i : i + 1], [each[i] for each in given]) for i in (0, 1)]
    assert_near(
        found.arrays["places"].astype(np.float32), np.concatenate([places for places, _ in wanted])
    )
    counts = found.arrays["counts"].astype(np.int64)
    dense = found.macs - macs_per_object(detector) * counts
    np.testing.assert_allclose(dense, [macs for _, macs in wanted], rtol=1e-12)


def test_its_own_decisions_from_outside_change_nothing() -> None:
    source, images = bundle(SKIPPING, RAGGED), pictures(2, SIZE)
    asking = [point([at] * MASKERS, size=SIZE) for at in (0.0, 0.4)]
    with load(source) as engine:
        found = engine.infer(images, asking, tell_places=True)
        given = np.split(
            found.arrays["decisions"].astype(np.bool_),
            np.cumsum(units_at(RAGGED, SIZE))[:-1],
            axis=1,
        )
        again = engine.infer(images, [full(SIZE, MASKERS)] * 2, given, tell_places=True)
    assert all(same(found, i, again, i) for i in range(2))
    assert found.arrays["places"].tobytes() == again.arrays["places"].tobytes()
    assert found.pixels is not None
    assert again.pixels is not None
    assert found.pixels.tolist() == again.pixels.tolist()


def test_decisions_that_do_not_fit_are_refused() -> None:
    units = units_at(DYNAMIC, SIZE)
    right = [np.ones((1, count), np.bool_) for count in units]
    with load(bundle(SKIPPING, DYNAMIC)) as engine:
        for given, says in (
            (right[:OWN], f"one array per masker: {MASKERS}, got {OWN}"),
            ([*right[:-1], right[-1][:, :-1]], rf"masker {MASKERS - 1} must have shape \(1, 9\)"),
            ([right[0][0], *right[1:]], "masker 0 must have shape"),
        ):
            with pytest.raises(InvalidInput, match=says):
                engine.infer(pictures(1, SIZE), [full(SIZE, MASKERS)], given)
