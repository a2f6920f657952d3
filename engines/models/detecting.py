"""From pixels to detections in a picture's own pixels, and the scores of a detector that trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from engines.bundle import Preprocessing
from engines.core import UInt8Array
from engines.detection.letterbox import letterbox, to_picture
from engines.detection.scenes import Detections, Scene
from engines.detection.scores import DetectionScores, score
from engines.models.detection import LaudDetector
from engines.models.inputs import normalise


@torch.inference_mode()
def find_objects(
    model: LaudDetector, pixels: UInt8Array, size: int, preprocessing: Preprocessing
) -> Detections:
    """What the network finds in a picture (H, W, 3) that is shown to it at `size` pixels."""
    square = letterbox(pixels, size)
    ((found, masks),) = model.detect(normalise(square[np.newaxis], preprocessing))
    return to_picture(
        found.boxes.numpy(),
        found.scores.numpy(),
        found.labels.numpy(),
        None if masks is None else masks.numpy(),
        size=size,
        width=pixels.shape[1],
        height=pixels.shape[0],
    )


def measure_detector(
    model: LaudDetector,
    scenes: Sequence[Scene],
    pixels: Callable[[int], UInt8Array],
    labels: Sequence[str],
    size: int,
    preprocessing: Preprocessing,
) -> DetectionScores:
    """Average precision in eval mode; pixels: of the picture of each scene, by its place."""
    was_training = model.training
    model.eval()
    found = [find_objects(model, pixels(i), size, preprocessing) for i in range(len(scenes))]
    model.train(was_training)
    return score(scenes, found, labels)
