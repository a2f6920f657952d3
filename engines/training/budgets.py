"""How budgets are hit: sampled masks, curriculum, and the controller of the activation.

A unit's logit for a budget is masker logit + bias[budget, masker] + offset[budget]. The controller
moves offsets and multipliers against the error of the batch; without it, distillation pulls blocks
on harder than a squared loss pushes them off.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engines.architecture import MapSize, ResNet
from engines.macs import BlockRates, executed_macs, static_macs

OFFSET_RATE = 0.5
MULTIPLIER_RATE = 1.0
MULTIPLIER_BOUND = 30.0


class Budgets(nn.Module):
    """Per budget: a trained bias per masker, and a controlled offset and multiplier."""

    offset: Tensor
    multiplier: Tensor

    def __init__(self, targets: Sequence[float], prior: Tensor) -> None:
        """prior: (maskers,) start of the biases of every budget."""
        super().__init__()
        self.targets = tuple(targets)
        self.bias = nn.Parameter(prior.repeat(len(self.targets), 1))
        self.register_buffer("offset", torch.zeros(len(self.targets)))
        self.register_buffer("multiplier", torch.zeros(len(self.targets)))

    def shifts(self, budget: Tensor, base: Tensor) -> Tensor:
        """What is added to each masker's logits: (N, maskers) for budget indices (N,).

        base: (budgets,) offsets that follow the curriculum.
        """
        return self.bias[budget] + (self.offset + base)[budget, None]

    def penalty(self, ratios: Tensor, targets: Tensor, weight: float) -> Tensor:
        """Loss on the batch's MACs ratios (budgets,) against the current targets (budgets,)."""
        error = ratios - targets
        return (weight * error.square() + self.multiplier * error).sum()

    @torch.no_grad()
    def control(self, ratios: Tensor, targets: Tensor) -> None:
        """Integrate the error into offsets and multipliers."""
        error = ratios.detach() - targets
        self.offset -= OFFSET_RATE * error
        self.multiplier += MULTIPLIER_RATE * error
        self.multiplier.clamp_(-MULTIPLIER_BOUND, MULTIPLIER_BOUND)


class SampledMasks:
    """Straight-through decisions: hard forward, sigmoid backward, logistic noise on the logits.

    shifts: (N, maskers) added to the logits. everything: (N,) True where nothing is skipped.
    """

    def __init__(
        self, shifts: Tensor, everything: Tensor, temperature: float, noise: float
    ) -> None:
        self._shifts = shifts
        self._everything = everything
        self._temperature = temperature
        self._noise = noise

    def __call__(self, masker: int, logits: Tensor) -> Tensor:
        z = logits + self._shifts[:, masker, None]
        if self._noise > 0:
            uniform = torch.rand_like(z).clamp(1e-6, 1 - 1e-6)
            z = z + self._noise * torch.logit(uniform)
        soft = torch.sigmoid(z / self._temperature)
        hard = (z >= 0).to(z.dtype)
        return torch.where(self._everything[:, None], 1.0, hard + (soft - soft.detach()))


def ramp(done: float, share: float, start: float, end: float) -> float:
    """From `start` to `end`, linearly, over the first `share` of a phase; `done` is 0 to 1."""
    return end if share <= 0 or done >= share else start + (end - start) * done / share


def geometric(done: float, start: float, end: float) -> float:
    """From `start` to `end` along a geometric path; `done` is 0 to 1."""
    return float(start * (end / start) ** done)


class PriorCurve:
    """Offset at which masks drawn from the prior alone would hit a MACs ratio.

    It lets the curriculum lower budgets without waiting for the controller.
    prior: per masker, (units,) or (1,) logits of its units.
    """

    _SOFTNESS = 0.5

    def __init__(self, net: ResNet, image: MapSize, prior: Sequence[Tensor]) -> None:
        self._net, self._image, self._prior = net, image, list(prior)
        values = torch.cat([p.flatten() for p in self._prior])
        self._low = -float(values.max()) - 10.0
        self._high = -float(values.min()) + 10.0
        self._known: dict[float, float] = {}

    def ratio(self, offset: float) -> float:
        """Expected MACs ratio when every prior logit is shifted by `offset`."""
        rates = [BlockRates()] * len(self._net.blocks)
        for masker, prior in zip(self._net.maskers, self._prior, strict=True):
            rate = float(torch.sigmoid((prior + offset) / self._SOFTNESS).mean())
            old = rates[masker.block]
            rates[masker.block] = (
                BlockRates(rate, rate, old.channel, 1.0, old.channel_masker)
                if masker.kind == "spatial"
                else BlockRates(old.spatial, old.dilated, rate, old.spatial_masker, 1.0)
            )
        count = executed_macs(self._net, self._image, rates)
        return float(count) / static_macs(self._net, self._image)

    def offset(self, ratio: float) -> float:
        """The offset that gives `ratio`, within what the prior can reach."""
        key = round(ratio, 3)
        if key not in self._known:
            self._known[key] = self._search(key)
        return self._known[key]

    def _search(self, ratio: float) -> float:
        low, high = self._low, self._high
        for _ in range(50):
            middle = (low + high) / 2
            if self.ratio(middle) < ratio:
                low = middle
            else:
                high = middle
        return high
