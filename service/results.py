"""What an engine's output holds for one image of a batch, by the task of its model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engines.core import Float32Array, Output
from engines.detection.letterbox import to_picture
from engines.detection.scenes import Detections, Int64Array
from engines.errors import InvalidInput

_NOTHING = np.zeros(0, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Objects:
    """What was found in an image, surest first, in the pixels of the network's input.

    boxes (D, 4), scores (D,), labels (D,), masks (D, M, M) over each box or None.
    """

    boxes: Float32Array
    scores: Float32Array
    labels: Int64Array
    masks: Float32Array | None

    def in_picture(
        self, *, size: int, width: int, height: int, least_score: float, most: int, masks: bool
    ) -> Detections:
        """At most that many, in the pixels of the picture that was shown at `size` pixels.

        Takes milliseconds for hundreds of masks.
        """
        count = min(int((self.scores >= least_score).sum()), most)
        return to_picture(
            self.boxes[:count],
            self.scores[:count],
            self.labels[:count],
            self.masks[:count] if masks and self.masks is not None else None,
            size=size,
            width=width,
            height=height,
        )


def probabilities_of(output: Output, place: int) -> Float32Array:
    """Of an image, (classes,); empty where the model finds objects."""
    found = output.arrays.get("probabilities")
    return _NOTHING if found is None else np.asarray(found[place], np.float32)


def objects_of(output: Output, place: int) -> Objects | None:
    """Of an image; None where the model labels images."""
    arrays = output.arrays
    if "counts" not in arrays:
        return None
    count, masks = int(arrays["counts"][place]), arrays.get("masks")
    return Objects(
        np.asarray(arrays["boxes"][place, :count], np.float32),
        np.asarray(arrays["scores"][place, :count], np.float32),
        np.asarray(arrays["labels"][place, :count], np.int64),
        None if masks is None else np.asarray(masks[place, :count], np.float32),
    )


def check_objects(output: Output, size: int, *, num_labels: int, masks: bool) -> None:
    """Refuse an engine whose answer is no objects for each of `size` images: InvalidInput."""
    arrays = output.arrays
    if missing := {"counts", "boxes", "scores", "labels", *(["masks"] if masks else [])} - {
        *arrays
    }:
        raise InvalidInput(f"the answer has no {', '.join(sorted(missing))}")
    counts = arrays["counts"]
    most = int(counts.max(initial=0))
    shapes = {"counts": (size,), "boxes": (size, most, 4), "scores": (size, most)}
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise InvalidInput(f"{name} have shape {arrays[name].shape}, expected {shape}")
    labels = np.asarray(arrays["labels"], np.int64)
    if labels.size and not 0 <= labels.min() <= labels.max() < num_labels:
        raise InvalidInput(f"labels are not all of 0 to {num_labels - 1}")
