"""Cost that follows difficulty: ranks, shares, and what the dynamic phase makes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor

from engines.architecture import MapSize
from engines.macs import static_macs
from engines.models.flops import network_macs
from engines.models.maskers import ChannelMasker
from engines.models.resnet import LaudResNet
from engines.training import phases
from engines.training.budgets import SampledMasks
from engines.training.config import TrainConfig
from engines.training.difficulty import difficulty_ranks, nest_channel_masks, spread_targets
from engines.training.phases import DynamicTraining
from engines.training.starts import starting_network
from engines.training.statistics import prepare_maskers

pytestmark = pytest.mark.torch


@pytest.fixture
def configure(content: Callable[[], dict[str, Any]]) -> Callable[..., TrainConfig]:
    """The tiny training without dropout, with values of its dynamic phase replaced."""

    def make(**dynamic: Any) -> TrainConfig:
        made = content()
        made["dynamic"] = {**made["dynamic"], "size_shares": {}, "budgets": [0.6], **dynamic}
        return TrainConfig.model_validate({**made, "dropout": 0.0})

    return make


@pytest.fixture
def model(configure: Callable[..., TrainConfig]) -> LaudResNet:
    return starting_network(configure(), 3)


@pytest.fixture
def x() -> Tensor:
    images: Tensor = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return images


def loss_of(phase: DynamicTraining, x: Tensor) -> Tensor:
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    return phase.loss(x, labels, 1.0, np.random.default_rng(0))[0]


# Difficult images may cost more


def test_images_are_ranked_by_the_confidence_of_the_teacher() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.1, 0.0], [0.0, 9.0]])
    assert difficulty_ranks(logits).tolist() == [0.5, 1.0, 0.0]
    assert difficulty_ranks(logits[:1]).tolist() == [0.0]


@pytest.mark.parametrize("target", [0.4, 0.65, 0.9, 1.0])
def test_ranks_move_costs_around_the_target_and_never_above_everything(target: float) -> None:
    ranks = torch.linspace(0, 1, 10_001)
    wanted = spread_targets(torch.full_like(ranks, target), ranks, 0.2)
    assert float(wanted.mean()) == pytest.approx(target, abs=1e-3)
    assert bool((wanted.diff() >= 0).all())
    assert float(wanted.max()) <= 1.0 + 1e-6
    reach = min(0.2, (1 - target) / 2)
    assert float(wanted.min()) == pytest.approx(target - reach)
    assert float(wanted.max()) == pytest.approx(target + 2 * reach)


@pytest.mark.parametrize("target", [0.2, 0.3, 0.45])
def test_no_image_is_asked_for_less_than_can_be_skipped(target: float) -> None:
    ranks = torch.linspace(0, 1, 10_001)
    wanted = spread_targets(torch.full_like(ranks, target), ranks, 0.3, fixed=0.2)
    assert float(wanted.mean()) == pytest.approx(target, abs=1e-3)
    assert float(wanted.min()) >= 0.2 - 1e-6


def test_difficulty_pulls_the_cost_of_each_image_to_its_rank(
    configure: Callable[..., TrainConfig], model: LaudResNet, x: Tensor
) -> None:
    """What the term adds is the mean square of each masked image's distance from its share."""
    free, asked = (
        configure(full_share=0.25, noise=0.0, difficulty_spread=s, macs_weight=0.0)
        for s in (0.0, 0.2)
    )
    priors = prepare_maskers(model, x, free.dynamic.prior_scale)
    without = DynamicTraining(model, free, free.dynamic, priors)
    having = DynamicTraining(model, asked, asked.dynamic, priors)
    with torch.no_grad():
        taught, _ = having.teacher(x, None)
    rng = np.random.default_rng(0)
    having._draw_size(rng)
    budget = having._deal(len(x), rng)
    added = float((loss_of(having, x) - loss_of(without, x)).detach())
    shifts = having.budgets.shifts(budget.clamp_min(0), having.base(having.targets(1.0)))
    masks = SampledMasks(shifts, budget < 0, temperature=0.3, noise=0.0)
    _, found = model.features(x, masks)
    size = MapSize(32, 32)
    costs = network_macs(model.net, size, found) / static_macs(model.net, size)
    wanted = spread_targets(torch.full((8,), 0.6), difficulty_ranks(taught), 0.2, having._fixed)
    expected = float(10.0 * (costs - wanted)[budget >= 0].square().mean().detach())
    assert added == pytest.approx(expected, rel=1e-3)
    assert added > 0


def test_nested_masks_rank_groups_alike_for_all_images(model: LaudResNet) -> None:
    """Logits of two images differ by one number a block, and still learn from their images."""
    nest_channel_masks(model)
    maskers = [m for m in model.modules() if isinstance(m, ChannelMasker)]
    assert maskers
    for masker in maskers:
        x = torch.randn(8, masker.mean.shape[0], 4, 4)
        optimiser = torch.optim.Adam(masker.parameters(), 0.05)
        for _ in range(3):
            logits = masker(x, MapSize(4, 4))
            optimiser.zero_grad()
            (logits * torch.randn_like(logits)).sum().backward()
            optimiser.step()
        apart = (logits - logits[:1]).detach()
        torch.testing.assert_close(apart, apart[:, :1].expand_as(apart))
        assert float(apart.abs().max()) > 1e-4
        assert float(logits[0].detach().std()) > 0


def test_nesting_is_what_the_configuration_asks(
    configure: Callable[..., TrainConfig], model: LaudResNet, x: Tensor, monkeypatch: Any
) -> None:
    nested: list[LaudResNet] = []
    monkeypatch.setattr(phases, "nest_channel_masks", nested.append)
    for nest in (False, True):
        config = configure(nested=nest)
        priors = prepare_maskers(model, x, config.dynamic.prior_scale)
        DynamicTraining(model, config, config.dynamic, priors)
        assert nested == [model] * nest
