"""`laud train`: from a configuration file to a finished run folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from engines.runs import Run
from engines.training.config import TrainConfig, parse_config, read_content, validated
from engines.training.data import (
    ImageFolder,
    check_same_classes,
    evaluation_pixels,
    find_split,
    open_cache,
    scan_folder,
)
from engines.training.defaults import with_minutes
from engines.training.detection_config import DetectionConfig
from engines.training.report import RunFolder
from engines.training.starts import (
    growth_of,
    keeps_head,
    notices_of,
    preprocessing_of,
    read_start,
    starting_network,
)
from engines.training.trainer import Data, Say, Trainer, projected_seconds, step_seconds

_SAY_EVERY_S = 5.0


def train(path: Path, out: Path, overrides: dict[str, Any] | None = None, say: Say = print) -> Path:
    """Train the configuration at `path` into the folder `out`, resuming what is there.

    Its `task` says what: `detection` and `segmentation` find objects, without it images get labels.

    Decoded images are kept in `cache` beside `out`. Returns the run folder.
    """
    content, what = read_content(path), f"'{path}'"
    if content.get("task", "classification") != "classification":
        from engines.training.detection_run import train_detector

        return train_detector(validated(DetectionConfig, content, overrides or {}, what), out, say)
    return train_config(parse_config(content, overrides or {}, what), out, say)


def train_config(config: TrainConfig, out: Path, say: Say = print) -> Path:
    """As `train`, for a configuration at hand."""
    data, classes = load_data(config, out.parent / "cache", say)
    start = read_start(config.init)
    keep_head = keeps_head(start, classes)
    model = starting_network(config, len(classes), start, keep_head=keep_head)
    preprocessing = preprocessing_of(config, start)
    description = Run(
        name=config.name,
        labels=classes,
        preprocessing=preprocessing,
        architecture=model.net,
        points=config.points,
        glances=config.glances,
        last_phase="dynamic" if config.dynamic.budgets else "sizes",
        data=config.data.root.resolve(),
        # It travels with the bundle, so it does not say where files lay.
        config=config.model_dump(
            mode="json", exclude_unset=True, exclude={"data": {"root"}, "init": {"path"}}
        ),
        notices=notices_of(config, start),
    )
    run = RunFolder(out, config, classes, description)
    growth = growth_of(config, start)
    if growth is not None and not run.state.exists():
        say(growth)
    Trainer(config, model, data, preprocessing, run, say, keep_head=keep_head).train()
    return out


def with_time(config: TrainConfig, pictures: ImageFolder, minutes: float) -> TrainConfig:
    """`config` with epochs that fit into `minutes` on this machine, by one timed step.

    pictures: those to train on.
    """
    start = read_start(config.init)
    model = starting_network(config, len(pictures.classes), start)
    steps = max(len(pictures.files) // config.batch_size, 1)
    seconds = projected_seconds(config, steps, step_seconds(model, config))
    return with_minutes(config, seconds, minutes)


def load_data(config: TrainConfig, cache: Path, say: Say) -> tuple[Data, tuple[str, ...]]:
    """Images decoded once, and the class names. Raises ConfigError for an unusable folder."""
    root, ratio = config.data.root, config.data.crop_ratio
    train_set = scan_folder(find_split(root, "train"))
    validation = scan_folder(find_split(root, "validation"))
    check_same_classes(train_set, validation)
    say(
        f"{len(train_set.files)} training and {len(validation.files)} validation images, "
        f"{len(train_set.classes)} classes"
    )
    short_side = int(np.ceil(config.image_size / np.sqrt(config.data.crop_area[0])))
    size = config.image_size
    pixels = open_cache(train_set, cache, short_side=short_side, progress=_saying(say, "decode"))
    data = Data(
        cache=pixels,
        labels=train_set.labels,
        probe=evaluation_pixels(train_set, cache, size, ratio, _saying(say, "prepare")),
        validation=evaluation_pixels(validation, cache, size, ratio, _saying(say, "prepare")),
        validation_labels=validation.labels,
    )
    return data, train_set.classes


def _saying(say: Say, what: str) -> Callable[[int, int], None]:
    """A progress callback that says at most one line in five seconds."""
    last = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > _SAY_EVERY_S:
            last = time.monotonic()
            say(f"{what}: {done} of {total} images")

    return progress
