"""The network itself: names, order of masks, static form, first weights and folding."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn

from engines.architecture import ResNet, Stage
from engines.core import Paradigm
from engines.errors import InvalidInput
from engines.models import LaudResNet, fold_batchnorm
from tests.engines.models.networks import noise, random_network

pytestmark = pytest.mark.torch

JOINT = Stage(
    depth=1,
    width=4,
    paradigm=Paradigm.SPATIAL_CHANNEL,
    spatial_granularity=2,
    channel_granularity=2,
)
NET = ResNet(
    stem_width=8,
    stages=(
        JOINT,
        Stage(depth=1, width=4),
        Stage(depth=2, width=4, paradigm=Paradigm.CHANNEL, channel_granularity=4),
        Stage(depth=1, width=4, paradigm=Paradigm.LAYER),
    ),
    num_classes=3,
)


def test_parameters_have_torchvisions_names() -> None:
    names = set(LaudResNet(NET).state_dict())
    norm = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    block = {f"conv{i}.weight" for i in (1, 2, 3)} | {f"bn{i}.{n}" for i in (1, 2, 3) for n in norm}
    shortcut = {"downsample.0.weight"} | {f"downsample.1.{name}" for name in norm}
    assert {name for name in names if name.startswith("layer2.")} == {
        f"layer2.0.{name}" for name in block | shortcut
    }
    stem = {"conv1.weight", "fc.weight", "fc.bias"} | {f"bn1.{name}" for name in norm}
    assert {name for name in names if not name.startswith("layer")} == stem


def test_a_folded_network_has_biases_instead_of_batch_norm() -> None:
    model = LaudResNet(NET.model_copy(update={"folded": True}))
    names = set(model.state_dict())
    assert not {name for name in names if "bn" in name or "running" in name}
    assert {"conv1.bias", "layer1.0.conv2.bias", "layer1.0.downsample.0.bias"} <= names


def test_masks_come_in_the_order_of_the_maskers() -> None:
    _, masks = LaudResNet(NET)(torch.zeros(2, 3, 40, 40))
    assert [(mask.masker, mask.block, mask.kind) for mask in masks] == [
        (i, masker.block, masker.kind) for i, masker in enumerate(NET.maskers)
    ]
    assert [tuple(mask.units.shape) for mask in masks] == [(2, 25), (2, 2), (2, 1), (2, 1), (2, 1)]
    assert [mask.pixels is not None for mask in masks] == [m.kind == "spatial" for m in NET.maskers]


def test_an_untrained_network_skips_nothing() -> None:
    model = LaudResNet(NET).eval()
    x = noise(2, 3, 40, 33).float()
    with torch.no_grad():
        (logits, masks), (static, none) = model(x), model(x, None)
    assert all(bool((mask.units == 1).all()) for mask in masks)
    assert torch.equal(logits, static)
    assert none == []


def test_the_static_network_asks_no_masker() -> None:
    model = LaudResNet(NET).eval()
    for block in model.bottlenecks():
        for name in ("masker_spatial", "masker_channel"):
            if hasattr(block, name):
                setattr(block, name, nn.Identity())
    logits, masks = model(torch.zeros(1, 3, 32, 32), None)
    assert (logits.shape, masks) == ((1, 3), [])


def test_features_are_what_the_classifier_gets() -> None:
    model = random_network(NET)
    x = noise(2, 3, 32, 32)
    with torch.no_grad():
        features, masks = model.features(x, None)
        assert features.shape == (2, NET.num_features)
        assert masks == []
        torch.testing.assert_close(model.fc(features), model(x, None)[0])


@pytest.mark.parametrize(("pool", "first"), [("padded", 5.0), ("trailing", 6.0)])
def test_where_the_max_pool_looks(pool: str, first: float) -> None:
    """Padded, its first window is rows 0 and 1; trailing, it is rows 0 to 2."""
    net = ResNet.model_validate(
        {"stem_width": 1, "stages": [{"depth": 1, "width": 1}], "num_classes": 2}
        | {"stem_pool": pool, "folded": True}
    )
    model = LaudResNet(net)
    with torch.no_grad():
        for value in (model.conv1.weight, model.state_dict()["conv1.bias"]):
            value.zero_()
        model.conv1.weight[0, 0, 3, 3] = 1.0
        x = torch.zeros(1, 3, 8, 8)
        # Rows and columns 0, 2, 4 and 6 are what the strided convolution sees.
        x[0, 0, 2, 2], x[0, 0, 4, 4] = 5.0, 6.0
        pooled = model.stem(x)
    assert pooled.shape == (1, 1, 2, 2)
    assert float(pooled[0, 0, 0, 0]) == first


@pytest.mark.parametrize("width", [2, 8])
def test_first_weights_are_kaimings_whatever_the_width(width: int) -> None:
    torch.manual_seed(0)
    stage = Stage(depth=4, width=width)
    model = LaudResNet(ResNet(stem_width=width, stages=(stage,), num_classes=2, folded=True))
    for convolution in (m for m in model.modules() if isinstance(m, nn.Conv2d)):
        bias: Tensor | None = convolution.bias
        assert bias is not None
        assert not bias.any()
    spread = torch.cat([block.conv2.weight.flatten() for block in model.bottlenecks()]).std()
    assert float(spread.detach()) == pytest.approx((2 / (9 * width)) ** 0.5, rel=0.2)


# Folding


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-12)])
@pytest.mark.parametrize("stride_in_1x1", [False, True])
def test_folding_changes_no_answer(dtype: Any, tolerance: float, stride_in_1x1: bool) -> None:
    net = NET.model_copy(update={"stride_in_1x1": stride_in_1x1, "stem_pool": "trailing"})
    model = random_network(net).to(dtype)
    folded = fold_batchnorm(model)
    assert folded.net == net.model_copy(update={"folded": True})
    assert folded.fc.weight.dtype == dtype
    x = noise(2, 3, 33, 40).to(dtype)
    with torch.no_grad():
        (logits, masks), (other, others) = model(x), folded(x)
    torch.testing.assert_close(logits, other, rtol=tolerance, atol=tolerance)
    assert any(0 < float(mask.rate.mean()) < 1 for mask in masks), "nothing was decided"
    for mask, same in zip(masks, others, strict=True):
        assert torch.equal(mask.units, same.units)


@pytest.mark.parametrize("training", [True, False])
def test_folding_keeps_the_mode_and_the_original(training: bool) -> None:
    model = random_network(NET).train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded = fold_batchnorm(model)
    assert folded.training is training
    assert fold_batchnorm(folded) is folded
    with torch.no_grad():
        folded.fc.weight.zero_()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_official_layout_is_never_folded() -> None:
    net = NET.model_copy(update={"official_layout": True})
    with pytest.raises(InvalidInput, match="cannot be folded"):
        fold_batchnorm(LaudResNet(net))
    with pytest.raises(InvalidInput, match="not folded"):
        LaudResNet(net.model_copy(update={"folded": True}))
