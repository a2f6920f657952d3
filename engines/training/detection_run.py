"""`laud train` for a task that finds objects: from a configuration to a finished run folder."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from engines.architecture import MapSize
from engines.bundle import Preprocessing
from engines.detection.architecture import detector_macs
from engines.detection.read import read_scenes
from engines.detection.scenes import SceneSet
from engines.errors import CheckpointError, ConfigError
from engines.models.checkpoints import load_strictly
from engines.models.detection import LaudDetector
from engines.models.inputs import normalise
from engines.runs import Run
from engines.training.detection_config import DetectionConfig
from engines.training.detection_losses import detection_losses, mask_losses
from engines.training.detection_trainer import (
    DetectionData,
    DetectionTrainer,
    epochs_of,
    phases_of,
)
from engines.training.report import RunFolder
from engines.training.scene_batches import SceneBatches, ScenePixels
from engines.training.starts import (
    Start,
    growth_of,
    notices_of,
    preprocessing_of,
    read_start,
    starting_network,
)
from engines.training.trainer import Say, cpu_has_bf16


def train_detector(config: DetectionConfig, out: Path, say: Say = print) -> Path:
    """Train into the folder `out`, resuming what is there. Returns it."""
    data = load_scenes(config, say)
    start = read_start(config.init)
    labels = data.train.labels
    backbone = starting_network(config, len(labels), start)
    model = LaudDetector(backbone.net, config.detector)
    body = backbone.state_dict()
    model.dense.body.load_state_dict({k: v for k, v in body.items() if not k.startswith("fc.")})
    kept = keep_heads(model, start, labels, say)
    if not config.epochs and not kept:
        raise ConfigError("epochs may be 0 only where a finished detector of these labels is begun")
    if config.masks_alone and start is not None:
        take_over(model, start)
    thresholds = start.thresholds if config.masks_alone and start is not None else None
    if config.masks_alone and model.dense.num_maskers and thresholds is None:
        raise ConfigError(
            "the bundle that init.path names has maskers and no point that skips, so nobody knows "
            "where they decide: export it with --all-points, or set dynamic.fits"
        )
    preprocessing = preprocessing_of(config, start)
    size = MapSize(config.image_size, config.image_size)
    say(f"multiply-accumulates at {config.image_size} px:")
    for line in detector_macs(backbone.net, config.detector, size).lines():
        say(f"  {line}")
    # It travels with the bundle, so it does not say where files lay.
    settings = config.model_dump(
        mode="json", exclude_unset=True, exclude={"data": {"root"}, "init": {"path"}}
    )
    if not config.epochs and start is not None:
        settings["begun_with"] = start.config
    description = Run(
        name=config.name,
        labels=labels,
        preprocessing=preprocessing,
        architecture=backbone.net,
        points=config.points,
        last_phase=phases_of(config)[-1],
        data=config.data.root.resolve(),
        config=settings,
        notices=notices_of(config, start),
        task=config.task,
        detector=config.detector,
    )
    run = RunFolder(out, config, labels, description)
    if not run.state.exists():
        if (growth := growth_of(config, start)) is not None:
            say(growth)
        step_s = step_seconds(model, config, data, preprocessing)
        steps = SceneBatches(data.train_pixels, config).steps_per_epoch
        epochs = sum(epochs_of(config, phase) for phase in phases_of(config))
        minutes = epochs * steps * step_s / 60
        fits = config.dynamic.first_fits + config.dynamic.fits
        beside = f", {fits} fits of maskers left out" if fits else ""
        say(f"projected: {minutes:.0f} min on this machine, {step_s:.2f} s a step{beside}")
    DetectionTrainer(
        config, model, data, preprocessing, run, say, fresh_heads=not kept, thresholds=thresholds
    ).train()
    return out


def take_over(model: LaudDetector, start: Start) -> None:
    """All that `start` holds, maskers included. Raises ConfigError where it skips otherwise."""
    ours, theirs = (
        (net.stages, None if of is None else (of.level_patches, of.looks))
        for net, of in ((model.net, model.detector), (start.net, start.detector))
    )
    if ours != theirs:
        raise ConfigError(
            "the detector that init.path names skips otherwise: stages, detector.level_patches and "
            "detector.level_looks must be its own"
        )
    body = {f"dense.body.{name}": each for name, each in start.state.items()}
    try:
        load_strictly(model, {**body, **start.heads})
    except CheckpointError as error:
        raise ConfigError(f"'detector' must be that of init.path: {error}") from None


def keep_heads(model: LaudDetector, start: Start | None, labels: tuple[str, ...], say: Say) -> bool:
    """Take over pyramid and heads of a detector that is started from; whether that was possible.

    Raises ConfigError where they have another shape.
    """
    if start is None or not start.heads:
        return False
    if start.labels != labels:
        say("pyramid and heads start afresh: the labels are others")
        return False
    wanted = model.state_dict()
    ours, theirs = (
        {name: each.shape for name, each in of.items() if not _is_masker_or_body(name)}
        for of in (wanted, start.heads)
    )
    differ = sorted(
        name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)
    )
    if differ:
        raise ConfigError(
            f"the detector that init.path names differs in {', '.join(differ[:3])}: 'detector' "
            "must be its own, and so must the widths of 'stages', which can only get deeper"
        )
    model.load_state_dict({**wanted, **{k: v for k, v in start.heads.items() if k in wanted}})
    return True


def _is_masker_or_body(name: str) -> bool:
    return "masker" in name or name.startswith("dense.body.")


def load_scenes(config: DetectionConfig, say: Say) -> DetectionData:
    """Both splits. Raises ConfigError where they differ in labels, or lack the masks needed."""
    train, validation = (read_scenes(config.data.root, split) for split in ("train", "validation"))
    for split in (train, validation):
        _check(config, split)
    if train.labels != validation.labels:
        raise ConfigError(
            f"{validation.root}: labels are {', '.join(validation.labels)}, those of the training "
            f"split are {', '.join(train.labels)}"
        )
    objects = sum(map(len, train.scenes))
    say(
        f"{len(train.scenes)} training and {len(validation.scenes)} validation pictures, "
        f"{objects} objects to learn from, {len(train.labels)} labels"
    )
    return DetectionData(
        train, validation, ScenePixels(train.scenes), ScenePixels(validation.scenes)
    )


def _check(config: DetectionConfig, split: SceneSet) -> None:
    if config.task == "segmentation" and not split.has_masks:
        raise ConfigError(
            f"{split.root}: some objects have no mask; train with task 'detection' and "
            "detector.masks false"
        )
    if not any(len(scene) for scene in split.scenes):
        raise ConfigError(f"{split.root}: no picture has an object")


def step_seconds(
    model: LaudDetector, config: DetectionConfig, data: DetectionData, preprocessing: Preprocessing
) -> float:
    """Seconds of one step of the first phase that has any, timed on this machine (the second of
    two), the batch not counted."""
    images, targets = SceneBatches(data.train_pixels, config).batch(0, 0)
    x = normalise(images, preprocessing)
    step_s = 0.0
    for _ in range(2):
        started = time.monotonic()
        if config.masks_alone:
            losses = mask_losses(model, x, targets, autocast=cpu_has_bf16())
        else:
            losses, _ = detection_losses(model, x, targets, autocast=cpu_has_bf16())
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        step_s = time.monotonic() - started
    model.zero_grad(set_to_none=True)
    return step_s
