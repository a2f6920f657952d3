"""From what an exported detector answers to objects, and on to what the mask head takes.

found = network.run(...)                      # outputs by name, with `feeds` as inputs
objects = surest(found)
masks = mask_head.run(...)                    # with `mask_feeds(found, objects)`
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from engines.detection.architecture import LEVELS, MOST_DETECTIONS
from engines.detection.objects import Objects
from engines.export.onnx.detector import BOXES, FEATURES, SCORES, SELECTED
from engines.export.onnx.masks import IMAGES

Arrays = Mapping[str, npt.NDArray[np.generic]]


def surest(outputs: Arrays) -> Objects:
    """An image's surest MOST_DETECTIONS of what non-maximum suppression left."""
    boxes = np.asarray(outputs[BOXES], np.float32)
    image, label, place = np.asarray(outputs[SELECTED], np.int64).T
    scores = np.asarray(outputs[SCORES], np.float32)[image, label, place]
    order = np.lexsort((-scores, image))
    image, label, place, scores = (each[order] for each in (image, label, place, scores))
    first = np.searchsorted(image, image)
    kept = np.arange(len(image)) - first < MOST_DETECTIONS
    return Objects(image[kept], boxes[image, place][kept], scores[kept], label[kept])


def mask_feeds(outputs: Arrays, objects: Objects) -> Arrays:
    """Inputs of the mask head by name, for objects that these outputs hold."""
    pyramid = [f"{FEATURES}_{i}" for i in range(LEVELS)]
    return {
        **{name: outputs[name] for name in pyramid},
        BOXES: objects.boxes,
        IMAGES: objects.images,
    }
