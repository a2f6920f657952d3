"""The nouns of detection: a picture with its true objects, and what a detector finds in one.

Boxes are float32 (N, 4) in pixels of the upright picture: left, top, right, bottom, of which right
and bottom lie behind the last pixel. Labels are int64 (N,), places in a list of names from 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engines.core import Float32Array
from engines.errors import InvalidInput

BoolArray = npt.NDArray[np.bool_]
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class InstanceMask:
    """Which pixels are one object's: `bitmap` (h, w) with its corner at pixel (left, top).

    Only the object's surroundings are kept: hundreds of masks of a picture then fit into memory.
    """

    left: int
    top: int
    bitmap: BoolArray

    def __post_init__(self) -> None:
        if self.bitmap.dtype != np.bool_ or self.bitmap.ndim != 2 or not self.bitmap.size:
            raise InvalidInput(
                f"a mask is bool (h, w) and not empty, got {self.bitmap.dtype} {self.bitmap.shape}"
            )
        if self.left < 0 or self.top < 0:
            raise InvalidInput(f"a mask cannot begin at ({self.left}, {self.top})")

    @classmethod
    def of(cls, picture: BoolArray) -> InstanceMask:
        """Cut out of a mask of the whole picture (H, W); InvalidInput where no pixel is set."""
        rows, columns = (np.flatnonzero(picture.any(axis=axis)) for axis in (1, 0))
        if not len(rows):
            raise InvalidInput("a mask has at least one pixel")
        top, left = int(rows[0]), int(columns[0])
        return cls(left, top, picture[top : rows[-1] + 1, left : columns[-1] + 1].copy())

    @cached_property
    def area(self) -> int:
        """Number of pixels."""
        return int(self.bitmap.sum())

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the bitmap."""
        height, width = self.bitmap.shape
        return self.left, self.top, self.left + width, self.top + height

    def window(self, left: int, top: int, right: int, bottom: int) -> BoolArray:
        """That part of the picture, (bottom - top, right - left)."""
        part = np.zeros((bottom - top, right - left), np.bool_)
        x0, y0, x1, y1 = self.box
        xs, ys = slice(max(left, x0), min(right, x1)), slice(max(top, y0), min(bottom, y1))
        if xs.start < xs.stop and ys.start < ys.stop:
            part[ys.start - top : ys.stop - top, xs.start - left : xs.stop - left] = self.bitmap[
                ys.start - y0 : ys.stop - y0, xs.start - x0 : xs.stop - x0
            ]
        return part


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture and its objects, as annotated. width, height: of the upright picture.

    masks: one per object; None where the data has boxes only. ignored: bool (N,), objects that are
    neither trained on nor counted (COCO's crowds, VOC's difficult ones).
    """

    file: Path
    width: int
    height: int
    boxes: Float32Array
    labels: Int64Array
    ignored: BoolArray
    masks: tuple[InstanceMask, ...] | None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class SceneSet:
    """The annotated pictures of one split, sorted by file. labels: names, in order. split: which,
    such as `train`."""

    root: Path
    labels: tuple[str, ...]
    scenes: tuple[Scene, ...]
    split: str

    @property
    def has_masks(self) -> bool:
        """Whether every object has a mask."""
        return all(scene.masks is not None for scene in self.scenes)


@dataclass(frozen=True, eq=False)
class Detections:
    """What was found in a picture, surest first. scores: float32 (N,), 0 to 1. masks: None where
    the detector finds boxes only."""

    boxes: Float32Array
    scores: Float32Array
    labels: Int64Array
    masks: tuple[InstanceMask, ...] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def surest(self, most: int, least_score: float = 0.0) -> Detections:
        """At most that many, none below `least_score`."""
        count = min(int((self.scores >= least_score).sum()), most)
        masks = None if self.masks is None else self.masks[:count]
        return Detections(self.boxes[:count], self.scores[:count], self.labels[:count], masks)


def scene_of(
    file: Path,
    size: tuple[int, int],
    boxes: Sequence[Sequence[float]],
    labels: Sequence[int],
    *,
    ignored: Sequence[bool] | None = None,
    masks: Sequence[InstanceMask] | None = None,
) -> Scene:
    """A scene of a picture of `size` (width, height).

    Boxes are clipped to the picture. Raises InvalidInput for lists of different lengths, labels
    below 0 and boxes that then have no area.
    """
    width, height = size
    known = np.asarray(boxes, np.float32).reshape(-1, 4)
    ignoring = np.zeros(len(known), np.bool_) if ignored is None else np.asarray(ignored, np.bool_)
    counts = {len(known), len(labels), len(ignoring), len(known if masks is None else masks)}
    if len(counts) != 1:
        raise InvalidInput(f"{file}: boxes, labels and masks differ in number: {sorted(counts)}")
    clipped = np.clip(known, 0, np.array([width, height, width, height], np.float32))
    empty = (clipped[:, 2:] <= clipped[:, :2]).any(axis=1) | ~np.isfinite(known).all(axis=1)
    if empty.any():
        at = int(empty.argmax())
        raise InvalidInput(
            f"{file}: object {at + 1} has a box without area in the picture of {width}x{height}: "
            f"{known[at].tolist()}"
        )
    numbers = np.asarray(labels, np.int64).reshape(-1)
    if len(numbers) and numbers.min() < 0:
        raise InvalidInput(f"{file}: labels count from 0, got {int(numbers.min())}")
    return Scene(
        file, width, height, clipped, numbers, ignoring, None if masks is None else tuple(masks)
    )
