"""What is measured on held-out images: accuracy, executed work and activation, at thresholds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch")

from engines.architecture import MapSize, ResNet, Stage
from engines.bundle import Preprocessing
from engines.core import Paradigm, UInt8Array
from engines.macs import all_block_macs, fixed_macs, static_macs
from engines.models.inputs import normalise
from engines.models.measuring import extract_features, measure
from engines.models.resnet import LaudResNet
from engines.training.statistics import prepare_maskers

pytestmark = pytest.mark.torch

PLAIN = Preprocessing(
    crop_ratio=1.0, channel_order="rgb", mean=(127.5, 127.5, 127.5), std=(60.0, 60.0, 60.0)
)
IMAGE = MapSize(32, 32)


@pytest.fixture
def model(pixels: UInt8Array) -> LaudResNet:
    """A network with every kind of masker, whose decisions depend on the image."""
    torch.manual_seed(1)
    stages = (
        Stage(depth=1, width=4, paradigm=Paradigm.SPATIAL, spatial_granularity=4),
        Stage(
            depth=1,
            width=8,
            paradigm=Paradigm.SPATIAL_CHANNEL,
            spatial_granularity=2,
            channel_granularity=2,
        ),
        Stage(depth=1, width=4, paradigm=Paradigm.LAYER),
    )
    model = LaudResNet(ResNet(stem_width=4, stages=stages, num_classes=3, folded=True))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "masker_" in name:
                value.normal_()
    prepare_maskers(model, normalise(pixels, PLAIN), scale=1.0)
    return model


@pytest.fixture
def pixels() -> UInt8Array:
    """More than one batch of 32."""
    return np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), np.uint8)


@pytest.fixture
def labels() -> npt.NDArray[np.int64]:
    return np.arange(40) % 3


def ratio_of_nothing(model: LaudResNet) -> float:
    """What is left without any residual branch: stem, projections, head, and asking maskers."""
    blocks = all_block_macs(model.net, IMAGE)
    left = sum(b.projection + b.spatial_masker + b.channel_masker for b in blocks)
    return (fixed_macs(model.net, IMAGE) + left) / static_macs(model.net, IMAGE)


def test_accuracy_is_the_share_of_right_answers(
    model: LaudResNet, pixels: UInt8Array, labels: npt.NDArray[np.int64]
) -> None:
    with torch.no_grad():
        expected = model(normalise(pixels, PLAIN), None)[0].argmax(dim=1).numpy()
    found = measure(model, pixels, labels, PLAIN)
    np.testing.assert_array_equal(found.predictions, expected)
    assert found.accuracy == pytest.approx((expected == labels).mean())
    assert measure(model, pixels, expected, PLAIN).accuracy == 1.0
    assert measure(model, pixels, (expected + 1) % 3, PLAIN).accuracy == 0.0


def test_without_thresholds_nothing_is_skipped_and_no_masker_asked(
    model: LaudResNet, pixels: UInt8Array, labels: npt.NDArray[np.int64]
) -> None:
    found = measure(model, pixels, labels, PLAIN)
    assert found.macs_ratio == 1.0
    assert found.rates.shape == (40, 0)


def test_high_thresholds_leave_nothing_active(
    model: LaudResNet, pixels: UInt8Array, labels: npt.NDArray[np.int64]
) -> None:
    found = measure(model, pixels, labels, PLAIN, torch.full((4,), 1e9))
    assert found.rates.shape == (40, 4)
    assert not found.rates.any()
    assert found.macs_ratio == pytest.approx(ratio_of_nothing(model))


def test_low_thresholds_leave_everything_active_and_count_the_maskers(
    model: LaudResNet, pixels: UInt8Array, labels: npt.NDArray[np.int64]
) -> None:
    found = measure(model, pixels, labels, PLAIN, torch.full((4,), -1e9))
    assert (found.rates == 1).all()
    maskers = sum(b.spatial_masker + b.channel_masker for b in all_block_macs(model.net, IMAGE))
    assert found.macs_ratio == pytest.approx(1 + maskers / static_macs(model.net, IMAGE))
    static = measure(model, pixels, labels, PLAIN)
    np.testing.assert_array_equal(found.predictions, static.predictions)


def test_each_masker_has_its_own_threshold(
    model: LaudResNet, pixels: UInt8Array, labels: npt.NDArray[np.int64]
) -> None:
    found = measure(model, pixels, labels, PLAIN, torch.tensor([1e9, 0.0, -1e9, 1e9]))
    assert found.rates[:, [0, 3]].max() == 0.0
    assert found.rates[:, 2].min() == 1.0
    assert 0.0 < found.rates[:, 1].mean() < 1.0
    assert ratio_of_nothing(model) < found.macs_ratio < 1.0


def test_ratio_falls_as_thresholds_rise(
    model: LaudResNet, pixels: UInt8Array, labels: npt.NDArray[np.int64]
) -> None:
    ratios = [
        measure(model, pixels, labels, PLAIN, torch.full((4,), t)).macs_ratio
        for t in (-2.0, -0.5, 0.0, 0.5, 2.0)
    ]
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[0] - ratios[-1] > 0.1


def test_result_does_not_depend_on_how_images_are_batched(
    model: LaudResNet, pixels: UInt8Array, labels: npt.NDArray[np.int64]
) -> None:
    thresholds = torch.zeros(4)
    whole = measure(model, pixels, labels, PLAIN, thresholds)
    parts = [
        measure(model, pixels[i : i + 10], labels[i : i + 10], PLAIN, thresholds)
        for i in range(0, 40, 10)
    ]
    np.testing.assert_array_equal(whole.rates, np.concatenate([part.rates for part in parts]))
    assert whole.macs_ratio == pytest.approx(np.mean([part.macs_ratio for part in parts]))


@pytest.mark.parametrize("training", [True, False])
def test_mode_of_the_network_is_kept(
    model: LaudResNet, pixels: UInt8Array, labels: npt.NDArray[np.int64], training: bool
) -> None:
    model.train(training)
    measure(model, pixels, labels, PLAIN)
    assert model.training is training


def test_features_are_those_that_enter_the_head(model: LaudResNet, pixels: UInt8Array) -> None:
    features = extract_features(model, pixels, PLAIN)
    assert features.shape == (40, model.net.num_features)
    with torch.no_grad():
        expected = model(normalise(pixels, PLAIN), None)[0]
        torch.testing.assert_close(model.fc(features), expected, atol=1e-4, rtol=1e-4)
