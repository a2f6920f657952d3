"""Pictures of a wanted size in pixels and bytes, where no real ones are given."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from engines.core import UInt8Array
from service.load.pictures import PictureFile

_GRAINS = (3, 12, 48)
_NEAR = 0.05
_QUALITIES = range(20, 99)


def made_up_jpeg(width: int, height: int, num_bytes: int, seed: int = 0) -> PictureFile:
    """A JPEG of coloured clouds, as near to `num_bytes` as its quality allows."""
    pixels = _clouds(width, height, np.random.default_rng(seed))
    low, high = _QUALITIES[0], _QUALITIES[-1]
    best = _encoded(pixels, low)
    while low <= high:
        quality = (low + high) // 2
        data = _encoded(pixels, quality)
        if abs(len(data) - num_bytes) < abs(len(best) - num_bytes):
            best = data
        if abs(len(data) - num_bytes) <= _NEAR * num_bytes:
            break
        low, high = (quality + 1, high) if len(data) < num_bytes else (low, quality - 1)
    return PictureFile(f"{width}x{height}-{seed}.jpg", "image/jpeg", best)


def _clouds(width: int, height: int, rng: np.random.Generator) -> UInt8Array:
    """Smooth colours of several grains, with some noise on top, as a camera adds."""
    total = np.zeros((height, width, 3), np.float32)
    for grain in _GRAINS:
        rows, columns = height // (2 * grain) + 2, width // (2 * grain) + 2
        coarse = rng.integers(0, 256, (rows, columns, 3), np.uint8)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        total += np.asarray(smooth, np.float32) / len(_GRAINS)
    total += rng.normal(0, 4, total.shape).astype(np.float32)
    return np.clip(total, 0, 255).astype(np.uint8)


def _encoded(pixels: UInt8Array, quality: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return file.getvalue()
