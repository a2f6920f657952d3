"""The training loop: phases in order, resumable after a kill at any moment, same result either way.

Every random choice is a function of (seed, phase, step), so that a resumed run repeats exactly what
an uninterrupted one would have done. The state is written every minute and at each epoch's end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engines.bundle import Preprocessing
from engines.core import UInt8Array
from engines.errors import ConfigError
from engines.models.inputs import normalise
from engines.models.maskers import ChannelMasker
from engines.models.measuring import extract_features, measure
from engines.models.resnet import LaudResNet
from engines.training.augment import Augment
from engines.training.config import TrainConfig
from engines.training.data import Batches, PixelCache
from engines.training.phases import DynamicTraining, Phase, SizesTraining, StaticTraining
from engines.training.report import RunFolder
from engines.training.starts import fit_head
from engines.training.state import (
    Progress,
    load_state,
    optimiser_tensors,
    restore_optimiser,
    save_state,
)
from engines.training.statistics import prepare_maskers

_SAVE_EVERY_S = 60.0
_SAY_EVERY_S = 20.0
_WARM_UP_STEPS = 20
_BETAS = (0.9, 0.98)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Data:
    """What a training sees. probe: evaluation pixels of the training images at full size."""

    cache: PixelCache
    labels: npt.NDArray[np.int64]
    probe: UInt8Array
    validation: UInt8Array
    validation_labels: npt.NDArray[np.int64]


class Trainer:
    """Runs the phases of a configuration on one network, in one run folder."""

    def __init__(
        self,
        config: TrainConfig,
        model: LaudResNet,
        data: Data,
        preprocessing: Preprocessing,
        run: RunFolder,
        say: Say = print,
        keep_head: bool = False,
    ) -> None:
        """keep_head: do not fit the head on frozen features before the first step."""
        self._keep_head = keep_head
        self.config, self.data, self.preprocessing = config, data, preprocessing
        self.model = model.to(memory_format=torch.channels_last)
        self.run_folder, self.say = run, say
        self.progress = Progress()
        self._phases = 3 if config.dynamic.budgets else 2
        self._saved_at = 0.0
        self._autocast = cpu_has_bf16()

    def train(self) -> None:
        """Train to the end, resuming from the run folder's state if there is one."""
        groups: Mapping[str, Mapping[str, Tensor]] = {}
        if self.run_folder.state.exists():
            self.progress, loaded = load_state(self.run_folder.state)
            self.model.load_state_dict(loaded["model"], strict=True)
            groups = loaded
            if self.progress.phase < self._phases:
                self.say(f"resuming at phase {self.progress.phase + 1}, step {self.progress.step}")
        else:
            self._say_projection()
            if not self._keep_head and self.config.init.source != "random":
                self.say("fitting the head on frozen features")
                features = extract_features(self.model, self.data.probe, self.preprocessing)
                fit_head(self.model, features, torch.from_numpy(self.data.labels))
        while self.progress.phase < self._phases:
            phase = self._make_phase(self.progress.phase, groups)
            optimiser = self._optimiser(phase)
            if groups.get("optimiser"):
                restore_optimiser(optimiser, dict(groups["optimiser"]))
            groups = {}
            self._run_phase(phase, optimiser)
        self.say(f"done; the run is in {self.run_folder.path}")

    def _say_projection(self) -> None:
        """Print how long the phases will take, from one timed step of the static network."""
        config, step_s = self.config, step_seconds(self.model, self.config)
        steps = max(len(self.data.labels) // config.batch_size, 1)
        seconds = projected_seconds(config, steps, step_s)
        parts = ", ".join(f"{name} {value / 60:.0f}" for name, value in seconds.items())
        self.say(f"projected: {sum(seconds.values()) / 60:.0f} min on this machine ({parts})")

    def _make_phase(self, index: int, groups: Mapping[str, Mapping[str, Tensor]]) -> Phase:
        if index == 0:
            return StaticTraining(self.model, self.config, self.config.static)
        if index == 1:
            return SizesTraining(self.model, self.config, self.config.sizes)
        dynamic = self.config.dynamic
        if "priors" in groups:
            priors = [groups["priors"][str(i)] for i in range(len(self.model.net.maskers))]
            phase = DynamicTraining(self.model, self.config, dynamic, priors)
            phase.teacher.load_state_dict(dict(groups["teacher"]))
            phase.budgets.load_state_dict(dict(groups["budgets"]))
            return phase
        self.say("measuring what each block is worth")
        chosen = np.linspace(0, len(self.data.probe) - 1, dynamic.statistics_images).astype(int)
        images = normalise(self.data.probe[np.unique(chosen)], self.preprocessing)
        priors = prepare_maskers(self.model, images, dynamic.prior_scale)
        self._put_channel_priors(priors)
        return DynamicTraining(self.model, self.config, dynamic, priors)

    @torch.no_grad()
    def _put_channel_priors(self, priors: list[Tensor]) -> None:
        for masker, prior in zip(self.model.net.maskers, priors, strict=True):
            head = getattr(self.model.bottlenecks()[masker.block], "masker_channel", None)
            if masker.kind == "channel" and isinstance(head, ChannelMasker):
                head.out.bias.copy_(prior)

    def _optimiser(self, phase: Phase) -> torch.optim.Optimizer:
        groups = [
            {"params": [parameter], "rate": rate, "relative": relative}
            for parameter, rate, relative in phase.parameters().values()
        ]
        return torch.optim.Adam(groups, betas=_BETAS)

    def _run_phase(self, phase: Phase, optimiser: torch.optim.Optimizer) -> None:
        batches = Batches(
            self.data.cache,
            self.data.labels,
            batch_size=self.config.batch_size,
            seed=self.config.seed * 8 + self.progress.phase,
            augment=augmentation(self.config),
        )
        per_epoch = batches.steps_per_epoch
        steps = phase.epochs * per_epoch
        first = self.progress.step
        if first < steps:
            self.say(f"{phase.name}: {phase.epochs} epochs of {per_epoch} steps")
        started = said = self._saved_at = time.monotonic()
        jobs = (
            (s // per_epoch, s % per_epoch, self.config.image_size) for s in range(first, steps)
        )
        for step, (images, labels) in enumerate(batches.prefetch(jobs), start=first):
            logged = self._step(phase, optimiser, images, labels, step, steps)
            sums = self.progress.sums
            for key, value in logged.items():
                sums[key] = sums.get(key, 0.0) + value
            self.progress.step = step + 1
            now = time.monotonic()
            if now - said > _SAY_EVERY_S or step == first + 2:
                left = (now - started) / (step + 1 - first) * (steps - step - 1)
                self.say(
                    f"{phase.name} {step + 1}/{steps} loss {logged['loss']:.3f}, {left:.0f} s left"
                )
                said = now
            if (step + 1) % per_epoch == 0:
                means = {key: value / per_epoch for key, value in sums.items()}
                self._end_epoch(phase, (step + 1) // per_epoch, means)
                self.progress.sums = {}
                self._save(phase, optimiser)
            elif now - self._saved_at > _SAVE_EVERY_S:
                self._save(phase, optimiser)
        if isinstance(phase, DynamicTraining):
            phase.average()
            self._finish_dynamic(phase)
        # Before the state, which would let a killed run go on without it.
        self.run_folder.save_model(phase.name, self.model)
        self.progress.phase += 1
        self.progress.step = 0
        save_state(self.run_folder.state, self.progress, {"model": self.model.state_dict()})

    def _step(
        self,
        phase: Phase,
        optimiser: torch.optim.Optimizer,
        images: UInt8Array,
        labels: npt.NDArray[np.int64],
        step: int,
        steps: int,
    ) -> dict[str, float]:
        self.model.train()
        key = (self.config.seed, self.progress.phase, step)
        rng = np.random.default_rng(key)
        torch.manual_seed(int(rng.integers(2**62)))
        x = normalise(images, self.preprocessing)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._autocast):
            loss, logged = phase.loss(x, torch.from_numpy(labels), step / steps, rng)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        set_rates(optimiser, schedule(step, steps))
        optimiser.step()
        phase.after_step()
        value = float(loss.detach())
        if not np.isfinite(value):
            raise ConfigError(
                f"the loss became {value} at step {step} of '{phase.name}': lower rate"
            )
        return {"loss": value, **logged}

    def _end_epoch(self, phase: Phase, epoch: int, means: dict[str, float]) -> None:
        row: dict[str, float | str | int] = {"phase": phase.name, "epoch": epoch, **means}
        data = (self.data.validation, self.data.validation_labels, self.preprocessing)
        row["accuracy_full"] = measure(self.model, *data).accuracy
        if isinstance(phase, DynamicTraining):
            for budget, thresholds in self._thresholds(phase, epoch / phase.epochs):
                found = measure(self.model, *data, thresholds)
                row[f"accuracy_{budget:g}"] = found.accuracy
                row[f"validation_macs_{budget:g}"] = found.macs_ratio
        self.progress.history.append(row)
        self.run_folder.write_metrics(self.progress.history)
        shown = ", ".join(
            f"{key} {value:.3f}" for key, value in row.items() if isinstance(value, float)
        )
        self.say(f"{phase.name} epoch {epoch}: {shown}")

    def _thresholds(self, phase: DynamicTraining, done: float) -> Iterator[tuple[float, Tensor]]:
        base = phase.base(phase.targets(done))
        for index, budget in enumerate(phase.budgets.targets):
            shift = phase.budgets.shifts(torch.tensor([index]), base)[0].detach()
            yield budget, -shift

    def _finish_dynamic(self, phase: DynamicTraining) -> None:
        rates: dict[float, npt.NDArray[np.float64]] = {}
        thresholds: dict[float, list[float]] = {}
        for budget, values in self._thresholds(phase, 1.0):
            found = measure(
                self.model,
                self.data.validation,
                self.data.validation_labels,
                self.preprocessing,
                values,
            )
            rates[budget] = found.rates
            thresholds[budget] = values.tolist()
        names = [masker.name for masker in self.model.net.maskers]
        self.run_folder.write_thresholds(thresholds)
        for line in self.run_folder.write_activation(names, rates):
            self.say(line)

    def _save(self, phase: Phase, optimiser: torch.optim.Optimizer) -> None:
        groups = {
            "model": self.model.state_dict(),
            "optimiser": optimiser_tensors(optimiser),
            **{group: dict(tensors) for group, tensors in phase.tensors().items()},
        }
        save_state(self.run_folder.state, self.progress, groups)
        self._saved_at = time.monotonic()


def set_rates(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """Each tensor's step: its rate, times its root mean square where the rate is relative."""
    for group in optimiser.param_groups:
        parameter = group["params"][0]
        scale = float(parameter.detach().square().mean().sqrt()) if group["relative"] else 1.0
        group["lr"] = factor * group["rate"] * max(scale, 1e-4)


def schedule(step: int, steps: int) -> float:
    """Factor on the learning rate: short linear warm-up, then a cosine to zero."""
    warm = min((step + 1) / _WARM_UP_STEPS, 1.0)
    return warm * 0.5 * (1.0 + float(np.cos(np.pi * step / steps)))


def step_seconds(model: LaudResNet, config: TrainConfig) -> float:
    """Seconds of one step of the static network at full size, timed on this machine."""
    x = torch.zeros(config.batch_size, 3, config.image_size, config.image_size)
    x = x.contiguous(memory_format=torch.channels_last)
    step_s = 0.0
    for _ in range(2):
        started = time.monotonic()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=cpu_has_bf16()):
            total = model(x, None)[0].sum()
        total.backward()
        step_s = time.monotonic() - started
    model.zero_grad(set_to_none=True)
    return step_s


def projected_seconds(config: TrainConfig, steps: int, step_s: float) -> dict[str, float]:
    """Seconds per phase when a step of the static network at full size takes `step_s`.

    Work goes with the area of the image; a teacher's forward pass is a third of a step.
    """

    def area(size: int) -> float:
        return (size / config.image_size) ** 2

    sizes = config.sizes.sizes
    small = sum(map(area, sizes)) / len(sizes) if sizes else 0.0
    shares = config.dynamic.size_shares or {config.image_size: 1.0}
    student = sum(share * area(size) for size, share in shares.items())
    dynamic = config.dynamic.epochs if config.dynamic.budgets else 0
    return {
        "static": config.static.epochs * steps * step_s,
        "sizes": config.sizes.epochs * steps * step_s * (1.0 + small),
        "dynamic": dynamic * steps * step_s * (1 / 3 + student),
    }


def augmentation(config: TrainConfig) -> Augment:
    """The augmentation that the configuration describes."""
    data = config.data
    return Augment(
        area=data.crop_area,
        gain=data.gain,
        channel_gain=data.channel_gain,
        offset=data.offset,
    )


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; elsewhere autocast would only be slower."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
