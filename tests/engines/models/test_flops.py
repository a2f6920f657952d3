"""Multiply-accumulates of a forward pass, from its masks.

That they equal the multiplications an oracle executes is tested in `test_masked_dense`.
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor

from engines.architecture import MapSize, ResNet, Stage
from engines.core import Paradigm
from engines.macs import all_block_macs, static_macs
from engines.models.flops import block_rates, network_macs
from engines.models.masks import Thresholds
from engines.models.resnet import LaudResNet
from tests.engines.models.networks import noise, random_network

pytestmark = pytest.mark.torch

INFINITY = float("inf")
SIZE = MapSize(32, 32)
NET = ResNet(
    stem_width=8,
    stages=(
        Stage(depth=1, width=4),
        Stage(
            depth=1,
            width=8,
            paradigm=Paradigm.SPATIAL_CHANNEL,
            spatial_granularity=2,
            channel_granularity=2,
        ),
    ),
    num_classes=3,
)


def float32_network(net: ResNet = NET) -> LaudResNet:
    return random_network(net).float()


def at(*thresholds: float) -> Thresholds:
    """One row an image: its space and its channels at one threshold."""
    return Thresholds(torch.tensor([[t, t] for t in thresholds]))


def images(count: int) -> Tensor:
    return noise(count, 3, 32, 32).float()


def test_an_image_with_all_channels_and_one_with_none_cost_half_a_3x3_on_average() -> None:
    """Not a quarter, which is the square of the mean rate."""
    decide = Thresholds(torch.tensor([[-INFINITY, -INFINITY], [-INFINITY, INFINITY]]))
    with torch.no_grad():
        _, masks = float32_network()(images(2), decide)
    found = network_macs(NET, SIZE, masks, evaluated=torch.zeros(2, 2))
    block = all_block_macs(NET, SIZE)[1]
    assert found.tolist() == [static_macs(NET, SIZE), static_macs(NET, SIZE) - block.skippable]
    assert float(found.mean()) == static_macs(NET, SIZE) - block.skippable / 2
    [_, rates] = block_rates(NET, masks)
    assert float((rates.channel**2).mean()) == 0.5


def test_without_masks_it_is_the_static_count_to_the_last_one() -> None:
    net = NET.model_copy(update={"num_classes": 10**7 + 1})
    assert static_macs(net, SIZE) > 2**24
    found = network_macs(net, SIZE, [])
    assert found.dtype == torch.float64
    assert int(found) == static_macs(net, SIZE)


def test_counts_of_a_float32_network_are_not_rounded() -> None:
    """33 rows of 3 patches each would be thirds in float32."""
    size = MapSize(264, 24)
    with torch.no_grad():
        _, masks = float32_network()(noise(1, 3, 264, 24).float(), at(0.0))
    found = network_macs(NET, size, masks)
    assert found.dtype == torch.float64
    assert float(found) == pytest.approx(round(float(found)), abs=1e-6)


def test_only_maskers_that_a_point_asks_are_counted() -> None:
    with torch.no_grad():
        _, masks = float32_network()(images(4), at(*[-INFINITY] * 4))
    asked = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    block = all_block_macs(NET, SIZE)[1]
    extra = network_macs(NET, SIZE, masks, asked) - static_macs(NET, SIZE)
    space, channels = block.spatial_masker, block.channel_masker
    assert extra.tolist() == [0, space, channels, space + channels]
    assert torch.equal(
        network_macs(NET, SIZE, masks), network_macs(NET, SIZE, masks, asked[[3] * 4])
    )


def test_a_lower_threshold_never_costs_less() -> None:
    model = float32_network()
    thresholds = [INFINITY, *(step / 10 for step in range(30, -20, -1)), -INFINITY]
    with torch.no_grad():
        _, masks = model(images(1).expand(len(thresholds), -1, -1, -1), at(*thresholds))
    costs = network_macs(NET, SIZE, masks).tolist()
    assert costs == sorted(costs)
    assert len(set(costs)) > 3, "the thresholds of this test decide nothing"


def test_gradients_reach_the_decisions_in_float32() -> None:
    """Each unit costs its share of the branch; a channel costs the inner convolution twice."""
    units: dict[int, Tensor] = {}

    def decide(masker: int, logits: Tensor) -> Tensor:
        units[masker] = torch.ones_like(logits).requires_grad_()
        return units[masker]

    _, masks = float32_network()(images(1), decide)
    found = network_macs(NET, SIZE, masks)
    assert found.dtype == torch.float32
    space, channels = torch.autograd.grad(found.sum(), [units[0], units[1]])
    block = all_block_macs(NET, SIZE)[1]
    assert float(channels.sum()) == pytest.approx(block.conv1 + 2 * block.conv2 + block.conv3)
    assert (space > 0).all()
