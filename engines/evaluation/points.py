"""Running points over labelled pictures: what each answers, loses and costs, image by image."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from engines.core import Engine, OperatingPoint, Output, UInt8Array
from engines.errors import ConfigError, ImageError, InvalidInput
from engines.evaluation.statistics import accuracy_of
from engines.folders import ImageFolder
from engines.manifest import PointRecord
from engines.preprocessing import preprocess

_SAY_EVERY_S = 5.0

BoolArray = npt.NDArray[np.bool_]
Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]
Say = Callable[[str], None]


@dataclass(frozen=True)
class PointResult:
    """What one point answered on N images.

    predictions: class per image. losses: natural-log loss of the right class, per image. macs: per
    image. activation: (N, maskers). decisions: (N, units of all maskers), if the engine tells.
    confidences: probability of the predicted class, per image; None where nobody kept it. again:
    which images were looked at again, (N,); None where the point does not glance.
    """

    point: OperatingPoint
    predictions: Int64Array
    losses: Float64Array
    macs: Float64Array
    activation: npt.NDArray[np.float32]
    decisions: BoolArray | None = None
    confidences: Float64Array | None = None
    again: BoolArray | None = None

    def right(self, labels: Int64Array) -> int:
        """How many images it labels as `labels` does."""
        return int((self.predictions == labels).sum())


@dataclass(frozen=True)
class Forced:
    """Decisions that replace the maskers'.

    units: (N, units of all maskers side by side), or (1, units) that hold for every image.
    counts: units per masker.
    """

    units: BoolArray
    counts: tuple[int, ...]

    def of(self, images: slice) -> list[BoolArray]:
        """Per masker (n, its units), of these images."""
        rows = self.units[images]
        if len(self.units) == 1:
            rows = np.broadcast_to(self.units, (images.stop - images.start, self.units.shape[1]))
        return np.split(rows, np.cumsum(self.counts)[:-1], axis=1)


@dataclass(frozen=True)
class Trial:
    """A point to run, with its maskers or with decisions in their place."""

    point: OperatingPoint
    forced: Forced | None = None


class ForcingEngine(Engine, Protocol):
    """An engine that takes decisions in place of its maskers'."""

    def infer(
        self,
        images: UInt8Array,
        points: Sequence[OperatingPoint],
        decisions: Sequence[BoolArray] | None = None,
    ) -> Output:
        """decisions: (N, units) per masker. See `engines.cpu.engine.CpuEngine`."""


def check_forces(engine: Engine) -> None:
    """Raise InvalidInput unless decisions can be forced upon the engine."""
    if "decisions" not in inspect.signature(engine.infer).parameters:
        raise InvalidInput(
            f"the {engine.name} engine asks its own maskers only: shuffled and fixed masks need "
            "an engine that takes decisions from outside, such as cpu"
        )


@dataclass(frozen=True)
class LabelledImages:
    """Pictures on disk with their labels, preprocessed as the product does it, a few at a time."""

    folder: ImageFolder
    crop_ratio: float

    def chunks(
        self, sizes: Sequence[int], count: int = 32
    ) -> Iterator[tuple[Int64Array, dict[int, UInt8Array]]]:
        """Labels (n,) and, by image size S, pixels (n, S, S, 3); decoding uses two threads.

        Raises ConfigError that names a file which cannot be read or decoded.
        """
        files = self.folder.files
        with ThreadPoolExecutor(2, thread_name_prefix="decode") as pool:
            for start in range(0, len(files), count):
                views = list(
                    pool.map(lambda f: self._views(f, sizes), files[start : start + count])
                )
                stacked = {size: np.stack([view[size] for view in views]) for size in sizes}
                yield self.folder.labels[start : start + count], stacked

    def _views(self, file: Path, sizes: Sequence[int]) -> dict[int, UInt8Array]:
        path = self.folder.root / file
        try:
            data = path.read_bytes()
            return {size: preprocess(data, size, crop_ratio=self.crop_ratio) for size in sizes}
        except OSError as error:
            raise ConfigError(f"cannot read '{path}': {error.strerror}") from None
        except ImageError as error:
            raise ConfigError(f"'{path}': {error}") from None


def evaluate_points(
    engine: Engine,
    points: Sequence[OperatingPoint],
    images: LabelledImages,
    say: Say = lambda line: None,
) -> list[PointResult]:
    """Run every picture at every point; `say` hears of progress every few seconds."""
    return run_trials(engine, [Trial(point) for point in points], images, say)


def run_trials(
    engine: Engine,
    trials: Sequence[Trial],
    images: LabelledImages,
    say: Say = lambda line: None,
) -> list[PointResult]:
    """Run every picture in every trial; forced decisions need an engine that `check_forces`."""
    sizes = sorted({trial.point.image_size for trial in trials})
    parts: list[list[PointResult]] = [[] for _ in trials]
    done, said = 0, time.monotonic()
    for labels, pixels in images.chunks(sizes):
        chunk = slice(done, done + len(labels))
        for part, trial in zip(parts, trials, strict=True):
            output = infer(engine, trial, pixels[trial.point.image_size], chunk)
            part.append(_result(output, trial.point, labels))
        done += len(labels)
        if time.monotonic() - said > _SAY_EVERY_S:
            said = time.monotonic()
            say(f"{done} of {len(images.folder.files)} images")
    return [_joined(part) for part in parts]


def infer(engine: Engine, trial: Trial, pixels: UInt8Array, images: slice) -> Output:
    """Run `pixels` (n, S, S, 3), which are these images of those that decisions are forced for."""
    points = [trial.point] * len(pixels)
    if trial.forced is None:
        return engine.infer(pixels, points)
    return cast(ForcingEngine, engine).infer(pixels, points, trial.forced.of(images))


def _result(output: Output, point: OperatingPoint, labels: Int64Array) -> PointResult:
    probabilities = np.asarray(output.arrays["probabilities"], np.float64)
    of_label = probabilities[np.arange(len(labels)), labels]
    decisions, again = (output.arrays.get(name) for name in ("decisions", "again"))
    return PointResult(
        point=point,
        predictions=probabilities.argmax(axis=1),
        losses=-np.log(np.maximum(of_label, 1e-12)),
        macs=output.macs,
        activation=output.activation,
        decisions=None if decisions is None else np.asarray(decisions, np.bool_),
        confidences=probabilities.max(axis=1),
        again=None if again is None else np.asarray(again, np.bool_),
    )


def _joined(parts: Sequence[PointResult]) -> PointResult:
    columns: dict[str, npt.NDArray[np.generic] | None] = {}
    for name in (field.name for field in fields(PointResult) if field.name != "point"):
        found = [getattr(part, name) for part in parts]
        columns[name] = None if found[0] is None else np.concatenate(found)
    return PointResult(point=parts[0].point, **columns)  # type: ignore[arg-type]


def point_records(
    results: Sequence[PointResult], labels: Int64Array, split: str
) -> tuple[PointRecord, ...]:
    """Results as manifests keep them; the first is `full`, which the others are compared with."""
    full = results[0]
    return tuple(
        PointRecord(
            point=result.point,
            accuracy=accuracy_of(result.right(labels), len(labels), split),
            agreement=float((result.predictions == full.predictions).mean()),
            activation=tuple(round(float(rate), 6) for rate in result.activation.mean(axis=0)),
            macs=float(result.macs.mean()),
            macs_ratio=float(result.macs.mean() / full.macs.mean()),
            again=None if result.again is None else float(result.again.mean()),
        )
        for result in results
    )
