"""int8 detectors: every instruction set equals the numpy reference in exact integers. No torch.

Dense answers, decisions and boxes to the last bit; scores and masks pass an exponential, which is
the C library's there and numpy's here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from engines.architecture import MapSize, ResNet
from engines.bundle import Bundle
from engines.caps import units_of
from engines.core import OperatingPoint, Output, UInt8Array
from engines.cpu.detector import CpuDetector
from engines.detection.architecture import Detector, level_units_of, pyramid_sizes
from engines.errors import BundleError, InvalidInput
from engines.reference.integer_detection import IntegerDetector
from tests.engines.cpu.cases import INT8_ISAS, pictures, point
from tests.engines.cpu.detectors import (
    ABROAD,
    DEEP,
    DYNAMIC,
    FITTING,
    MASKED,
    PLAIN,
    RAGGED,
    SKIPPING,
    SMALL,
    WIDE,
    bundle,
    full,
    load,
    num_maskers,
    random_weights,
    same,
)

NEAR = 1e-6


def agreed(
    source: Bundle,
    images: UInt8Array,
    points: Sequence[OperatingPoint],
    active: npt.NDArray[np.bool_] | None = None,
) -> Output:
    """What the reference and, equal to it, every instruction set answers."""
    with IntegerDetector(source) as reference:
        wanted = reference.infer(images, points, active=active, tell_places=True)
    for isa in INT8_ISAS:
        with load(source, isa=isa, precision="int8") as engine:
            found = engine.infer(images, points, active=active, tell_places=True)
        assert found.arrays.keys() == wanted.arrays.keys()
        for name in ("places", "counts", "boxes", "labels", "decisions"):
            np.testing.assert_array_equal(found.arrays[name], wanted.arrays[name], f"{isa} {name}")
        for name in found.arrays.keys() & {"scores", "masks"}:
            apart = found.arrays[name].astype(np.float32) - wanted.arrays[name].astype(np.float32)
            assert np.abs(apart).max(initial=0.0) <= NEAR, f"{isa} {name}"
        np.testing.assert_array_equal(found.activation, wanted.activation)
        assert found.macs.tolist() == pytest.approx(wanted.macs.tolist(), rel=1e-12)
    return wanted


@pytest.mark.parametrize(
    ("net", "detector", "size", "bias"),
    [
        (SMALL, PLAIN, 32, -2.0),
        (SMALL, PLAIN, 160, -6.0),
        (WIDE, MASKED, 32, -2.0),
        (WIDE, MASKED, 96, -4.0),
        (WIDE, DEEP, 64, -3.0),
    ],
    ids=["small", "large-small", "masked", "large-masked", "deep"],
)
def test_any_width_and_size(net: ResNet, detector: Detector, size: int, bias: float) -> None:
    source = bundle(net, detector, scale=FITTING, bias=bias)
    found = agreed(source, pictures(2, size), [full(size)] * 2)
    assert found.arrays["counts"].all()


@pytest.mark.parametrize("scale", [8.0, 1 / 1000], ids=["coarse", "clamping"])
def test_any_scale(scale: float) -> None:
    """Coarse scales leave few steps in use, fine ones drive sums into both clamps."""
    agreed(bundle(scale=scale), pictures(1, 32), [full(32)])


@pytest.mark.parametrize("detector", [DYNAMIC, RAGGED, ABROAD], ids=["whole", "ragged", "abroad"])
def test_what_maskers_decide(detector: Detector) -> None:
    """Points of a batch mix: nothing asked, thresholds, caps, and nothing active anywhere."""
    source = bundle(SKIPPING, detector, scale=FITTING, bias=-3.0)
    maskers = num_maskers(SKIPPING, detector)
    points = [
        full(64, maskers),
        point([0.1] * maskers, size=64),
        point([None] * maskers, [3] * maskers, size=64),
        point([1e9] * maskers, size=64),
    ]
    found = agreed(source, pictures(4, 64), points)
    assert 0.1 < found.activation[1].mean() < 0.9
    assert found.arrays["counts"][0] > 0
    assert found.arrays["counts"][3] == 0


def test_decisions_from_outside() -> None:
    source, images = bundle(SKIPPING, ABROAD, scale=FITTING, bias=-3.0), pictures(2, 64)
    points = [full(64, num_maskers(SKIPPING, ABROAD))] * 2
    size = MapSize(64, 64)
    units = [*units_of(SKIPPING, 64).tolist(), *level_units_of(SKIPPING, ABROAD, size)]
    rng = np.random.default_rng(2)
    given = [rng.random((2, count)) < 0.6 for count in units]
    with IntegerDetector(source) as reference, load(source, precision="int8") as engine:
        wanted = reference.infer(images, points, given, tell_places=True)
        found = engine.infer(images, points, given, tell_places=True)
        with pytest.raises(InvalidInput, match="must have shape"):
            reference.infer(images, points, [each[:1] for each in given])
    for name in ("places", "boxes", "decisions"):
        np.testing.assert_array_equal(found.arrays[name], wanted.arrays[name])
    np.testing.assert_array_equal(wanted.arrays["decisions"], np.concatenate(given, axis=1))
    assert found.macs.tolist() == pytest.approx(wanted.macs.tolist(), rel=1e-12)


@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_places_from_outside(rate: float) -> None:
    """What is not computed is zero, which a byte of 128 stands for in the pyramid."""
    areas = sum(each.area for each in pyramid_sizes(WIDE, MapSize(64, 64)))
    active = np.random.default_rng(1).random((2, areas)) < rate
    found = agreed(bundle(scale=FITTING, bias=-3.0), pictures(2, 64), [full(64)] * 2, active)
    assert found.arrays["counts"].any() == (rate > 0.1)


@pytest.mark.parametrize("pixel", [0, 255])
def test_the_largest_sums_there_can_be(pixel: int) -> None:
    """Every weight of pyramid and heads is at its limit: 16 bits would not hold a pair."""
    weights = random_weights(WIDE, MASKED)
    for name, value in weights.items():
        if not name.startswith("dense.body.") and name.endswith("weight"):
            weights[name] = np.sign(value)
    source = bundle(weights=weights, scale=FITTING)
    agreed(source, np.full((1, 32, 32, 3), pixel, np.uint8), [full(32)])


def test_these_answers_are_near_those_of_floats() -> None:
    """So that the scales make a detector, and not noise."""
    source, images = bundle(scale=FITTING), pictures(2, 32)
    with load(source, precision="int8") as engine, load(source, precision="fp32") as exact:
        found, wanted = (
            each.infer(images, [full(32)] * 2, tell_places=True).arrays["places"].astype(np.float64)
            for each in (engine, exact)
        )
    for channel in range(found.shape[2]):
        pair = found[..., channel].ravel(), wanted[..., channel].ravel()
        assert np.corrcoef(*pair)[0, 1] > 0.95
    assert (found != wanted).any()


def test_every_instruction_set_gives_the_same_bits() -> None:
    """Of scores and masks too, which the reference has only nearly."""
    source, images = bundle(scale=FITTING, bias=-3.0), pictures(1, 64)
    told = []
    for isa in INT8_ISAS:
        with load(source, isa=isa, precision="int8") as engine:
            told.append(engine.infer(images, [full(64)]))
    assert told[0].arrays["counts"][0] > 0
    assert all(same(told[0], 0, other, 0) for other in told[1:])


# Which precision


def test_a_bundle_with_scales_runs_in_int8_and_one_without_does_not() -> None:
    for scale, precision in ((FITTING, "int8"), (None, "fp32")):
        with CpuDetector(bundle(scale=scale), threads=1) as engine:
            assert engine.precision == precision
    with load(bundle(scale=FITTING), precision="fp32") as engine:
        assert engine.precision == "fp32"
    for refuses in (CpuDetector, IntegerDetector):
        options: dict[str, Any] = {"precision": "int8"} if refuses is CpuDetector else {}
        with pytest.raises(BundleError, match=r"has no scales for int8; .*laud export things"):
            refuses(bundle(), **options)


@pytest.mark.parametrize("where", ["pyramid", "sums", "classes", "masks"])
@pytest.mark.parametrize(
    ("value", "says"),
    [
        (float("nan"), "must be a positive number"),
        (0.0, "must be a positive number"),
        (1e-300, "does not fit float32"),
    ],
)
def test_scales_that_are_none_are_named(where: str, value: float, says: str) -> None:
    source = bundle(scale=FITTING)
    scales = source.manifest.quantisation
    assert scales is not None
    assert scales.detector is not None
    before = getattr(scales.detector, where)
    after = value if where == "pyramid" else (value, *before[1:])
    own = scales.detector.model_copy(update={where: after})
    spoilt = scales.model_copy(update={"detector": own})
    manifest = source.manifest.model_copy(update={"quantisation": spoilt})
    named = where if value != 1e-300 else ""
    with pytest.raises(InvalidInput, match=f"{named}.*{says}"):
        CpuDetector(Bundle(source.path, manifest, source.hash, source.weights))
