"""The official layout, restated here from its description and compared block by block."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F
from torch import Tensor

from engines.architecture import ResNet, Stage
from engines.core import Paradigm
from engines.errors import InvalidInput
from engines.models.resnet import LaudResNet, fold_batchnorm

pytestmark = pytest.mark.torch


def official(paradigm: Paradigm) -> LaudResNet:
    """Two stages of two blocks with random weights and running statistics."""
    spatial = 2 if paradigm in (Paradigm.SPATIAL, Paradigm.SPATIAL_CHANNEL) else None
    channel = 2 if paradigm.masks_channels else None
    stages = tuple(
        Stage(
            depth=2,
            width=width,
            paradigm=paradigm,
            spatial_granularity=spatial,
            channel_granularity=channel,
        )
        for width in (4, 8)
    )
    torch.manual_seed(0)
    model = LaudResNet(
        ResNet(stem_width=6, stages=stages, num_classes=5, official_layout=True)
    ).eval()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_mean") or ("bn" in name and name.endswith("bias")):
                value.normal_(0, 0.5)
            if name.endswith("running_var"):
                value.uniform_(0.5, 2.0)
            if "masker" in name:
                value.normal_(0, 1.0)
    return model


def restated(state: dict[str, Tensor], name: str, x: Tensor, stride: int, paradigm: str) -> Tensor:
    """One block of the official code: convolutions dense, masks multiplied in their odd places."""

    def bn(y: Tensor, which: str) -> Tensor:
        p = f"{name}.{which}"
        return F.batch_norm(
            y, state[f"{p}.running_mean"], state[f"{p}.running_var"],
            state[f"{p}.weight"], state[f"{p}.bias"], eps=1e-5,
        )  # fmt: skip

    size = -(-x.shape[2] // stride)
    channel: Tensor | float = 1.0
    spatial: Tensor | float = 1.0
    if paradigm in ("channel", "spatial+channel"):
        p = f"{name}.masker_channel.conv"
        hidden = F.relu(F.linear(x.mean((2, 3)), state[f"{p}.0.weight"], state[f"{p}.0.bias"]))
        logits = F.linear(hidden, state[f"{p}.2.weight"], state[f"{p}.2.bias"])
        groups = logits.shape[1] // 2
        on, off = logits[:, :groups], logits[:, groups:]
        channel = (on >= off).float().repeat_interleave(2, dim=1)[:, :, None, None]
    if paradigm != "channel":
        grid = 1 if paradigm == "layer" else size // 2
        p = f"{name}.masker_spatial.conv"
        pooled = F.adaptive_avg_pool2d(x, grid) if grid < x.shape[2] else x
        two = F.conv2d(pooled, state[f"{p}.weight"], state[f"{p}.bias"])
        spatial = F.interpolate((two[:, :1] >= two[:, 1:]).float(), size=(size, size))
    y = F.relu(bn(F.conv2d(x, state[f"{name}.conv1.weight"]) * channel, "bn1"))
    y = F.conv2d(y, state[f"{name}.conv2.weight"], stride=stride, padding=1)
    y = F.relu(bn(y * channel, "bn2"))
    y = bn(F.conv2d(y, state[f"{name}.conv3.weight"]), "bn3") * spatial
    down = f"{name}.downsample.0.weight"
    shortcut = bn(F.conv2d(x, state[down], stride=stride), "downsample.1") if down in state else x
    return F.relu(shortcut + y)


@pytest.mark.parametrize("paradigm", list(Paradigm)[1:])
def test_the_network_is_the_official_one(paradigm: Paradigm) -> None:
    model = official(paradigm)
    state = model.state_dict()
    x = torch.randn(4, 3, 48, 48)
    with torch.no_grad():
        logits, masks = model(x)
        y = model.stem(x)
        for block in model.net.blocks:
            y = restated(state, block.name, y, block.stride, paradigm.value)
        expected = F.linear(y.mean((2, 3)), state["fc.weight"], state["fc.bias"])
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    rates = torch.stack([mask.rate for mask in masks])
    assert 0 < float(rates.mean()) < 1, "the masks of this test decide nothing"


def test_a_skipped_channel_becomes_a_constant_not_zero() -> None:
    model = official(Paradigm.CHANNEL)
    block = model.bottlenecks()[0]
    x = torch.relu(torch.randn(1, 6, 8, 8))
    seen: list[Tensor] = []
    block.conv2.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        block(x, lambda _masker, logits: torch.zeros_like(logits))
    gamma, beta, mean, variance = (
        model.state_dict()[f"layer1.0.bn1.{part}"]
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    constant = torch.relu(beta - gamma * mean / torch.sqrt(variance + 1e-5))
    assert float(constant.abs().max()) > 0
    expected = constant[None, :, None, None].expand_as(seen[0])
    torch.testing.assert_close(seen[0], expected)


def test_equal_logits_are_active() -> None:
    model = official(Paradigm.SPATIAL_CHANNEL)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if "masker" in name:
                value.zero_()
        _, masks = model(torch.randn(2, 3, 32, 32))
    assert all(bool((mask.units == 1).all()) for mask in masks)


def test_initial_biases_skip_one_as_the_official_code_does() -> None:
    stages = (
        Stage(
            depth=1,
            width=8,
            paradigm=Paradigm.SPATIAL_CHANNEL,
            spatial_granularity=2,
            channel_granularity=2,
        ),
    )
    torch.manual_seed(1)
    model = LaudResNet(ResNet(stem_width=16, stages=stages, num_classes=2, official_layout=True))
    state = model.state_dict()
    spatial = state["layer1.0.masker_spatial.conv.bias"]
    assert float(spatial[0]) == 5.0
    assert 0 < abs(float(spatial[1])) <= 1 / 16**0.5
    channel = state["layer1.0.masker_channel.conv.2.bias"]
    assert channel[:4].tolist() == [2.0] * 4
    assert channel[5:].tolist() == [-2.0] * 3
    assert 0 < abs(float(channel[4])) <= 1 / 16**0.5


def test_it_cannot_be_folded() -> None:
    with pytest.raises(InvalidInput, match="cannot be folded"):
        fold_batchnorm(official(Paradigm.CHANNEL))
