"""From pixels to detections in a picture's own pixels, and the scores of a detector that trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engines.architecture import MapSize
from engines.bundle import Preprocessing
from engines.core import UInt8Array
from engines.detection.architecture import LEVELS, LevelRates, detector_macs, executed_dense_macs
from engines.detection.letterbox import letterbox, to_picture
from engines.detection.scenes import Detections, Scene
from engines.detection.scores import DetectionScores, score
from engines.macs import executed_macs
from engines.models.detection import DenseNetwork, LaudDetector
from engines.models.flops import block_rates
from engines.models.inputs import normalise
from engines.models.masks import Decide, Mask

Float64Array = npt.NDArray[np.float64]


@torch.inference_mode()
def find_objects(
    model: LaudDetector,
    pixels: UInt8Array,
    size: int,
    preprocessing: Preprocessing,
    decide: Decide | None = None,
) -> tuple[Detections, list[Mask]]:
    """What the network finds in a picture (H, W, 3) that is shown to it at `size` pixels, and what
    its maskers decided."""
    square = letterbox(pixels, size)
    ((found, masks),), asked = model.detect(normalise(square[np.newaxis], preprocessing), decide)
    shown = to_picture(
        found.boxes.numpy(),
        found.scores.numpy(),
        found.labels.numpy(),
        None if masks is None else masks.numpy(),
        size=size,
        width=pixels.shape[1],
        height=pixels.shape[0],
    )
    return shown, asked


def dense_macs(
    dense: DenseNetwork, image: MapSize, masks: Sequence[Mask], evaluated: Tensor | None = None
) -> Tensor:
    """Multiply-accumulates of backbone, pyramid and dense heads per image, float64; (N,), or one
    number for all where there is no mask.

    evaluated: (N, maskers), 1 where an image's point asks that masker; None means everywhere.
    """
    first = len(dense.net.maskers)
    levels = [
        LevelRates(
            mask.pixels.double().mean(dim=(1, 2, 3)),
            1.0 if evaluated is None else evaluated[:, mask.masker].double(),
        )
        for mask in masks
        if mask.masker >= first and mask.pixels is not None
    ] or [LevelRates()] * LEVELS
    network = executed_macs(dense.net, image, block_rates(dense.net, masks, evaluated))
    count = executed_dense_macs(dense.net, dense.detector, image, network, levels)
    return count if isinstance(count, Tensor) else torch.tensor(count, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Measured:
    """Scores on pictures, and multiply-accumulates of each before any choice, relative to those of
    the static network."""

    scores: DetectionScores
    macs_ratios: Float64Array


def measure_detector(
    model: LaudDetector,
    scenes: Sequence[Scene],
    pixels: Callable[[int], UInt8Array],
    labels: Sequence[str],
    size: int,
    preprocessing: Preprocessing,
    decide: Decide | None = None,
) -> Measured:
    """Average precision in eval mode; pixels: of the picture of each scene, by its place."""
    was_training = model.training
    model.eval()
    image = MapSize(size, size)
    static = detector_macs(model.net, model.detector, image).dense
    found, ratios = [], []
    for i in range(len(scenes)):
        objects, asked = find_objects(model, pixels(i), size, preprocessing, decide)
        found.append(objects)
        ratios.append(float(dense_macs(model.dense, image, asked).mean()) / static)
    model.train(was_training)
    return Measured(score(scenes, found, labels), np.array(ratios, np.float64))
