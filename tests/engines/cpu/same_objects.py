"""Whether two engines found the same objects. Needs no torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from engines.core import Output

OVERLAP, SHARE = 0.95, 0.99
SCORE_BOUND = MASK_BOUND = 1e-4


def assert_same_objects(found: Output, wanted: Output) -> None:
    """Of each side's objects SHARE or more are among the other's: the same label, IoU at least
    OVERLAP, score and mask within their bounds."""
    assert found.arrays.keys() == wanted.arrays.keys()
    for one, other in ((found, wanted), (wanted, found)):
        for i, count in enumerate(one.arrays["counts"].tolist()):
            matched = sum(_has_twin(one, i, d, other) for d in range(count))
            assert matched >= SHARE * count, f"image {i}: {matched} of {count}"


def _has_twin(one: Output, i: int, d: int, other: Output) -> bool:
    count = int(other.arrays["counts"][i])
    boxes = other.arrays["boxes"][i, :count].astype(np.float64)
    alike = _overlaps(one.arrays["boxes"][i, d].astype(np.float64), boxes) >= OVERLAP
    alike &= other.arrays["labels"][i, :count] == one.arrays["labels"][i, d]
    scores = other.arrays["scores"][i, :count].astype(np.float64)
    alike &= np.abs(scores - float(one.arrays["scores"][i, d])) <= SCORE_BOUND
    if "masks" in one.arrays and alike.any():
        masks = other.arrays["masks"][i, :count][alike].astype(np.float64)
        apart = np.abs(masks - one.arrays["masks"][i, d].astype(np.float64))
        return bool((apart.max(axis=(1, 2)) <= MASK_BOUND).any())
    return bool(alike.any())


def _overlaps(
    box: npt.NDArray[np.float64], boxes: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    total = (box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) - shared
    # Boxes at the edge may have no area.
    equal = np.abs(boxes - box).max(axis=1, initial=0.0) < 1e-3
    return np.where(equal, 1.0, shared / np.maximum(total, 1e-9))
