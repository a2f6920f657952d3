"""The RegNet itself: names, first weights, folding, and what squeeze-and-excitation looks at."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F
from torch import Tensor, nn

from engines.architecture import RegNet, RegNetStage, ResNet, Stage
from engines.core import Paradigm
from engines.errors import InvalidInput
from engines.models import LaudRegNet, LaudResNet, fold_batchnorm, network_of
from engines.models.bottleneck import SqueezeExcitation
from engines.models.names import regnet_name
from tests.engines.models.networks import noise, random_network

pytestmark = pytest.mark.torch

JOINT = RegNetStage(
    depth=2,
    width=8,
    group_width=2,
    paradigm=Paradigm.SPATIAL_CHANNEL,
    spatial_granularity=2,
    channel_granularity=4,
)
NET = RegNet(
    stem_width=8,
    stages=(JOINT, RegNetStage(depth=1, width=12, group_width=4, paradigm=Paradigm.LAYER)),
    num_classes=3,
)


def test_parameters_are_a_resnets_with_squeeze() -> None:
    names = set(LaudRegNet(NET).state_dict())
    norm = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    block = {f"conv{i}.weight" for i in (1, 2, 3)} | {f"bn{i}.{n}" for i in (1, 2, 3) for n in norm}
    block |= {f"se.fc{i}.{part}" for i in (1, 2) for part in ("weight", "bias")}
    assert {name for name in names if name.startswith("layer1.1.") and "masker" not in name} == {
        f"layer1.1.{name}" for name in block
    }


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("conv1.weight", "stem.0.weight"),
        ("bn1.running_var", "stem.1.running_var"),
        ("fc.bias", "fc.bias"),
        ("layer1.0.conv1.weight", "trunk_output.block1.block1-0.f.a.0.weight"),
        ("layer2.11.bn2.bias", "trunk_output.block2.block2-11.f.b.1.bias"),
        ("layer3.2.se.fc1.weight", "trunk_output.block3.block3-2.f.se.fc1.weight"),
        ("layer4.0.conv3.weight", "trunk_output.block4.block4-0.f.c.0.weight"),
        ("layer4.0.downsample.1.weight", "trunk_output.block4.block4-0.proj.1.weight"),
        (
            "layer1.0.masker_channel.conv.2.bias",
            "trunk_output.block1.block1-0.f.masker_channel.conv.2.bias",
        ),
    ],
)
def test_names_in_other_peoples_checkpoints(ours: str, theirs: str) -> None:
    assert regnet_name(ours) == theirs


def test_an_architecture_has_its_familys_network() -> None:
    assert isinstance(network_of(NET), LaudRegNet)
    resnet = ResNet(stem_width=4, stages=(Stage(depth=1, width=4),), num_classes=2)
    assert isinstance(network_of(resnet), LaudResNet)


def test_an_untrained_network_skips_nothing() -> None:
    model = LaudRegNet(NET).eval()
    x = noise(2, 3, 40, 33).float()
    with torch.no_grad():
        (logits, masks), (static, none) = model(x), model(x, None)
    assert len(masks) == len(NET.maskers) == 5
    assert all(bool((mask.units == 1).all()) for mask in masks)
    # A mean over all pixels as if they were chosen is summed in another order.
    torch.testing.assert_close(logits, static)
    assert none == []


def test_features_are_what_the_classifier_gets() -> None:
    model = random_network(NET)
    x = noise(2, 3, 32, 32)
    with torch.no_grad():
        features, _ = model.features(x, None)
        assert features.shape == (2, NET.num_features)
        torch.testing.assert_close(model.fc(features), model(x, None)[0])


def test_first_weights_are_kaimings_by_outputs_as_torchvisions() -> None:
    """Groups do not change what is counted: kernel pixels times output channels."""
    torch.manual_seed(0)
    stage = RegNetStage(depth=4, width=64, group_width=8)
    model = LaudRegNet(RegNet(stages=(stage,), num_classes=2))
    spread = torch.cat([block.conv2.weight.flatten() for block in model.bottlenecks()]).std()
    assert float(spread.detach()) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.1)


# Squeeze-and-excitation


def excitation() -> SqueezeExcitation:
    torch.manual_seed(0)
    return SqueezeExcitation(4, 2).double()


def test_the_whole_map_is_torchvisions() -> None:
    misc = pytest.importorskip("torchvision.ops.misc")
    ours, theirs = excitation(), misc.SqueezeExcitation(4, 2).double()
    theirs.load_state_dict(ours.state_dict())
    y = noise(3, 4, 5, 7)
    torch.testing.assert_close(ours(y, None), theirs(y))


def test_skipped_pixels_do_not_enter_the_mean() -> None:
    ours, y = excitation(), noise(1, 4, 6, 6)
    pixels = torch.zeros(1, 1, 6, 6, dtype=torch.float64)
    pixels[..., :3, :2] = 1
    seen = ours(y, pixels)[..., :3, :2]
    torch.testing.assert_close(seen, ours(y[..., :3, :2], None))
    other = torch.where(pixels.bool(), y, 1e6)
    torch.testing.assert_close(ours(other, pixels)[..., :3, :2], seen)


def test_an_image_without_an_active_pixel_gives_numbers_and_gradients() -> None:
    y = noise(2, 4, 3, 3).requires_grad_()
    pixels = torch.zeros(2, 1, 3, 3, dtype=torch.float64)
    pixels[1] = 1
    out = excitation()(y, pixels)
    (out * pixels).sum().backward()
    assert y.grad is not None
    assert torch.isfinite(out).all()
    assert torch.isfinite(y.grad).all()
    assert not y.grad[0].any()


def test_gradients_reach_the_decisions_through_the_mean() -> None:
    """A pixel also matters to its neighbours, whose mean it moves."""
    ours, y = excitation(), noise(1, 4, 4, 4)
    pixels = torch.ones(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    ours(y, pixels)[..., 0, 0].sum().backward()
    assert pixels.grad is not None
    assert pixels.grad[0, 0, 3, 3] != 0


def test_over_the_map_it_sees_what_is_skipped() -> None:
    """The same weights and masks: only the mean differs, and not where a block is whole."""
    model = random_network(NET)
    other = LaudRegNet(NET.model_copy(update={"squeeze_over": "map"})).double().eval()
    other.load_state_dict(model.state_dict())
    x = noise(2, 3, 33, 33)
    with torch.no_grad():
        (logits, masks), (over_map, _) = model(x), other(x)
        torch.testing.assert_close(model(x, None)[0], other(x, None)[0])
    assert any(0 < float(mask.rate.mean()) < 1 for mask in masks if mask.kind == "spatial")
    assert not torch.allclose(logits, over_map)


# Folding and the official layout


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-12)])
@pytest.mark.parametrize("official", [False, True], ids=["ours", "official"])
def test_folding_changes_no_answer(dtype: Any, tolerance: float, official: bool) -> None:
    """Nor in the official layout: a RegNet's channels are masked after ReLU there too."""
    net = NET.model_copy(update={"official_layout": official})
    model = random_network(net).to(dtype)
    folded = fold_batchnorm(model)
    assert isinstance(folded, LaudRegNet)
    assert folded.net == net.model_copy(update={"folded": True})
    x = noise(2, 3, 33, 40).to(dtype)
    with torch.no_grad():
        (logits, masks), (same, others) = model(x), folded(x)
    torch.testing.assert_close(logits, same, rtol=tolerance, atol=tolerance)
    for mask, other in zip(masks, others, strict=True):
        assert torch.equal(mask.units, other.units)


