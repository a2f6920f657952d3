"""What maskers see of a block's input, where they start, and what they leave alone."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from engines.architecture import Block, MapSize
from engines.core import Granularity, Paradigm
from engines.models.maskers import CLIP, ChannelMasker, SpatialMasker, pool_patches
from tests.engines.models.networks import noise

pytestmark = pytest.mark.torch


def block(
    *, patch: int | None = 2, group: int = 2, stride: int = 1, channels: int = 16, width: int = 8
) -> Block:
    return Block(
        stage=0,
        index=0,
        in_channels=channels,
        width=width,
        out_channels=32,
        stride=stride,
        paradigm=Paradigm.SPATIAL_CHANNEL,
        granularity=Granularity(patch, group),
    )


def test_pooling_averages_what_a_window_covers() -> None:
    x = torch.arange(15.0).reshape(1, 1, 3, 5)
    assert pool_patches(x, 2).tolist() == [[[3.0], [5.0], [6.5], [10.5], [12.5], [14.0]]]
    assert pool_patches(x, 1).flatten().tolist() == x.flatten().tolist()
    assert pool_patches(x, 9).tolist() == pool_patches(x, None).tolist() == [[[7.0]]]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("patch", [1, 2, 3, 5, None])
def test_one_logit_for_every_patch_of_the_output(patch: int | None, stride: int) -> None:
    masker = SpatialMasker(block(patch=patch, stride=stride))
    for height in range(1, 14):
        for width in (1, 6, 7):
            size = MapSize(-(-height // stride), -(-width // stride))
            logits = masker(torch.zeros(2, 16, height, width), size)
            assert logits.shape == (2, size.patches(patch).area)


def test_one_logit_for_every_group() -> None:
    masker = ChannelMasker(block(group=2, width=8))
    assert masker(torch.zeros(3, 16, 5, 4), MapSize(5, 4)).shape == (3, 4)


def test_untrained_maskers_say_zero_and_so_leave_all_active() -> None:
    x = noise(2, 16, 6, 6).float()
    for masker in (SpatialMasker(block()), ChannelMasker(block())):
        assert not masker(x, MapSize(6, 6)).any()


def test_inputs_are_standardised_and_clipped() -> None:
    masker = SpatialMasker(block(patch=None, channels=4))
    with torch.no_grad():
        masker.weight.copy_(torch.tensor([1.0, 1.0, 1.0, 0.0]))
        masker.mean.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
        masker.std.copy_(torch.tensor([2.0, 1.0, 1.0, 1.0]))
    x = torch.tensor([5.0, 1e9, -1e9, 1e9])[None, :, None, None].expand(1, 4, 3, 3)
    # (5 - 1) / 2, then the upper and the lower limit, by the root of four channels.
    assert masker(x, MapSize(3, 3)).tolist() == [[(2.0 + CLIP - CLIP) / 2]]


def test_a_logit_does_not_grow_with_the_number_of_channels() -> None:
    spread = []
    for channels in (16, 4096):
        masker = SpatialMasker(block(patch=1, channels=channels))
        x = torch.randn(1, channels, 30, 30, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            masker.weight.fill_(1.0)
            logits = masker(x, MapSize(30, 30))
        spread.append(float(logits.std()))
    assert spread == pytest.approx([1.0, 1.0], abs=0.1)


def test_no_gradient_reaches_the_trunk() -> None:
    x = noise(2, 16, 6, 6).float().requires_grad_()
    for masker in (SpatialMasker(block()), ChannelMasker(block())):
        with torch.no_grad():
            for parameter in masker.parameters():
                parameter.fill_(0.1)
        masker(x, MapSize(6, 6)).sum().backward()
        assert x.grad is None
        assert all(parameter.grad is not None for parameter in masker.parameters())


def test_statistics_are_kept_with_the_weights_but_not_trained() -> None:
    masker = SpatialMasker(block())
    assert set(masker.state_dict()) == {"weight", "mean", "std"}
    assert [name for name, _ in masker.named_parameters()] == ["weight"]
