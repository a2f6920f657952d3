"""What maskers start from: standardised inputs, and priors that drop what matters least."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor

from engines.models.maskers import ChannelMasker, SpatialMasker, pool_patches
from engines.models.resnet import Bottleneck, LaudResNet
from engines.training.config import TrainConfig
from engines.training.starts import starting_network
from engines.training.statistics import prepare_maskers

pytestmark = pytest.mark.torch

SCALE = 1.5


@pytest.fixture
def model(content: Callable[[], dict[str, Any]]) -> LaudResNet:
    stages = [
        {"depth": 2, "width": 8, "paradigm": "spatial", "spatial_granularity": 2},
        {"depth": 2, "width": 8, "paradigm": "channel", "channel_granularity": 2},
        {"depth": 2, "width": 8, "paradigm": "layer"},
    ]
    init = {"source": "random", "stem_width": 4}
    config = TrainConfig.model_validate({**content(), "stages": stages, "init": init})
    return starting_network(config, 3)


@pytest.fixture
def images() -> Tensor:
    """More than one batch of 32, of means that vary."""
    generator = torch.Generator().manual_seed(3)
    means = torch.randn(40, 3, 1, 1, generator=generator)
    pictures: Tensor = means + torch.randn(40, 3, 32, 32, generator=generator)
    return pictures


def pooled_inputs(model: LaudResNet, images: Tensor) -> dict[str, tuple[Any, Tensor]]:
    """Per masker: the module and the pooled block inputs that it sees, (rows, channels)."""
    found: dict[str, tuple[Any, Tensor]] = {}

    def note(block: Bottleneck, inputs: tuple[Tensor, ...]) -> None:
        for name, masker in block.named_children():
            if isinstance(masker, SpatialMasker):
                found[f"{block.index}.{name}"] = masker, pool_patches(inputs[0], masker.window)
            elif isinstance(masker, ChannelMasker):
                found[f"{block.index}.{name}"] = masker, inputs[0].mean(dim=(2, 3))

    handles = [block.register_forward_pre_hook(note) for block in model.bottlenecks()]
    with torch.no_grad():
        model(images, None)
    for handle in handles:
        handle.remove()
    return {name: (masker, rows.flatten(0, -2)) for name, (masker, rows) in found.items()}


def by_block(model: LaudResNet, priors: list[Tensor]) -> dict[int, Tensor]:
    return {m.block: prior for m, prior in zip(model.net.maskers, priors, strict=True)}


def test_maskers_see_inputs_of_mean_zero_and_deviation_one(
    model: LaudResNet, images: Tensor
) -> None:
    prepare_maskers(model, images, SCALE)
    inputs = pooled_inputs(model, images)
    assert len(inputs) == len(model.net.maskers)
    for masker, rows in inputs.values():
        standardised = (rows - masker.mean) / masker.std
        varying = rows.std(dim=0) > 0.02
        assert varying.any()
        torch.testing.assert_close(
            standardised.mean(dim=0), torch.zeros(rows.shape[1]), atol=1e-3, rtol=0
        )
        spread = standardised.std(dim=0)[varying]
        torch.testing.assert_close(spread, torch.ones_like(spread), atol=1e-3, rtol=0)


def test_channel_that_never_changes_does_not_blow_up(model: LaudResNet, images: Tensor) -> None:
    with torch.no_grad():
        model.conv1.weight[0] = 0.0
        model.state_dict()["conv1.bias"][0] = 1.0
    prepare_maskers(model, images, SCALE)
    masker, rows = pooled_inputs(model, images)["0.masker_spatial"]
    assert rows[:, 0].std() == 0
    assert not ((rows - masker.mean) / masker.std)[:, 0].any()


def test_one_prior_per_patch_masker_and_per_channel_group(
    model: LaudResNet, images: Tensor
) -> None:
    priors = prepare_maskers(model, images, SCALE)
    assert [len(prior) for prior in priors] == [1, 1, 4, 4, 1, 1]
    values = torch.cat(priors)
    assert values.mean().item() == pytest.approx(0, abs=1e-5)
    assert values.std().item() == pytest.approx(SCALE, rel=1e-4)


def test_scale_zero_makes_all_priors_equal(model: LaudResNet, images: Tensor) -> None:
    assert not torch.cat(prepare_maskers(model, images, 0.0)).any()


@pytest.mark.parametrize("index", range(6))
def test_block_that_changes_nothing_goes_first(
    model: LaudResNet, images: Tensor, index: int
) -> None:
    block = model.bottlenecks()[index]
    with torch.no_grad():
        for value in block.conv3.parameters():
            value.zero_()
    priors = by_block(model, prepare_maskers(model, images, SCALE))
    others = torch.cat([prior for i, prior in priors.items() if i != index])
    assert priors[index].max() < others.min()


def test_block_that_changes_answers_more_gets_a_higher_prior(
    model: LaudResNet, images: Tensor
) -> None:
    def prior(scale: float) -> float:
        with torch.no_grad():
            for value in model.bottlenecks()[5].conv3.parameters():
                value.mul_(scale)
        priors = by_block(model, prepare_maskers(model, images, SCALE))
        return float(priors[5] - priors[4])

    assert prior(1.0) < prior(4.0)


def test_channel_group_that_sends_nothing_goes_first_in_its_block(
    model: LaudResNet, images: Tensor
) -> None:
    with torch.no_grad():
        model.bottlenecks()[2].conv3.weight[:, 4:6] = 0.0
    prior = by_block(model, prepare_maskers(model, images, SCALE))[2]
    assert prior.argmin() == 2
    assert prior[2] < prior[[0, 1, 3]].min() - 1.0


def test_network_is_left_as_it_was_but_for_the_statistics(
    model: LaudResNet, images: Tensor
) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    answer = model(images, None)[0]
    prepare_maskers(model, images, SCALE)
    torch.testing.assert_close(model(images, None)[0], answer, rtol=0, atol=0)
    changed = {n for n, value in model.state_dict().items() if not torch.equal(value, before[n])}
    assert {name.rpartition(".")[2] for name in changed} == {"mean", "std"}
