"""Pictures of detection: shown whole, and drawn upon."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import simplejpeg  # type: ignore[import-untyped]
from PIL import Image, ImageDraw

from engines.core import UInt8Array
from engines.detection.letterbox import decode_whole, inner_size
from engines.detection.scenes import Detections
from engines.preprocessing import decode, upright_size
from service.images import Picture

MAX_DRAWN = 2048
"""Long side of a drawn picture in pixels, at most: larger ones are shown smaller."""

_COLOURS = np.array(
    [
        (230, 60, 60), (60, 180, 75), (255, 200, 25), (65, 110, 230), (245, 130, 50),
        (150, 60, 200), (70, 220, 230), (240, 50, 200), (190, 230, 70), (0, 150, 140),
    ],
    np.float32,
)  # fmt: skip
_TINT = 0.4
_QUALITY = 90


@dataclass(frozen=True, slots=True, eq=False)
class WholePicture(Picture):
    """A file that is shown to the network as a whole, in a grey square."""

    def at(self, size: int, *, crop_ratio: float) -> UInt8Array:
        """The network's input (size, size, 3); nothing is cropped.

        Raises ImageError for a file that turns out to be damaged.
        """
        return decode_whole(self.encoded_bytes, size, max_pixels=self.max_pixels)

    @property
    def encoded_bytes(self) -> bytes:
        """The file."""
        if not isinstance(self.source, bytes):
            raise TypeError("a whole picture is a file")
        return self.source

    def upright_size(self) -> tuple[int, int]:
        """Width and height once it is turned as its EXIF data say. Not for the event loop."""
        return upright_size(self.encoded_bytes, max_pixels=self.max_pixels)


def drawn(picture: WholePicture, found: Detections, labels: Sequence[str]) -> bytes:
    """A JPEG of the picture with what was found: masks tinted and outlined, else boxes.

    Takes up to a second for a large picture; not for the event loop.
    """
    width, height = picture.upright_size()
    shown = min(MAX_DRAWN, max(width, height))
    target = inner_size(width, height, shown)
    pixels = decode(
        picture.encoded_bytes, min_short_side=min(target), max_pixels=picture.max_pixels
    )
    if pixels.shape[1::-1] != target:
        pixels = np.array(Image.fromarray(pixels).resize(target, Image.Resampling.BILINEAR))
    scale = (target[0] / width, target[1] / height)
    if found.masks is None:
        _draw_boxes(pixels, found, scale)
    else:
        _draw_masks(pixels, found, scale)
    if len(labels) > 1:
        pixels = _named(pixels, found, labels, scale)
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=_QUALITY))


def _corners(box: Sequence[float], scale: tuple[float, float], pixels: UInt8Array) -> list[int]:
    """Left, top, right and bottom in the drawn picture, one pixel at least."""
    height, width = pixels.shape[:2]
    left, top = (min(int(box[k] * scale[k]), (width, height)[k] - 1) for k in (0, 1))
    right, bottom = (
        min(max(round(box[k + 2] * scale[k]), (left, top)[k] + 1), (width, height)[k])
        for k in (0, 1)
    )
    return [left, top, right, bottom]


def _draw_boxes(pixels: UInt8Array, found: Detections, scale: tuple[float, float]) -> None:
    line = max(1, max(pixels.shape[:2]) // 400)
    for label, box in zip(found.labels.tolist(), found.boxes.tolist(), strict=True):
        left, top, right, bottom = _corners(box, scale, pixels)
        inside = pixels[top:bottom, left:right]
        colour = _COLOURS[label % len(_COLOURS)]
        for edge in (inside[:line], inside[-line:], inside[:, :line], inside[:, -line:]):
            edge[:] = colour


def _draw_masks(pixels: UInt8Array, found: Detections, scale: tuple[float, float]) -> None:
    for i, mask in enumerate(found.masks or ()):
        left, top, right, bottom = _corners(mask.box, scale, pixels)
        small = Image.fromarray(mask.bitmap).resize(
            (right - left, bottom - top), Image.Resampling.NEAREST
        )
        inside = np.array(small, np.bool_)
        core = np.pad(inside, 1)
        core = core[:-2, 1:-1] & core[2:, 1:-1] & core[1:-1, :-2] & core[1:-1, 2:] & inside
        part = pixels[top:bottom, left:right]
        colour = _COLOURS[i % len(_COLOURS)]
        part[inside] = (part[inside] * (1 - _TINT) + colour * _TINT).astype(np.uint8)
        part[inside & ~core] = colour


def _named(
    pixels: UInt8Array, found: Detections, labels: Sequence[str], scale: tuple[float, float]
) -> UInt8Array:
    picture = Image.fromarray(pixels)
    pen = ImageDraw.Draw(picture)
    for label, box in zip(found.labels.tolist(), found.boxes.tolist(), strict=True):
        left, top, _, _ = _corners(box, scale, pixels)
        colour = tuple(int(value) for value in _COLOURS[label % len(_COLOURS)])
        pen.text((left + 2, top + 2), labels[label], fill=colour)
    return np.array(picture)
