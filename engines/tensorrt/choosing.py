"""From what a plan answers for all places to objects, on the host.

How many there are is data, which no CUDA graph can hold. Suppression is the native engine's.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from engines.cpu import _native
from engines.detection.architecture import MOST_DETECTIONS, Detector
from engines.detection.objects import Objects

Float32Array = npt.NDArray[np.float32]


def chosen(boxes: Float32Array, scores: Float32Array, detector: Detector) -> Objects:
    """The surest of what non-maximum suppression leaves, at most MOST_DETECTIONS an image.

    boxes: (N, places, 4), in pixels. scores: (N, labels, places), 0 where a place is no candidate.
    """
    found = [_of_image(*each, detector) for each in zip(boxes, scores, strict=True)]
    counts = [len(kept) for kept, _, _ in found]
    return Objects(
        images=np.repeat(np.arange(len(found), dtype=np.int64), counts),
        boxes=np.concatenate([kept for kept, _, _ in found]),
        scores=np.concatenate([values for _, values, _ in found]),
        labels=np.concatenate([labels for _, _, labels in found]),
    )


def _of_image(
    boxes: Float32Array, scores: Float32Array, detector: Detector
) -> tuple[Float32Array, Float32Array, npt.NDArray[np.int64]]:
    """Boxes (D, 4), scores and labels (D,), the surest first."""
    labels, places = np.nonzero(scores >= np.float32(detector.least_score))
    values = scores[labels, places]
    order = np.argsort(-values, kind="stable")
    sorted_boxes = np.ascontiguousarray(boxes[places[order]])
    sorted_labels = np.ascontiguousarray(labels[order], np.int64)
    kept = np.empty(MOST_DETECTIONS, np.int64)
    kept = kept[: _native.suppress(sorted_boxes, sorted_labels, detector.overlap, kept)]
    return sorted_boxes[kept], values[order][kept], sorted_labels[kept]
