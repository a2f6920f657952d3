"""That calibration meets a budget with one shift of all thresholds, or comes as near as it can.

It knows engines only as such; here it is given the reference.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from engines.architecture import MapSize, ResNet, Stage
from engines.bundle import Preprocessing
from engines.caps import capped, macs_bound, units_of
from engines.core import OperatingPoint, Output, Paradigm, UInt8Array
from engines.export.calibrate import Calibrated, calibrate, mean_macs, settle
from engines.macs import static_macs
from engines.models.inputs import normalise
from engines.models.resnet import LaudResNet
from engines.reference.engine import ReferenceEngine
from engines.training.statistics import prepare_maskers

pytestmark = pytest.mark.torch

PLAIN = Preprocessing(
    crop_ratio=1.0, channel_order="rgb", mean=(127.5, 127.5, 127.5), std=(60.0, 60.0, 60.0)
)
START = (0.3, -0.2, 0.1)


@pytest.fixture(scope="module")
def images() -> UInt8Array:
    return np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def model(images: UInt8Array) -> LaudResNet:
    """A network of many small units whose decisions depend on the image."""
    torch.manual_seed(0)
    stages = (
        Stage(depth=2, width=8, paradigm=Paradigm.SPATIAL, spatial_granularity=1),
        Stage(depth=1, width=16, paradigm=Paradigm.CHANNEL, channel_granularity=1),
    )
    model = LaudResNet(ResNet(stem_width=4, stages=stages, num_classes=3, folded=True))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "masker_" in name:
                value.normal_()
    prepare_maskers(model, normalise(images, PLAIN), scale=1.0)
    return model


def engine_of(model: LaudResNet) -> ReferenceEngine:
    return ReferenceEngine(model, PLAIN)


def point(
    thresholds: Sequence[float | None], caps: Sequence[int | None] | None = None
) -> OperatingPoint:
    return OperatingPoint(
        name="some",
        image_size=32,
        thresholds=tuple(thresholds),
        caps=tuple(caps or [None] * len(thresholds)),
    )


def static(model: LaudResNet) -> float:
    return float(static_macs(model.net, MapSize(32, 32)))


def ratio(model: LaudResNet, images: UInt8Array, thresholds: Sequence[float]) -> float:
    return mean_macs(engine_of(model), point(thresholds), images) / static(model)


def found(
    model: LaudResNet, images: UInt8Array, thresholds: Sequence[float], budget: float
) -> Calibrated:
    return calibrate(engine_of(model), point(thresholds), budget * static(model), images)


@pytest.mark.parametrize("budget", [0.8, 0.7, 0.65])
@pytest.mark.parametrize("off", [-2.5, 0.0, 2.5], ids=["from above", "from near", "from below"])
def test_budget_is_met_from_either_side(
    model: LaudResNet, images: UInt8Array, budget: float, off: float
) -> None:
    reached = found(model, images, [value + off for value in START], budget)
    assert reached.reached
    assert reached.macs == pytest.approx(budget * static(model), rel=0.005)
    assert mean_macs(engine_of(model), reached.point, images) == reached.macs


def test_all_thresholds_move_alike(model: LaudResNet, images: UInt8Array) -> None:
    moved = np.subtract(found(model, images, START, 0.65).point.thresholds, START)  # type: ignore[arg-type]
    assert abs(moved[0]) > 0.01
    np.testing.assert_allclose(moved, moved[0], atol=1e-6)


def test_a_masker_that_is_not_asked_stays_so_and_caps_stay(
    model: LaudResNet, images: UInt8Array
) -> None:
    start = point([None, -2.0, -2.0], [None, None, 5])
    moved = calibrate(engine_of(model), start, 0.8 * static(model), images).point
    assert moved.thresholds[0] is None
    assert moved.thresholds[1] == moved.thresholds[2] != -2.0
    assert (moved.caps, moved.name, moved.image_size) == ((None, None, 5), "some", 32)


def test_thresholds_that_meet_the_budget_are_kept(model: LaudResNet, images: UInt8Array) -> None:
    budget = ratio(model, images, START) + 0.001
    assert found(model, images, START, budget).point.thresholds == pytest.approx(START)


@pytest.mark.parametrize(("budget", "end"), [(0.06, 4.0), (0.999, -4.0)])
def test_budget_out_of_reach_is_met_as_nearly_as_possible_and_said(
    model: LaudResNet, images: UInt8Array, budget: float, end: float
) -> None:
    start = [value + end for value in START]
    nearest = found(model, images, start, budget)
    farthest = ratio(model, images, [value + end for value in start])
    assert nearest.macs / static(model) == pytest.approx(farthest, abs=0.002)
    assert nearest.wanted == budget * static(model)
    assert nearest.reached == (abs(farthest - budget) <= 0.01 * budget)


def test_one_large_unit_gives_the_nearer_of_what_it_can_do(images: UInt8Array) -> None:
    """A network with one decision has two costs; neither is within a hundredth of the budget."""
    torch.manual_seed(0)
    stage = Stage(depth=1, width=8, paradigm=Paradigm.LAYER)
    model = LaudResNet(ResNet(stem_width=4, stages=(stage,), num_classes=3, folded=True))
    on, off = (ratio(model, images, [t]) for t in (-1.0, 1.0))
    for budget, expected in ((0.9 * on + 0.1 * off, on), (0.1 * on + 0.9 * off, off)):
        for start in (-1.0, 1.0):
            nearest = found(model, images, [start], budget)
            assert nearest.macs == expected * static(model)
            assert not nearest.reached


class Counting(ReferenceEngine):
    """Knows how often it was asked; 12 images are one call."""

    asked = 0

    def infer(self, images: UInt8Array, points: Sequence[OperatingPoint]) -> Output:
        self.asked += 1
        return super().infer(images, points)


@pytest.mark.parametrize("budget", [0.06, 0.7, 0.999])
@pytest.mark.parametrize("off", [-2.5, 2.5])
def test_work_is_bounded(model: LaudResNet, images: UInt8Array, budget: float, off: float) -> None:
    engine = Counting(model, PLAIN)
    calibrate(engine, point([t + off for t in START]), budget * static(model), images)
    assert engine.asked < 20


def test_thresholds_that_are_nearly_right_take_few_passes(
    model: LaudResNet, images: UInt8Array
) -> None:
    """As training leaves them; every pass goes over all validation images."""
    right = found(model, images, START, 0.7).point
    engine = Counting(model, PLAIN)
    near = [t + 0.05 for t in right.thresholds if t is not None]
    assert calibrate(engine, point(near), 0.7 * static(model), images).reached
    assert engine.asked <= 8


def test_settling_caps_what_images_ask_for_and_still_meets_the_budget(
    model: LaudResNet, images: UInt8Array
) -> None:
    """Whatever caps it starts from."""
    start = point(START, [3, None, 0])
    settled = settle(engine_of(model), model.net, start, 0.7 * static(model), images)
    assert settled.macs == pytest.approx(0.7 * static(model), rel=0.02)
    assert None not in settled.point.caps
    output = engine_of(model).infer(images, [settled.point] * len(images))
    assert output.macs.mean() == settled.macs
    assert output.macs.max() <= macs_bound(model.net, settled.point) * (1 + 1e-12)
    active = np.rint(output.activation * units_of(model.net, 32))
    assert (active <= np.array(settled.point.caps)).all()


def test_settling_caps_nothing_below_the_usual(model: LaudResNet, images: UInt8Array) -> None:
    """Caps belong to the thresholds that meet the budget without them."""
    free = found(model, images, START, 0.7).point
    rates = engine_of(model).infer(images, [free] * len(images)).activation
    settled = settle(engine_of(model), model.net, point(START), 0.7 * static(model), images)
    assert settled.point.caps == capped(model.net, free, rates).caps
