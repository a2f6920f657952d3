"""Annotated pictures to measure detectors with: of all sorts, or those that are mostly empty."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np

from engines.bench.pictures import MOST_PICTURES
from engines.core import UInt8Array
from engines.detection.scenes import Scene, SceneSet
from engines.evaluation.detection import covered, square


class ScenePictures:
    """At most MOST_PICTURES of a split, evenly from its sorted files: see `Pictures`."""

    def __init__(self, scenes: SceneSet) -> None:
        count = min(len(scenes.scenes), MOST_PICTURES)
        self.scenes = evenly(scenes.scenes, count)
        self.source = f"{count} of {len(scenes.scenes)} pictures of {scenes.root}"
        digest = hashlib.sha256()
        for scene in self.scenes:
            digest.update(hashlib.sha256(scene.file.read_bytes()).digest())
        self.key = digest.hexdigest()

    def at(self, size: int) -> UInt8Array:
        """All of them, (N, size, size, 3). ConfigError where one cannot be read."""
        return np.stack([square(scene, size) for scene in self.scenes])


def foreground(scene: Scene) -> float:
    """Share of a picture that is some object, by its annotation: masks, or boxes where it has no
    masks; overlaps counted once."""
    if scene.masks is None:
        return covered(scene)
    seen = np.zeros((scene.height, scene.width), np.bool_)
    for mask in scene.masks:
        left, top, right, bottom = mask.box
        seen[top:bottom, left:right] |= mask.bitmap
    return float(seen.mean())


def emptiest(scenes: Sequence[Scene], share: float) -> list[Scene]:
    """That share of the scenes, one at least, with the least foreground; of equals the earlier."""
    ordered = sorted(scenes, key=foreground)
    return ordered[: max(math.ceil(share * len(scenes)), 1)]


def by_foreground(scenes: Sequence[Scene], count: int) -> list[Scene]:
    """At most that many that stand for all, from the emptiest to the fullest."""
    return evenly(sorted(scenes, key=foreground), count)


def evenly(scenes: Sequence[Scene], count: int) -> list[Scene]:
    """At most that many, from the middle of as many equal parts."""
    count = min(count, len(scenes))
    return [scenes[(2 * i + 1) * len(scenes) // (2 * count)] for i in range(count)]
