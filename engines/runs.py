"""What a finished training run says about itself: written by training, read by export. No torch.

A run folder holds `run.json` (this description), `thresholds.json` (per budget, one threshold per
masker) and `model-<phase>.safetensors`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from engines.architecture import ResNet
from engines.bundle import Preprocessing, explain
from engines.core import MAX_IMAGE_SIZE, FrozenModel
from engines.detection.architecture import Detector
from engines.errors import ConfigError
from engines.manifest import Task

RUN = "run.json"
THRESHOLDS = "thresholds.json"

Budget = Annotated[float, Field(gt=0.05, lt=1.0)]
ImageSize = Annotated[int, Field(ge=16, le=MAX_IMAGE_SIZE)]


class PointRequest(FrozenModel):
    """A candidate for an operating point: an image size, and a budget unless nothing is skipped.

    budget: multiply-accumulates relative to the static network at the same image size.
    """

    name: str
    image_size: ImageSize
    budget: Budget | None = None


class Run(FrozenModel):
    """Everything about a run but its tensors. data: the folder with the splits it was trained on.

    points: the candidates that export chooses from, `full` first. glances: whether it may add some
    that glance at one of their sizes first. last_phase names the phase whose network is to be
    exported. detector: what stands on the backbone, where the task is to find objects.
    """

    name: str
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    architecture: ResNet
    points: tuple[PointRequest, ...]
    glances: bool = False
    last_phase: Literal["static", "sizes", "dynamic", "masks"]
    data: Path
    config: dict[str, Any]
    notices: tuple[str, ...] = ()
    task: Task = "classification"
    detector: Detector | None = None


def candidate_points(
    image_size: int, sizes: Sequence[int], budgets: Sequence[float]
) -> tuple[PointRequest, ...]:
    """Every image size with nothing skipped and at every budget, the largest and dearest first.

    `full` at `image_size` comes first; the others are called `size-112` and, at a budget of .65,
    `skip-112-65`. Each of `sizes` and `budgets` may be there more than once.
    """
    points: list[PointRequest] = []
    others = sorted(set(sizes) - {image_size}, reverse=True)
    for size in (image_size, *others):
        name = f"size-{size}" if points else "full"
        points.append(PointRequest(name=name, image_size=size))
        points += [
            PointRequest(name=f"skip-{size}-{100 * budget:g}", image_size=size, budget=budget)
            for budget in sorted(set(budgets), reverse=True)
        ]
    return tuple(points)


def read_run(folder: Path) -> tuple[Run, dict[float, tuple[float, ...]]]:
    """The description and the thresholds per budget; ConfigError when the run is not finished."""
    run = _read(folder / RUN)
    try:
        description = Run.model_validate(run)
    except ValidationError as error:
        raise ConfigError(f"'{folder / RUN}' is not valid: {explain(error)}") from None
    if not any(point.budget for point in description.points):
        return description, {}
    thresholds = _read(folder / THRESHOLDS)
    return description, {float(budget): tuple(values) for budget, values in thresholds.items()}


def model_file(folder: Path, phase: str) -> Path:
    """Where a run keeps its network after a phase."""
    return folder / f"model-{phase}.safetensors"


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read '{path}' ({error.strerror}): not the folder of a finished run; "
            "`laud train` finishes one"
        ) from None
    except ValueError as error:
        raise ConfigError(f"'{path}' is not JSON: {error}") from None
