"""Networks to hold against the oracle: random ones, and ones whose arithmetic is exact.

Import after `pytest.importorskip("torch")`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np
import torch
from torch import Tensor

from engines.architecture import MapSize, RegNet, ResNet
from engines.models.flops import network_macs
from engines.models.masks import Mask, Thresholds
from engines.models.network import LaudNetwork
from engines.models.regnet import LaudRegNet, network_of
from engines.models.resnet import LaudResNet
from tests.engines.models.oracle import Answer, Oracle
from tests.engines.models.regnet_oracle import RegNetOracle

Wish = tuple[float | None, int | None]
"""Threshold and cap of one masker."""

_NO_CAP = 10**9


@overload
def random_network(net: ResNet, seed: int = 0) -> LaudResNet: ...
@overload
def random_network(net: RegNet, seed: int = 0) -> LaudRegNet: ...
@torch.no_grad()
def random_network(net: ResNet | RegNet, seed: int = 0) -> LaudNetwork:
    """In float64 and eval mode; every parameter and statistic is random, batch norm's too."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = network_of(net).double().eval()
    for name, value in model.state_dict().items():
        if name.endswith(("running_var", ".std")):
            value.uniform_(0.5, 2.0, generator=generator)
        elif name.endswith(("masker_spatial.mean", "masker_channel.mean")):
            # About what ReLU leaves, so that logits fall on both sides of zero.
            value.uniform_(0.5, 2.5, generator=generator)
        elif name.endswith(("bn1.weight", "bn2.weight", "bn3.weight", "downsample.1.weight")):
            value.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith(("bias", "running_mean")):
            value.normal_(0.0, 0.3, generator=generator)
        elif name.endswith(("masker_spatial.weight", "masker_channel.out.weight")):
            value.normal_(generator=generator)
    return model


@torch.no_grad()
def exact_network(net: ResNet, seed: int = 0) -> LaudResNet:
    """A folded network of small integers, so that no sum is ever rounded and ties are real.

    Standardised means are 0 or 5 and masker weights are integers: logits are few and repeat.
    """
    assert net.folded
    generator = torch.Generator().manual_seed(seed)
    model = LaudResNet(net).double().eval()
    for name, value in model.state_dict().items():
        if name.endswith(".std"):
            value.fill_(2.0**-30)
        elif name.endswith(".mean"):
            value.zero_()
        else:
            value.copy_(torch.randint(-1, 2, value.shape, generator=generator))
    return model


def integers(*shape: int, seed: int = 0) -> Tensor:
    """Whole numbers from -2 to 2, as float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-2, 3, shape, generator=generator).double()


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Normal float64 numbers in maps (..., H, W), plus blots 8 wide that tell patches apart."""
    generator = torch.Generator().manual_seed(seed)
    *rest, height, width = shape
    fine = torch.randn(*shape, generator=generator, dtype=torch.float64)
    coarse = torch.randn(*rest, -(-height // 8), -(-width // 8), generator=generator)
    blots = coarse.repeat_interleave(8, dim=-2).repeat_interleave(8, dim=-1)
    sum_: Tensor = fine + 2.0 * blots[..., :height, :width]
    return sum_


def oracle_of(model: LaudNetwork) -> Oracle:
    """The oracle with the same weights."""
    state = {name: value.double().numpy() for name, value in model.state_dict().items()}
    return (RegNetOracle if isinstance(model.net, RegNet) else Oracle)(model.net, state)


def decision(wishes: Sequence[Sequence[Wish]]) -> Thresholds:
    """Thresholds and caps as the network takes them, from one list of wishes per image."""
    thresholds = [[-np.inf if t is None else t for t, _ in image] for image in wishes]
    caps = [[_NO_CAP if cap is None else cap for _, cap in image] for image in wishes]
    return Thresholds(torch.tensor(thresholds, dtype=torch.float64), torch.tensor(caps))


def evaluated(wishes: Sequence[Sequence[Wish]]) -> Tensor:
    """Which maskers an image's point asks, (N, maskers)."""
    return torch.tensor([[wish != (None, None) for wish in image] for image in wishes]).double()


@torch.no_grad()
def assert_computes_only_what_is_active(
    model: LaudNetwork, x: Tensor, wishes: Sequence[Sequence[Wish]], *, tolerance: float = 1e-9
) -> list[Answer]:
    """Masked-dense against the oracle, image by image: logits, decisions and multiplications."""
    logits, masks = model(x, decision(wishes))
    size = MapSize(x.shape[2], x.shape[3])
    counted = network_macs(model.net, size, masks, evaluated(wishes)).expand(len(x))
    oracle = oracle_of(model)
    answers = []
    for n, image in enumerate(x.double().numpy()):
        answer = oracle.answer(image, [t for t, _ in wishes[n]], [cap for _, cap in wishes[n]])
        assert np.isfinite(answer.logits).all(), "the oracle read what it had not computed"
        scale = 1.0 + np.abs(answer.logits).max()
        np.testing.assert_allclose(logits[n].numpy(), answer.logits, rtol=0, atol=tolerance * scale)
        _assert_same_decisions(answer, masks, n)
        assert float(counted[n]) == answer.total_macs
        answers.append(answer)
    return answers


def _assert_same_decisions(answer: Answer, masks: Sequence[Mask], n: int) -> None:
    assert [mask.masker for mask in masks] == [*range(len(answer.decisions))]
    for mask, decision in zip(masks, answer.decisions, strict=True):
        found = mask.units[n].nonzero().flatten().tolist()
        wanted = [*range(mask.total)] if decision is None else decision.active
        assert found == wanted, f"masker {mask.masker}"
