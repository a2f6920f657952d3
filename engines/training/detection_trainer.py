"""Training a detector: one phase, resumable after a kill at any moment, with the same result.

Every random choice is a function of (seed, epoch, step). The state is written every minute and at
each epoch's end.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.bundle import Preprocessing
from engines.core import UInt8Array
from engines.detection.scenes import SceneSet
from engines.errors import ConfigError
from engines.models.detecting import measure_detector
from engines.models.detection import LaudDetector
from engines.models.inputs import normalise
from engines.training.detection_config import DetectionConfig
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

PHASE: Final = "static"

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
    ) -> None:
        self.config, self.data, self.preprocessing = config, data, preprocessing
        self.model = model.to(memory_format=torch.channels_last)
        self.run_folder, self.say = run, say
        self.progress = Progress()
        self._batches = SceneBatches(data.train_pixels, config)
        self._saved_at = 0.0
        self._autocast = cpu_has_bf16()

    def train(self) -> None:
        """Train to the end, resuming from the run folder's state if there is one."""
        moments: dict[str, Tensor] = {}
        if self.run_folder.state.exists():
            self.progress, groups = load_state(self.run_folder.state)
            self.model.load_state_dict(groups["model"], strict=True)
            moments = groups.get("optimiser", {})
            if self.progress.phase == 0:
                self.say(f"resuming at step {self.progress.step}")
        else:
            images, _ = self._batches.batch(0, 0)
            level_pyramid(self.model, normalise(images, self.preprocessing))
        if self.progress.phase == 0:
            optimiser = self._optimiser()
            if moments:
                restore_optimiser(optimiser, moments)
            self._run(optimiser)
        self.say(f"done; the run is in {self.run_folder.path}")

    def _optimiser(self) -> torch.optim.Optimizer:
        """Pretrained tensors step relative to their size, fresh ones by a rate of their own."""
        config, pretrained = self.config, self.config.init.source != "random"
        groups = []
        for name, parameter in self.model.named_parameters():
            relative = pretrained and name.startswith("dense.body.")
            rate = config.backbone_rate if relative else config.rate
            groups.append({"params": [parameter], "rate": rate, "relative": relative})
        return torch.optim.Adam(groups, betas=_BETAS)

    def _run(self, optimiser: torch.optim.Optimizer) -> None:
        config, per_epoch = self.config, self._batches.steps_per_epoch
        steps, first = config.epochs * per_epoch, self.progress.step
        self.say(f"{config.epochs} epochs of {per_epoch} steps")
        started = said = self._saved_at = time.monotonic()
        jobs = ((step // per_epoch, step % per_epoch) for step in range(first, steps))
        for step, (images, targets) in enumerate(self._batches.prefetch(jobs), start=first):
            logged = self._step(optimiser, images, targets, step, steps)
            for key, value in logged.items():
                self.progress.sums[key] = self.progress.sums.get(key, 0.0) + value
            self.progress.step = step + 1
            now = time.monotonic()
            if now - said > _SAY_EVERY_S or step == first + 2:
                left = (now - started) / (step + 1 - first) * (steps - step - 1)
                self.say(f"{step + 1}/{steps} loss {logged['loss']:.3f}, {left:.0f} s left")
                said = now
            if (step + 1) % per_epoch == 0:
                self._end_epoch((step + 1) // per_epoch, per_epoch)
                self._save(optimiser)
            elif now - self._saved_at > _SAVE_EVERY_S:
                self._save(optimiser)
        # Before the state, which would let a killed run go on without it.
        self.run_folder.save_model(PHASE, self.model)
        self.progress.phase, self.progress.step = 1, 0
        save_state(self.run_folder.state, self.progress, {"model": self.model.state_dict()})

    def _step(
        self,
        optimiser: torch.optim.Optimizer,
        images: UInt8Array,
        targets: list[Target],
        step: int,
        steps: int,
    ) -> dict[str, float]:
        self.model.train()
        losses = detection_losses(
            self.model, normalise(images, self.preprocessing), targets, autocast=self._autocast
        )
        loss = torch.stack(list(losses.values())).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), _MOST_NORM)
        set_rates(optimiser, schedule(step, steps))
        optimiser.step()
        value = float(loss.detach())
        if not np.isfinite(value):
            raise ConfigError(f"the loss became {value} at step {step}: lower rate")
        return {"loss": value, **{f"loss_{k}": float(v.detach()) for k, v in losses.items()}}

    def _end_epoch(self, epoch: int, per_epoch: int) -> None:
        config = self.config
        row: dict[str, float | str | int] = {"phase": PHASE, "epoch": epoch}
        row |= {key: value / per_epoch for key, value in self.progress.sums.items()}
        self.progress.sums = {}
        if epoch % config.measure_every == 0 or epoch == config.epochs:
            scenes = self.data.validation
            found = measure_detector(
                self.model,
                scenes.scenes,
                self.data.validation_pixels.__getitem__,
                scenes.labels,
                config.image_size,
                self.preprocessing,
            )
            row |= {"accuracy_box_ap": found.box_ap, "accuracy_box_ap50": found.box_ap50}
            if found.mask_ap is not None and found.mask_ap50 is not None:
                row |= {"accuracy_mask_ap": found.mask_ap, "accuracy_mask_ap50": found.mask_ap50}
        self.progress.history.append(row)
        self.run_folder.write_metrics(self.progress.history)
        shown = [f"{key} {value:.3f}" for key, value in row.items() if isinstance(value, float)]
        self.say(f"epoch {epoch}: {', '.join(shown)}")

    def _save(self, optimiser: torch.optim.Optimizer) -> None:
        groups = {"model": self.model.state_dict(), "optimiser": optimiser_tensors(optimiser)}
        save_state(self.run_folder.state, self.progress, groups)
        self._saved_at = time.monotonic()


def detection_losses(
    model: LaudDetector, x: Tensor, targets: list[Target], *, autocast: bool
) -> dict[str, Tensor]:
    """Losses of normalised images (N, 3, H, W): of classes, boxes, centres and masks."""
    height, width = x.shape[2:]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        raw, _ = model.dense(x)
    outputs = raw.float()
    places = model.instances.places(outputs, height, width)
    known = [
        {"boxes": torch.from_numpy(each.boxes), "labels": torch.from_numpy(each.labels)}
        for each in targets
    ]
    answers = {
        "cls_logits": outputs.logits,
        "bbox_regression": outputs.distances,
        "bbox_ctrness": outputs.centres,
    }
    matched = [torch.from_numpy(each.places) for each in targets]
    found = model.dense.head.compute_loss(known, answers, [places] * len(targets), matched)
    losses: dict[str, Tensor] = {
        "class": found["classification"],
        "box": found["bbox_regression"],
        "centre": found["bbox_ctrness"],
    }
    if model.detector.masks:
        boxes = [torch.from_numpy(each.mask_boxes) for each in targets]
        # RoIAlign interpolates: in 16 bits its gradient would be lost in rounding.
        features = [feature.float() for feature in outputs.features]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            logits = model.instances.mask_logits(features, boxes, height, width)
        wanted = torch.from_numpy(np.concatenate([each.mask_pixels for each in targets])).float()
        # The sum of nothing, where no picture has an object, still has a gradient.
        losses["mask"] = F.binary_cross_entropy_with_logits(
            logits.float(), wanted, reduction="sum"
        ) / max(wanted.numel(), 1)
    return losses


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
