"""The official layout, restated here from its description and compared block by block."""

from __future__ import annotations

from itertools import product

import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F
from torch import Tensor, nn

from engines.architecture import ResNet, Stage
from engines.core import Paradigm
from engines.errors import InvalidInput
from engines.models.masks import decide_at_zero
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


# The official code has no rule for maps that its patches do not divide: its grid is the integer
# quotient, pooled adaptively and spread by nearest neighbour. Both are written out here.


def pooled_adaptively(x: Tensor, rows: int, columns: int) -> Tensor:
    """Bin i covers the pixels from floor(i * H / rows) to before ceil((i + 1) * H / rows)."""
    height, width = x.shape[2:]
    out = x.new_zeros(*x.shape[:2], rows, columns)
    for i, j in product(range(rows), range(columns)):
        down = slice(i * height // rows, -(-(i + 1) * height // rows))
        right = slice(j * width // columns, -(-(j + 1) * width // columns))
        out[:, :, i, j] = x[:, :, down, right].mean((2, 3))
    return out


@pytest.mark.parametrize("size", [(37, 50), (33, 33), (9, 70)], ids=str)
@pytest.mark.parametrize("stage", [0, 1], ids=["without stride", "with stride"])
def test_patches_that_do_not_divide_the_map(size: tuple[int, int], stage: int) -> None:
    model = official(Paradigm.SPATIAL)
    block = model.bottlenecks()[2 * stage]
    name, stride = block.block.name, block.block.stride
    state = model.state_dict()
    x = torch.relu(torch.randn(3, block.block.in_channels, *size))
    out = [-(-side // stride) for side in size]
    rows, columns = (max(side // 2, 1) for side in out)
    weight, bias = (state[f"{name}.masker_spatial.conv.{part}"] for part in ("weight", "bias"))
    two = F.conv2d(pooled_adaptively(x, rows, columns), weight, bias)
    on = two[:, 0] >= two[:, 1]
    expected = torch.zeros(3, *out)
    for n, i, j in product(range(3), range(out[0]), range(out[1])):
        expected[n, i, j] = float(on[n, i * rows // out[0], j * columns // out[1]])
    with torch.no_grad():
        _, [mask] = block(x, decide_at_zero)
    assert mask.total == rows * columns
    assert torch.equal(mask.units.bool(), on.flatten(1))
    assert mask.pixels is not None
    torch.testing.assert_close(mask.pixels[:, 0], expected)
    assert 0 < float(mask.rate.mean()) < 1


def test_a_patch_larger_than_the_map_is_the_whole_map() -> None:
    block = official(Paradigm.SPATIAL).bottlenecks()[0]
    x = torch.randn(2, 6, 1, 5)
    _, [mask] = block(x, decide_at_zero)
    assert (mask.total, mask.units.shape) == (2, (2, 2)), "one row of two whole patches"


@pytest.mark.parametrize("paradigm", list(Paradigm)[1:])
def test_the_projection_always_runs(paradigm: Paradigm) -> None:
    """With every unit off, space leaves the bare shortcut; channels leave constants."""
    model = official(paradigm)
    block, state = model.bottlenecks()[2], model.state_dict()
    assert block.block.stride == 2
    x = torch.relu(torch.randn(2, 16, 9, 12))
    with torch.no_grad():
        y, _ = block(x, lambda _masker, logits: torch.zeros_like(logits))
        shortcut = F.batch_norm(
            F.conv2d(x, state["layer2.0.downsample.0.weight"], stride=2),
            *(
                state[f"layer2.0.downsample.1.{part}"]
                for part in ("running_mean", "running_var", "weight", "bias")
            ),
        )
    bare = torch.allclose(y, F.relu(shortcut), atol=1e-5)
    assert bare is (paradigm is not Paradigm.CHANNEL)


def test_the_last_layer_gives_all_on_logits_and_then_all_off() -> None:
    """Four groups: element k turns group k on, element 4 + k turns it off."""
    model = official(Paradigm.CHANNEL)
    block = model.bottlenecks()[2]
    last = model.get_submodule("layer2.0.masker_channel.conv.2")
    assert isinstance(last, nn.Linear)
    assert last.out_features == 8
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([3.0, 1.0, 2.0, 0.0, 1.0, 1.5, 2.0, -1.0]))
        _, [mask] = block(torch.randn(1, 16, 6, 6), decide_at_zero)
    assert mask.logits[0].tolist() == [2.0, -0.5, 0.0, 1.0]
    assert mask.units[0].tolist() == [1.0, 0.0, 1.0, 1.0]


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
