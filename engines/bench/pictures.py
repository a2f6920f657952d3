"""Pictures to measure and to calibrate with: from a folder, or made up where none is given."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from engines.core import UInt8Array
from engines.errors import ConfigError, ImageError
from engines.preprocessing import preprocess

MOST_PICTURES = 300
FEWEST_PICTURES = 8

_EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp"}
_GRAINS = (4, 16, 64)


class Pictures(Protocol):
    """Some pictures, the same at every size."""

    @property
    def source(self) -> str:
        """What they are, for reports."""

    @property
    def key(self) -> str:
        """Hex digits that change when the pictures do."""

    def at(self, size: int) -> UInt8Array:
        """All of them, (N, size, size, 3)."""


class FolderPictures:
    """At most MOST_PICTURES of a folder, at any depth, spread evenly over the sorted paths."""

    def __init__(self, root: Path, crop_ratio: float, fewest: int = FEWEST_PICTURES) -> None:
        """Raises ConfigError for a missing folder or fewer pictures than `fewest`."""
        if not root.is_dir():
            raise ConfigError(f"{root}: no such folder")
        there = sorted(path for path in root.rglob("*") if _is_picture(path.relative_to(root)))
        if len(there) < fewest:
            raise ConfigError(
                f"{root}: {len(there)} jpg, jpeg, png or webp files are too few, at least "
                f"{fewest} are needed"
            )
        count = min(len(there), MOST_PICTURES)
        self._files = [there[i * len(there) // count] for i in range(count)]
        self._crop_ratio = crop_ratio
        self.source = f"{count} of {len(there)} pictures below {root}"
        digest = hashlib.sha256(repr(crop_ratio).encode())
        for path in self._files:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        self.key = digest.hexdigest()

    def at(self, size: int) -> UInt8Array:
        """See `Pictures`. Raises ConfigError that names a file which cannot be decoded."""
        with ThreadPoolExecutor(2, thread_name_prefix="decode") as pool:
            return np.stack(list(pool.map(lambda path: self._decoded(path, size), self._files)))

    def _decoded(self, path: Path, size: int) -> UInt8Array:
        try:
            return preprocess(path.read_bytes(), size, crop_ratio=self._crop_ratio)
        except ImageError as error:
            raise ConfigError(f"'{path}': {error}") from None


class MadeUpPictures:
    """Seeded coloured clouds: enough to time a network, a poor stand-in for what int8 will see."""

    def __init__(self, seed: int, count: int = 32) -> None:
        self._seed, self._count = seed, count
        self.source = f"{count} made-up pictures (--images DIR takes real ones)"
        self.key = hashlib.sha256(f"{seed} {count}".encode()).hexdigest()

    def at(self, size: int) -> UInt8Array:
        """See `Pictures`."""
        rng = np.random.default_rng(self._seed)
        return np.stack([_clouds(rng, size) for _ in range(self._count)])


def _clouds(rng: np.random.Generator, size: int) -> UInt8Array:
    """Noise of several grains on top of each other, coarse ones strongest."""
    total = np.full((size, size, 3), 128.0)
    for grain in _GRAINS:
        noise = rng.integers(0, 256, (grain, grain, 3), np.uint8)
        smooth = Image.fromarray(noise).resize((size, size), Image.Resampling.BILINEAR)
        total += (np.asarray(smooth, np.float64) - 128.0) * (2.0 / np.sqrt(grain))
    return np.asarray(np.clip(total, 0, 255), np.uint8)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in _EXTENSIONS and not any(p.startswith(".") for p in path.parts)
