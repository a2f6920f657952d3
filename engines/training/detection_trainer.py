"""Training a detector: static, then dynamic where patches are to be skipped, then the mask head
alone; resumable after a kill at any moment, with the same result.

Every random choice is a function of the seed and of how far the training is. The state is written
every minute and at each epoch's end.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from engines.bundle import Preprocessing
from engines.core import UInt8Array
from engines.detection.scenes import SceneSet
from engines.errors import ConfigError
from engines.models.detecting import Measured, measure_detector
from engines.models.detection import LaudDetector
from engines.models.inputs import normalise
from engines.models.masks import Decide, Thresholds
from engines.training.detection_config import DetectionConfig
from engines.training.detection_losses import detection_losses, mask_losses
from engines.training.foreground import (
    ForegroundMasks,
    bias_at,
    masker_loss,
    prepare_maskers,
    random_thresholds,
    thresholds_at,
)
from engines.training.masker_fit import fit_maskers, patches_of, whole_picture
from engines.training.report import RunFolder
from engines.training.scene_batches import SceneBatches, ScenePixels, Target
from engines.training.state import (
    Progress,
    load_state,
    optimiser_tensors,
    restore_optimiser,
    save_state,
)
from engines.training.trainer import Say, cpu_has_bf16, schedule, set_rates

Phase = Literal["static", "dynamic", "masks"]

_SHOWN_AT = 0.1
"""Probability of an object, below which patches are skipped where validation is measured."""

_THRESHOLDS, _FIT = 5, 6
_SAVE_EVERY_S = 60.0
_SAY_EVERY_S = 20.0
_BETAS = (0.9, 0.98)
# A picture full of objects the network has never seen may give a step that undoes many others.
_MOST_NORM = 10.0


@dataclass(frozen=True)
class DetectionData:
    """What a training sees: both splits, and their decoded pictures."""

    train: SceneSet
    validation: SceneSet
    train_pixels: ScenePixels
    validation_pixels: ScenePixels


def phases_of(config: DetectionConfig) -> tuple[Phase, ...]:
    """What is trained, in order."""
    phases: list[Phase] = ["static"]
    if config.dynamic.learns:
        phases.append("dynamic")
    if config.masks.epochs:
        phases.append("masks")
    return tuple(phases)


def epochs_of(config: DetectionConfig, phase: Phase) -> int:
    """How long a phase is."""
    return {
        "static": config.epochs, "dynamic": config.dynamic.epochs, "masks": config.masks.epochs
    }[phase]  # fmt: skip


class DetectionTrainer:
    """Trains one detector in one run folder."""

    def __init__(
        self,
        config: DetectionConfig,
        model: LaudDetector,
        data: DetectionData,
        preprocessing: Preprocessing,
        run: RunFolder,
        say: Say = print,
        *,
        fresh_heads: bool = True,
        thresholds: Sequence[float] | None = None,
    ) -> None:
        """fresh_heads: pyramid and heads have learned nothing yet. thresholds: of maskers that have
        learned (M,), about where objects' probability is that at which validation is measured."""
        self.config, self.data, self.preprocessing = config, data, preprocessing
        self.model = model.to(memory_format=torch.channels_last)
        self.run_folder, self.say = run, say
        self.progress = Progress()
        self._fresh_heads = fresh_heads
        self._bias = nn.Parameter(torch.zeros(model.dense.num_maskers))
        if thresholds is not None:
            self._bias.data.copy_(bias_at(_SHOWN_AT, thresholds))
        self._batches = SceneBatches(data.train_pixels, config)
        self._saved_at = 0.0
        self._autocast = cpu_has_bf16()

    def train(self) -> None:
        """Train to the end, resuming from the run folder's state if there is one."""
        phases = phases_of(self.config)
        moments: dict[str, Tensor] = {}
        if self.run_folder.state.exists():
            self.progress, groups = load_state(self.run_folder.state)
            self.model.load_state_dict(groups["model"], strict=True)
            moments = groups.get("optimiser", {})
            if "maskers" in groups:
                self._bias.data.copy_(groups["maskers"]["bias"])
            if self.progress.phase < len(phases):
                self.say(f"resuming '{phases[self.progress.phase]}' at step {self.progress.step}")
        elif self._fresh_heads:
            images, _ = self._batches.batch(0, 0)
            level_pyramid(self.model, normalise(images, self.preprocessing))
        while self.progress.phase < len(phases):
            phase = phases[self.progress.phase]
            if phase == "dynamic" and not self.progress.step:
                self._prepare_maskers()
                self._fit_maskers(self.config.dynamic.first_fits, blind=True)
            optimiser = self._optimiser(phase)
            if moments:
                restore_optimiser(optimiser, moments)
            moments = {}
            self._run(phase, optimiser)
        self.say(f"done; the run is in {self.run_folder.path}")

    def _prepare_maskers(self) -> None:
        self.say("measuring what maskers look at")
        first, wished = 0, self.config.dynamic.statistics_images
        batches = []
        while first * self.config.batch_size < wished and first < self._batches.steps_per_epoch:
            batches.append(self._batches.batch(self.config.epochs, first)[0])
            first += 1
        images = normalise(np.concatenate(batches), self.preprocessing)
        prepare_maskers(self.model.eval().dense, images)

    def _fit_maskers(self, fits: int, *, blind: bool) -> None:
        """As often as is asked, each time on all training pictures under the masks of the time
        before; blind: at first with nothing skipped, as of maskers that have learned nothing."""
        most = patches_of(len(self.data.train_pixels.scenes))
        for fit in range(fits):
            self.say(f"fitting maskers to the network as it is, {fit + 1} of {fits}")
            rng = np.random.default_rng((_FIT, self.config.seed, fit))
            shown = self._whole_pictures(fit, rng, blind=blind and not fit)
            fit_maskers(self.model.eval().dense, self._bias.data, shown, rng, patches=most)
        if fits:
            self.progress.history.append(
                {"phase": "fit", "epoch": fits, **self._measured("dynamic")}
            )
            self.run_folder.write_metrics(self.progress.history)

    def _whole_pictures(
        self, fit: int, rng: np.random.Generator, *, blind: bool
    ) -> Iterator[tuple[Tensor, Target, Decide | None]]:
        """Every training picture at one of the sizes that skip, another in each fit; blind: nothing
        is skipped."""
        dynamic, pixels = self.config.dynamic, self.data.train_pixels
        sizes = dynamic.sizes or (self.config.image_size,)
        said = time.monotonic()
        for place, scene in enumerate(pixels.scenes):
            if time.monotonic() - said > _SAY_EVERY_S:
                said = time.monotonic()
                self.say(f"seen {place} of {len(pixels.scenes)} pictures")
            size = sizes[(place + fit) % len(sizes)]
            shown, target = whole_picture(pixels[place], scene, size)
            drawn = random_thresholds(1, dynamic.probabilities, 0.0, rng)
            decide = None if blind else ForegroundMasks(self._bias, *drawn)
            yield normalise(shown[np.newaxis], self.preprocessing), target, decide

    def _optimiser(self, phase: Phase) -> torch.optim.Optimizer:
        """Pretrained tensors step relative to their size, fresh ones by a rate of their own."""
        config, pretrained = self.config, self.config.init.source != "random"
        if phase == "masks":
            head = list(self.model.instances.parameters())
            groups = [
                {"params": [each], "rate": config.masks.rate, "relative": False} for each in head
            ]
            return torch.optim.Adam(groups, betas=_BETAS)
        dynamic = phase == "dynamic"
        maskers_learn = dynamic and config.dynamic.maskers_learn
        of = config.dynamic if dynamic else config
        groups = []
        for name, parameter in self.model.named_parameters():
            if "masker_" in name or "level_maskers" in name:
                if maskers_learn:
                    rate = config.dynamic.masker_rate
                    groups.append({"params": [parameter], "rate": rate, "relative": False})
                continue
            relative = pretrained and name.startswith("dense.body.")
            rate = of.backbone_rate if relative else of.rate
            groups.append({"params": [parameter], "rate": rate, "relative": relative})
        if maskers_learn:
            rate = config.dynamic.masker_rate
            groups.append({"params": [self._bias], "rate": rate, "relative": False})
        return torch.optim.Adam(groups, betas=_BETAS)

    def _run(self, phase: Phase, optimiser: torch.optim.Optimizer) -> None:
        per_epoch, epochs = self._batches.steps_per_epoch, epochs_of(self.config, phase)
        steps, first = epochs * per_epoch, self.progress.step
        # Of what this phase does not move: gradients of the last step would count in their norm.
        self.model.zero_grad(set_to_none=True)
        # Epochs of all phases differ in what is shown.
        before = phases_of(self.config)[: self.progress.phase]
        shown = sum(epochs_of(self.config, each) for each in before)
        if first < steps:
            self.say(f"{phase}: {epochs} epochs of {per_epoch} steps")
        started = said = self._saved_at = time.monotonic()
        jobs = ((shown + step // per_epoch, step % per_epoch) for step in range(first, steps))
        for step, (images, targets) in enumerate(self._batches.prefetch(jobs), start=first):
            logged = self._step(phase, optimiser, images, targets, step, steps)
            for key, value in logged.items():
                self.progress.sums[key] = self.progress.sums.get(key, 0.0) + value
            self.progress.step = step + 1
            now = time.monotonic()
            if now - said > _SAY_EVERY_S or step == first + 2:
                left = (now - started) / (step + 1 - first) * (steps - step - 1)
                self.say(f"{phase} {step + 1}/{steps} loss {logged['loss']:.3f}, {left:.0f} s left")
                said = now
            if (step + 1) % per_epoch == 0:
                self._end_epoch(phase, (step + 1) // per_epoch, per_epoch)
                self._save(optimiser)
            elif now - self._saved_at > _SAVE_EVERY_S:
                self._save(optimiser)
        if phase == "dynamic":
            of = self.config.dynamic
            self._fit_maskers(of.fits, blind=not of.epochs)
        if phase != "static" and self.config.dynamic.budgets:
            thresholds = thresholds_at(_SHOWN_AT, self._bias)
            self.run_folder.write_thresholds(dict.fromkeys(self.config.dynamic.budgets, thresholds))
        # Before the state, which would let a killed run go on without it.
        self.run_folder.save_model(phase, self.model)
        self.progress.phase, self.progress.step = self.progress.phase + 1, 0
        groups = {"model": self.model.state_dict(), "maskers": {"bias": self._bias}}
        save_state(self.run_folder.state, self.progress, groups)

    def _step(
        self,
        phase: Phase,
        optimiser: torch.optim.Optimizer,
        images: UInt8Array,
        targets: list[Target],
        step: int,
        steps: int,
    ) -> dict[str, float]:
        self.model.train()
        x = normalise(images, self.preprocessing)
        decide = None
        if phase != "static" and self.model.dense.num_maskers:
            rng = np.random.default_rng((_THRESHOLDS, self.config.seed, step))
            dynamic = self.config.dynamic
            drawn = random_thresholds(len(x), dynamic.probabilities, dynamic.full_share, rng)
            decide = ForegroundMasks(self._bias, *drawn)
        if phase == "masks":
            losses = mask_losses(self.model, x, targets, decide, autocast=self._autocast)
        else:
            losses, asked = detection_losses(
                self.model, x, targets, decide, autocast=self._autocast
            )
            if asked and self.config.dynamic.maskers_learn:
                size = x.shape[2]
                losses["masker"] = masker_loss(self.model.dense, asked, self._bias, targets, size)
        loss = torch.stack(list(losses.values())).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), _MOST_NORM)
        set_rates(optimiser, schedule(step, steps))
        optimiser.step()
        value = float(loss.detach())
        if not np.isfinite(value):
            raise ConfigError(f"the loss became {value} at step {step} of '{phase}': lower rate")
        return {"loss": value, **{f"loss_{k}": float(v.detach()) for k, v in losses.items()}}

    def _end_epoch(self, phase: Phase, epoch: int, per_epoch: int) -> None:
        row: dict[str, float | str | int] = {"phase": phase, "epoch": epoch}
        row |= {key: value / per_epoch for key, value in self.progress.sums.items()}
        self.progress.sums = {}
        if epoch % self.config.measure_every == 0 or epoch == epochs_of(self.config, phase):
            row |= self._measured(phase)
        self.progress.history.append(row)
        self.run_folder.write_metrics(self.progress.history)
        shown = [f"{key} {value:.3f}" for key, value in row.items() if isinstance(value, float)]
        self.say(f"{phase} epoch {epoch}: {', '.join(shown)}")

    def _measured(self, phase: Phase) -> dict[str, float]:
        found = dict(_shown("", self._measure(None)))
        if phase != "static" and self.model.dense.num_maskers:
            thresholds = torch.tensor([thresholds_at(_SHOWN_AT, self._bias)])
            skipping = self._measure(Thresholds(thresholds))
            found |= dict(_shown("dynamic_", skipping))
            found["dynamic_macs_ratio"] = float(skipping.macs_ratios.mean())
        return found

    def _measure(self, decide: Decide | None) -> Measured:
        scenes = self.data.validation
        return measure_detector(
            self.model,
            scenes.scenes,
            self.data.validation_pixels.__getitem__,
            scenes.labels,
            self.config.image_size,
            self.preprocessing,
            decide,
        )

    def _save(self, optimiser: torch.optim.Optimizer) -> None:
        groups = {
            "model": self.model.state_dict(),
            "optimiser": optimiser_tensors(optimiser),
            "maskers": {"bias": self._bias},
        }
        save_state(self.run_folder.state, self.progress, groups)
        self._saved_at = time.monotonic()


def _shown(prefix: str, found: Measured) -> Iterator[tuple[str, float]]:
    scores = found.scores
    for name in ("box_ap", "box_ap50", "mask_ap", "mask_ap50"):
        value = getattr(scores, name)
        if value is not None:
            yield f"accuracy_{prefix}{name}", value


@torch.no_grad()
def level_pyramid(model: LaudDetector, x: Tensor) -> None:
    """Scale what the pyramid takes from each stage to a spread of 1 on normalised images.

    Folded backbones' maps differ by orders of magnitude, and nothing normalises them later.
    """
    maps, _ = model.dense.body.stages(x, None)
    for block, each in zip(model.dense.fpn.inner_blocks, maps, strict=True):
        convolution = block[0]
        spread = convolution(each).std().clamp_min(1e-6)
        convolution.weight.div_(spread)