def test_a_resnet_in_the_official_layout_is_still_not_folded() -> None:
    net = ResNet(stages=(Stage(depth=1, width=4),), num_classes=2, official_layout=True)
    with pytest.raises(InvalidInput, match="cannot be folded"):
        fold_batchnorm(LaudResNet(net))


def normed(state: dict[str, Tensor], name: str, y: Tensor) -> Tensor:
    """Batch norm in eval mode."""
    mean, variance, weight, bias = (
        state[f"{name}.{of}"] for of in ("running_mean", "running_var", "weight", "bias")
    )
    return F.batch_norm(y, mean, variance, weight, bias, eps=1e-5)


def restated(state: dict[str, Tensor], name: str, x: Tensor, stride: int, groups: int) -> Tensor:
    """A spatial+channel block of the official RegNet, from its description: convolutions dense,
    channels masked behind each ReLU, squeeze-and-excitation over everything, pixels at the end."""

    def conv_bn(y: Tensor, part: str, **options: Any) -> Tensor:
        conv, bn = f"{name}.conv{part}", f"{name}.bn{part}"
        y = F.conv2d(y, state[f"{conv}.weight"], **options)
        return normed(state, bn, y)

    masker = f"{name}.masker_channel.conv"
    hidden = F.linear(x.mean((2, 3)), state[f"{masker}.0.weight"], state[f"{masker}.0.bias"])
    logits = F.linear(F.relu(hidden), state[f"{masker}.2.weight"], state[f"{masker}.2.bias"])
    on, off = logits.chunk(2, dim=1)
    channel = (on >= off).to(x).repeat_interleave(4, dim=1)[:, :, None, None]
    size = -(-x.shape[2] // stride)
    masker = f"{name}.masker_spatial.conv"
    pooled = F.adaptive_avg_pool2d(x, size // 2)
    two = F.conv2d(pooled, state[f"{masker}.weight"], state[f"{masker}.bias"])
    spatial = F.interpolate((two[:, :1] >= two[:, 1:]).to(x), size=(size, size))
    y = F.relu(conv_bn(x, "1")) * channel
    y = F.relu(conv_bn(y, "2", stride=stride, padding=1, groups=groups)) * channel
    scale = F.conv2d(
        y.mean((2, 3), keepdim=True), state[f"{name}.se.fc1.weight"], state[f"{name}.se.fc1.bias"]
    )
    scale = F.conv2d(F.relu(scale), state[f"{name}.se.fc2.weight"], state[f"{name}.se.fc2.bias"])
    y = conv_bn(y * torch.sigmoid(scale), "3") * spatial
    down = f"{name}.downsample"
    if f"{down}.0.weight" in state:
        x = F.conv2d(x, state[f"{down}.0.weight"], stride=stride)
        x = normed(state, f"{down}.1", x)
    return F.relu(x + y)


def test_the_official_network_restated() -> None:
    stages = (JOINT, JOINT)
    net = RegNet(
        stem_width=8, stages=stages, num_classes=3, official_layout=True, squeeze_over="map"
    )
    model = random_network(net)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if "masker_" in name:
                value.normal_(generator=torch.Generator().manual_seed(len(name)))
    state = model.state_dict()
    x = noise(4, 3, 64, 64)
    with torch.no_grad():
        logits, masks = model(x)
        y = model.stem(x)
        for block in net.blocks:
            y = restated(state, block.name, y, block.stride, block.conv_groups)
        expected = F.linear(y.mean((2, 3)), state["fc.weight"], state["fc.bias"])
    torch.testing.assert_close(logits, expected)
    for kind in ("spatial", "channel"):
        rates = torch.stack([mask.rate for mask in masks if mask.kind == kind])
        assert 0 < float(rates.mean()) < 1, f"the {kind} masks of this test decide nothing"


def test_the_static_network_asks_no_masker() -> None:
    model = LaudRegNet(NET).eval()
    for block in model.bottlenecks():
        for name in ("masker_spatial", "masker_channel"):
            if hasattr(block, name):
                setattr(block, name, nn.Identity())
    logits, masks = model(torch.zeros(1, 3, 32, 32), None)
    assert (logits.shape, masks) == ((1, 3), [])
