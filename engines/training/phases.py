"""The three phases of a training: static fine-tune, several image sizes, any budget.

A phase turns a batch into a loss; the trainer owns the loop, the optimiser and the files.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.architecture import MapSize
from engines.macs import all_block_macs, static_macs
from engines.models.flops import network_macs
from engines.models.masks import Mask
from engines.models.resnet import LaudResNet
from engines.training.budgets import Budgets, PriorCurve, SampledMasks, geometric, ramp
from engines.training.config import DynamicPhase, SizesPhase, StaticPhase, TrainConfig
from engines.training.difficulty import difficulty_ranks, nest_channel_masks, spread_targets

DISTILLATION_TEMPERATURE = 2.0


class Phase(Protocol):
    """One part of the training."""

    name: str
    epochs: int

    def parameters(self) -> Mapping[str, tuple[nn.Parameter, float, bool]]:
        """Trained parameters by name: (parameter, rate, whether relative to its mean square)."""

    def tensors(self) -> Mapping[str, Mapping[str, Tensor]]:
        """State beyond the network and the optimiser, by group, to save and restore."""

    def loss(
        self, x: Tensor, labels: Tensor, done: float, rng: np.random.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """Loss of a batch of normalised images at progress `done` (0 to 1), and values to log."""

    def after_step(self) -> None:
        """Called once the optimiser has stepped."""


def scale_images(x: Tensor, size: int) -> Tensor:
    """Normalised images (N, 3, H, W), antialiased, to `size` pixels."""
    if x.shape[-1] == size:
        return x
    scaled = F.interpolate(x, size=(size, size), mode="bilinear", antialias=True)
    return scaled.contiguous(memory_format=torch.channels_last)


def distillation(logits: Tensor, teacher: Tensor) -> Tensor:
    """T^2 KL(teacher || student), mean over the batch."""
    t = DISTILLATION_TEMPERATURE
    divergence = F.kl_div(
        F.log_softmax(logits / t, dim=1),
        F.log_softmax(teacher / t, dim=1),
        log_target=True,
        reduction="batchmean",
    )
    return t * t * divergence


def answer(
    model: LaudResNet, x: Tensor, masks: SampledMasks | None, dropout: float
) -> tuple[Tensor, list[Mask]]:
    """Class logits with dropout before the head, and the masks."""
    features, found = model.features(x, masks)
    return cast(Tensor, model.fc(F.dropout(features, dropout, training=True))), found


def _network_parameters(
    model: LaudResNet, rate: float
) -> dict[str, tuple[nn.Parameter, float, bool]]:
    return {
        name: (parameter, rate, True)
        for name, parameter in model.named_parameters()
        if "masker_" not in name
    }


class StaticTraining:
    """Cross entropy of the network with nothing skipped."""

    name = "static"

    def __init__(self, model: LaudResNet, config: TrainConfig, phase: StaticPhase) -> None:
        self.model, self.config, self.phase, self.epochs = model, config, phase, phase.epochs

    def parameters(self) -> Mapping[str, tuple[nn.Parameter, float, bool]]:
        return _network_parameters(self.model, self.phase.rate)

    def tensors(self) -> Mapping[str, Mapping[str, Tensor]]:
        return {}

    def loss(
        self, x: Tensor, labels: Tensor, done: float, rng: np.random.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        logits, _ = answer(self.model, x, None, self.config.dropout)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)
        return loss, {}

    def after_step(self) -> None:
        return


class SizesTraining:
    """Full size by its labels; one random smaller size by labels and the full size's answer."""

    name = "sizes"

    def __init__(self, model: LaudResNet, config: TrainConfig, phase: SizesPhase) -> None:
        self.model, self.config, self.phase, self.epochs = model, config, phase, phase.epochs

    def parameters(self) -> Mapping[str, tuple[nn.Parameter, float, bool]]:
        return _network_parameters(self.model, self.phase.rate)

    def tensors(self) -> Mapping[str, Mapping[str, Tensor]]:
        return {}

    def loss(
        self, x: Tensor, labels: Tensor, done: float, rng: np.random.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        smoothing, dropout = self.config.label_smoothing, self.config.dropout
        full, _ = answer(self.model, x, None, dropout)
        loss = F.cross_entropy(full, labels, label_smoothing=smoothing)
        if not self.phase.sizes:
            return loss, {}
        size = int(rng.choice(self.phase.sizes))
        small, _ = answer(self.model, scale_images(x, size), None, dropout)
        taught = distillation(small, full.detach())
        by_labels = F.cross_entropy(small, labels, label_smoothing=smoothing)
        return loss + taught + 0.5 * by_labels, {"distillation": float(taught.detach())}

    def after_step(self) -> None:
        return


class DynamicTraining:
    """One mixed pass: each image its own budget, `full` among them, taught by the static network.

    priors: per masker, prior logits of its units; spatial ones become the budgets' biases, channel
    ones must already be in the maskers. Batch norm is folded before, so nothing has statistics that
    depend on the budget.
    """

    name = "dynamic"

    def __init__(
        self, model: LaudResNet, config: TrainConfig, phase: DynamicPhase, priors: Sequence[Tensor]
    ) -> None:
        self.model, self.config, self.phase, self.epochs = model, config, phase, phase.epochs
        self.teacher = copy.deepcopy(model).eval().requires_grad_(False)
        start = torch.stack(
            [
                prior[0] if masker.kind == "spatial" else torch.zeros(())
                for masker, prior in zip(model.net.maskers, priors, strict=True)
            ]
        )
        self.budgets = Budgets(phase.budgets, start)
        if phase.nested:
            nest_channel_masks(model)
        self.priors = list(priors)
        size = MapSize(config.image_size, config.image_size)
        self.curve = PriorCurve(model.net, size, priors)
        skippable = sum(each.skippable for each in all_block_macs(model.net, size))
        self._fixed = 1.0 - skippable / static_macs(model.net, size)
        self._static: dict[int, float] = {}
        self._ratios = torch.ones(len(phase.budgets))
        self._targets = torch.ones(len(phase.budgets))

    def parameters(self) -> Mapping[str, tuple[nn.Parameter, float, bool]]:
        maskers = {
            name: (parameter, self._masker_rate(name), False)
            for name, parameter in self.model.named_parameters()
            if "masker_" in name
        }
        return {
            **_network_parameters(self.model, self.phase.rate),
            **maskers,
            "budgets.bias": (self.budgets.bias, self.phase.bias_rate, False),
        }

    def tensors(self) -> Mapping[str, Mapping[str, Tensor]]:
        return {
            "teacher": self.teacher.state_dict(),
            "budgets": self.budgets.state_dict(),
            "priors": {str(i): prior for i, prior in enumerate(self.priors)},
        }

    def targets(self, done: float) -> Tensor:
        """Current target ratios: 1 at first, the budgets once the curriculum is over."""
        share = self.phase.curriculum
        return torch.tensor([ramp(done, share, 1.0, t) for t in self.budgets.targets])

    def base(self, targets: Tensor) -> Tensor:
        """Offsets at which the prior alone would hit the targets."""
        return torch.tensor([self.curve.offset(float(t)) for t in targets])

    def loss(
        self, x: Tensor, labels: Tensor, done: float, rng: np.random.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        phase, config = self.phase, self.config
        with torch.no_grad():
            taught, _ = self.teacher(x, None)
        small = scale_images(x, self._draw_size(rng))
        budget = self._deal(len(labels), rng)
        everything = budget < 0
        self._targets = self.targets(done)
        shifts = self.budgets.shifts(budget.clamp_min(0), self.base(self._targets))
        masks = SampledMasks(
            shifts,
            everything,
            temperature=geometric(done, *phase.temperature),
            noise=ramp(done, phase.noise_until, phase.noise, 0.0),
        )
        logits, found = answer(self.model, small, masks, config.dropout)
        by_labels = F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
        divergence = distillation(logits, taught)
        ratio = self._macs_ratio(small, found)
        # A tiny batch may deal a budget no image: its ratio is then on target.
        self._ratios = torch.stack(
            [
                ratio[budget == b].mean() if bool((budget == b).any()) else self._targets[b]
                for b in range(len(phase.budgets))
            ]
        )
        penalty = self.budgets.penalty(self._ratios, self._targets, phase.macs_weight)
        if phase.difficulty_spread:
            ranks = difficulty_ranks(taught)
            wanted = spread_targets(
                self._targets[budget], ranks, phase.difficulty_spread, self._fixed
            )
            error = (ratio - wanted)[~everything]
            penalty = penalty + phase.difficulty_weight * error.square().mean()
        logged = {
            "distillation": float(divergence.detach()),
            **{
                f"macs_{t:g}": float(r)
                for t, r in zip(self.budgets.targets, self._ratios.detach(), strict=True)
            },
        }
        return 0.5 * by_labels + divergence + penalty, logged

    def after_step(self) -> None:
        self.budgets.control(self._ratios, self._targets)

    @torch.no_grad()
    def average(self) -> None:
        """Mix the network that the phase began with into the trained one; maskers stay."""
        began = dict(self.teacher.named_parameters())
        for name, parameter in self.model.named_parameters():
            if "masker_" not in name:
                parameter.lerp_(began[name], self.phase.start_share)

    def _masker_rate(self, name: str) -> float:
        return self.phase.bias_rate if name.endswith("bias") else self.phase.masker_rate

    def _draw_size(self, rng: np.random.Generator) -> int:
        shares = self.phase.size_shares or {self.config.image_size: 1.0}
        p = np.array(list(shares.values()))
        return int(rng.choice(list(shares), p=p / p.sum()))

    def _deal(self, count: int, rng: np.random.Generator) -> Tensor:
        """A budget index per image, -1 for `full`."""
        full = min(max(round(self.phase.full_share * count), 1), count - 1)
        rest = np.arange(count - full) % len(self.phase.budgets)
        return torch.from_numpy(rng.permutation(np.concatenate([np.full(full, -1), rest])))

    def _macs_ratio(self, x: Tensor, masks: Sequence[Mask]) -> Tensor:
        size = MapSize(x.shape[2], x.shape[3])
        static = self._static.setdefault(x.shape[2], float(static_macs(self.model.net, size)))
        return network_macs(self.model.net, size, masks) / static
