"""That calibration meets a budget with one shift of all thresholds, or comes as near as it can."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from engines.architecture import ResNet, Stage
from engines.bundle import Preprocessing
from engines.core import Paradigm, UInt8Array
from engines.export import calibrate as module
from engines.export.calibrate import calibrate
from engines.models.inputs import normalise
from engines.models.measuring import measure
from engines.models.resnet import LaudResNet
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


def ratio(model: LaudResNet, images: UInt8Array, thresholds: Sequence[float]) -> float:
    labels = np.zeros(len(images), np.int64)
    return measure(model, images, labels, PLAIN, torch.tensor(thresholds)).macs_ratio


@pytest.mark.parametrize("budget", [0.8, 0.7, 0.65])
@pytest.mark.parametrize("off", [-2.5, 0.0, 2.5], ids=["from above", "from near", "from below"])
def test_budget_is_met_from_either_side(
    model: LaudResNet, images: UInt8Array, budget: float, off: float
) -> None:
    start = [value + off for value in START]
    found = calibrate(model, start, budget, images, PLAIN)
    assert ratio(model, images, found) == pytest.approx(budget, abs=0.005)


def test_all_thresholds_move_alike(model: LaudResNet, images: UInt8Array) -> None:
    moved = np.array(calibrate(model, START, 0.6, images, PLAIN)) - np.array(START)
    assert abs(moved[0]) > 0.01
    np.testing.assert_allclose(moved, moved[0], atol=1e-6)


def test_thresholds_that_meet_the_budget_are_kept(model: LaudResNet, images: UInt8Array) -> None:
    budget = ratio(model, images, START) + 0.001
    found = calibrate(model, START, budget, images, PLAIN)
    assert found == pytest.approx(START)


@pytest.mark.parametrize(("budget", "end"), [(0.06, 4.0), (0.999, -4.0)])
def test_budget_out_of_reach_is_met_as_nearly_as_possible(
    model: LaudResNet, images: UInt8Array, budget: float, end: float
) -> None:
    start = [value + end for value in START]
    found = calibrate(model, start, budget, images, PLAIN)
    farthest = ratio(model, images, [value + end for value in start])
    assert ratio(model, images, found) == pytest.approx(farthest, abs=0.002)


def test_one_large_unit_gives_the_nearer_of_what_it_can_do(images: UInt8Array) -> None:
    """A network with one decision has two costs; neither is within a hundredth of the budget."""
    torch.manual_seed(0)
    stage = Stage(depth=1, width=8, paradigm=Paradigm.LAYER)
    model = LaudResNet(ResNet(stem_width=4, stages=(stage,), num_classes=3, folded=True))
    on, off = (ratio(model, images, [t]) for t in (-1.0, 1.0))
    for budget, expected in ((0.9 * on + 0.1 * off, on), (0.1 * on + 0.9 * off, off)):
        for start in (-1.0, 1.0):
            found = calibrate(model, [start], budget, images, PLAIN)
            assert ratio(model, images, found) == expected


def test_work_is_bounded(
    model: LaudResNet, images: UInt8Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def never(*args: object) -> object:
        asked.append(0.0)
        return measure(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "measure", never)
    calibrate(model, START, 0.06, images, PLAIN)
    assert 5 < len(asked) < 20
