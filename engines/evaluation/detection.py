"""Judging a detector: average precision of each operating point on annotated pictures.

Pictures take the way of the service: decoded for the point's size, shown whole, found objects moved
back to the picture's own pixels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engines.bundle import Accuracy, PointRecord, read_bundle
from engines.core import Engine, OperatingPoint
from engines.detection.intervals import ap50_interval
from engines.detection.letterbox import decode_whole, detections_of, inner_size
from engines.detection.read import read_folder
from engines.detection.scenes import Detections, Scene, SceneSet
from engines.detection.scores import DetectionScores, score
from engines.errors import BundleError, ConfigError, ImageError
from engines.registry import DEFAULT_ENGINE, load_engine

Say = Callable[[str], None]

_SAY_EVERY_S = 10.0


@dataclass(frozen=True, eq=False)
class DetectionResult:
    """What one point did on the pictures of `split`.

    low, high: 95 % interval of `ap50`, that of masks where there are any, else of boxes.
    macs: mean per picture, mask head included. latency_s: median of an engine's calls of one image.
    padding: mean share of the network's input that is no picture.
    """

    point: OperatingPoint
    scores: DetectionScores
    low: float
    high: float
    macs: float
    latency_s: float
    padding: float

    @property
    def ap50(self) -> float:
        """What counts as the point's accuracy."""
        masks = self.scores.mask_ap50
        return self.scores.box_ap50 if masks is None else masks

    def flat(self) -> dict[str, Any]:
        """For JSON, times in milliseconds."""
        return {
            "point": self.point.name,
            "image_size": self.point.image_size,
            **self.scores.model_dump(mode="json"),
            "ap50": self.ap50,
            "ap50_low": self.low,
            "ap50_high": self.high,
            "macs": self.macs,
            "latency_p50_ms": self.latency_s * 1e3,
            "padding": self.padding,
        }


def judge(
    engine: Engine,
    point: OperatingPoint,
    scenes: Sequence[Scene],
    labels: Sequence[str],
    *,
    seed: int = 0,
    say: Say = lambda line: None,
) -> DetectionResult:
    """Run a point on every scene. Raises ConfigError for a picture that cannot be read."""
    size = point.image_size
    found: list[Detections] = []
    macs: list[float] = []
    taken_s: list[float] = []
    said = time.monotonic()
    for scene in scenes:
        try:
            square = decode_whole(scene.file.read_bytes(), size)
        except ImageError as error:
            raise ConfigError(f"{scene.file}: {error}") from None
        begin = time.perf_counter()
        output = engine.infer(square[np.newaxis], (point,))
        taken_s.append(time.perf_counter() - begin)
        macs.append(float(output.macs[0]))
        found.append(detections_of(output, 0, size, scene.width, scene.height))
        if time.monotonic() - said > _SAY_EVERY_S:
            said = time.monotonic()
            say(f"{point.name}: {len(found)} of {len(scenes)} pictures")
    scores = score(scenes, found, labels)
    masks = scores.mask_ap50 is not None
    _, low, high = ap50_interval(scenes, found, len(labels), masks=masks, seed=seed)
    shown = [np.prod(inner_size(s.width, s.height, size)) / size**2 for s in scenes]
    return DetectionResult(
        point=point,
        scores=scores,
        low=low,
        high=high,
        macs=float(np.mean(macs)),
        latency_s=float(np.median(taken_s)),
        padding=1.0 - float(np.mean(shown)),
    )


def detection_records(results: Sequence[DetectionResult], split: str) -> tuple[PointRecord, ...]:
    """What manifests keep; the first is `full`."""
    return tuple(
        PointRecord(
            point=result.point,
            accuracy=Accuracy(
                value=result.ap50,
                low=min(result.low, result.ap50),
                high=min(max(result.high, result.ap50), 1.0),
                images=result.scores.images,
                split=split,
            ),
            activation=(),
            macs=result.macs,
            macs_ratio=result.macs / results[0].macs,
            detection=result.scores,
        )
        for result in results
    )


def evaluate_detector(
    ref: str | Path,
    folder: Path,
    *,
    points: Sequence[str] | None = None,
    engine: str = DEFAULT_ENGINE,
    threads: int | None = None,
    seed: int = 0,
    say: Say = lambda line: None,
) -> list[DetectionResult]:
    """Every point (or those named) of a bundle on the annotated pictures of a split.

    Raises BundleError, ConfigError or InvalidInput with the reason.
    """
    bundle = read_bundle(ref)
    manifest = bundle.manifest
    if manifest.detector is None:
        raise BundleError(f"'{bundle.path}' finds no objects: its task is {manifest.task}")
    names = points or [record.point.name for record in manifest.points]
    chosen = [manifest.point(name).point for name in names]
    scenes = read_folder(folder)
    check_labels(scenes, manifest.labels)
    with load_engine(bundle, kind=engine, threads=threads) as loaded:
        return [
            judge(loaded, point, scenes.scenes, manifest.labels, seed=seed, say=say)
            for point in chosen
        ]


def check_labels(scenes: SceneSet, labels: Sequence[str]) -> None:
    """Raise ConfigError unless the pictures are annotated with exactly these labels."""
    if scenes.labels != tuple(labels):
        raise ConfigError(
            f"{scenes.root}: labels are {', '.join(scenes.labels)}, those of the network are "
            f"{', '.join(labels)}"
        )
