"""Accuracy of operating points on labelled pictures, over any engine. Needs no torch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engines.bundle import Accuracy, PointRecord
from engines.core import Engine, OperatingPoint, UInt8Array
from engines.errors import ConfigError, ImageError, InvalidInput
from engines.folders import ImageFolder
from engines.preprocessing import preprocess

_Z_95 = 1.959963984540054
_SAY_EVERY_S = 5.0

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PointResult:
    """What one point answered on N images.

    predictions: class per image. losses: natural-log loss of the right class, per image. macs: per
    image. activation: (N, maskers). decisions: (N, units of all maskers), if the engine tells.
    """

    point: OperatingPoint
    predictions: Int64Array
    losses: npt.NDArray[np.float64]
    macs: npt.NDArray[np.float64]
    activation: npt.NDArray[np.float32]
    decisions: npt.NDArray[np.bool_] | None = None

    def right(self, labels: Int64Array) -> int:
        """How many images it labels as `labels` does."""
        return int((self.predictions == labels).sum())


def wilson(right: int, total: int) -> tuple[float, float]:
    """95 % interval of a share `right / total` (Wilson 1927)."""
    if total < 1 or not 0 <= right <= total:
        raise InvalidInput(f"{right} of {total} is not a share")
    share, z2 = right / total, _Z_95**2
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z_95 / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    # At 0 and 1 rounding may put a bound on the wrong side of the share itself.
    return max(min(middle - half, share), 0.0), min(max(middle + half, share), 1.0)


def accuracy_of(right: int, total: int, split: str) -> Accuracy:
    """The share with its interval, as manifests keep it."""
    low, high = wilson(right, total)
    return Accuracy(value=right / total, low=low, high=high, images=total, split=split)


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
    say: Callable[[str], None] = lambda line: None,
) -> list[PointResult]:
    """Run every picture at every point; `say` hears of progress every few seconds."""
    sizes = sorted({point.image_size for point in points})
    parts: list[list[PointResult]] = [[] for _ in points]
    done, said = 0, time.monotonic()
    for labels, pixels in images.chunks(sizes):
        for part, point in zip(parts, points, strict=True):
            part.append(_run(engine, point, pixels[point.image_size], labels))
        done += len(labels)
        if time.monotonic() - said > _SAY_EVERY_S:
            said = time.monotonic()
            say(f"{done} of {len(images.folder.files)} images")
    return [_joined(part) for part in parts]


def _run(
    engine: Engine, point: OperatingPoint, pixels: UInt8Array, labels: Int64Array
) -> PointResult:
    output = engine.infer(pixels, [point] * len(pixels))
    probabilities = np.asarray(output.arrays["probabilities"], np.float64)
    of_label = probabilities[np.arange(len(labels)), labels]
    decisions = output.arrays.get("decisions")
    return PointResult(
        point=point,
        predictions=probabilities.argmax(axis=1),
        losses=-np.log(np.maximum(of_label, 1e-12)),
        macs=output.macs,
        activation=output.activation,
        decisions=None if decisions is None else np.asarray(decisions, np.bool_),
    )


def _joined(parts: Sequence[PointResult]) -> PointResult:
    told = [part.decisions for part in parts if part.decisions is not None]
    return PointResult(
        point=parts[0].point,
        predictions=np.concatenate([part.predictions for part in parts]),
        losses=np.concatenate([part.losses for part in parts]),
        macs=np.concatenate([part.macs for part in parts]),
        activation=np.concatenate([part.activation for part in parts]),
        decisions=np.concatenate(told) if told else None,
    )


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
        )
        for result in results
    )


def differences(
    results: Sequence[PointResult], reference: Sequence[PointResult]
) -> list[dict[str, float]]:
    """Per point, shares of answers and of mask decisions that are not those of the reference."""
    rows: list[dict[str, float]] = []
    for result, wanted in zip(results, reference, strict=True):
        row = {"answers_differ": float((result.predictions != wanted.predictions).mean())}
        if result.decisions is not None and wanted.decisions is not None:
            unequal = result.decisions != wanted.decisions
            row["decisions_differ"] = float(unequal.mean()) if unequal.size else 0.0
        rows.append(row)
    return rows


def summary(
    results: Sequence[PointResult], labels: Int64Array
) -> list[dict[str, str | int | float]]:
    """One row a point, against the first, which is `full`.

    accuracy with its 95 % Wilson interval; agreement: share of answers equal to those of `full`;
    macs_ratio: mean multiply-accumulates over those of `full`; activation: mean over maskers.
    """
    full = results[0]
    rows: list[dict[str, str | int | float]] = []
    for result in results:
        accuracy = accuracy_of(result.right(labels), len(labels), "")
        activation = float(result.activation.mean()) if result.activation.size else 1.0
        rows.append(
            {
                "name": result.point.name,
                "image_size": result.point.image_size,
                "accuracy": accuracy.value,
                "accuracy_low": accuracy.low,
                "accuracy_high": accuracy.high,
                "agreement": float((result.predictions == full.predictions).mean()),
                "log_loss": float(result.losses.mean()),
                "macs_ratio": float(result.macs.mean() / full.macs.mean()),
                "activation": activation,
                "images": len(labels),
            }
        )
    return rows
