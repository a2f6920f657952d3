"""Pictures to export with: a few of a folder, and their pixels prepared once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from engines.core import UInt8Array
from engines.evaluation import LabelledImages
from engines.folders import ImageFolder, scan_folder

MOST_PICTURES = 512

Say = Callable[[str], None]


class Pixels(Protocol):
    """The same pictures at any image size."""

    def at(self, size: int) -> UInt8Array:
        """uint8 (N, size, size, 3)."""


@dataclass
class PixelCache:
    """Pictures as arrays, prepared once per image size. `what` they are is said."""

    pictures: LabelledImages
    what: str
    say: Say

    def __post_init__(self) -> None:
        self._found: dict[int, UInt8Array] = {}

    def at(self, size: int) -> UInt8Array:
        """uint8 (N, size, size, 3)."""
        if size not in self._found:
            count = len(self.pictures.folder.files)
            self.say(f"preparing {count} {self.what} images at {size} px")
            parts = [views[size] for _, views in self.pictures.chunks([size])]
            self._found[size] = np.concatenate(parts)
        return self._found[size]


def some_pictures(folder: Path) -> ImageFolder:
    """At most MOST_PICTURES pictures, evenly from all class folders; ConfigError for none."""
    return scan_folder(folder, min_classes=1).thinned(MOST_PICTURES)
