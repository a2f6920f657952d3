"""Pictures of detection: shown whole, and drawn upon."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import simplejpeg  # type: ignore[import-untyped]
from PIL import Image, ImageDraw

from engines.core import UInt8Array
from engines.detection.letterbox import decode_whole, inner_size, letterbox
from engines.detection.scenes import Detections
from engines.preprocessing import decode, read_header, upright_size
from service.images import Picture
from service.request import Reply
from service.schemas.detection import Limits

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
    """A picture that is shown to the network as a whole, in a grey square."""

    def at(self, size: int, *, crop_ratio: float) -> UInt8Array:
        """The network's input (size, size, 3); nothing is cropped.

        Raises ImageError for a file that turns out to be damaged.
        """
        if isinstance(self.source, bytes):
            return decode_whole(self.source, size, max_pixels=self.max_pixels)
        return letterbox(self.source, size)

    @property
    def encoded_bytes(self) -> bytes:
        """The file. TypeError where pixels were sent."""
        if not isinstance(self.source, bytes):
            raise TypeError("the picture was sent as pixels, not as a file")
        return self.source

    def upright_size(self) -> tuple[int, int]:
        """Width and height once it is turned as its EXIF data say. Not for the event loop."""
        if isinstance(self.source, bytes):
            return upright_size(self.source, max_pixels=self.max_pixels)
        height, width = self.source.shape[:2]
        return width, height

    @property
    def long_side(self) -> int:
        """In pixels."""
        if isinstance(self.source, bytes):
            header = read_header(self.source, max_pixels=self.max_pixels)
            return max(header.width, header.height)
        return int(max(self.source.shape[:2]))


@dataclass(frozen=True, slots=True, eq=False)
class InPicture:
    """What was found, in the pixels of a picture of that width and height, upright."""

    found: Detections
    width: int
    height: int


def in_picture(picture: WholePicture, reply: Reply, limits: Limits, *, masks: bool) -> InPicture:
    """What the reply to a picture found in it and `limits` let pass; with masks where it has any.

    Takes milliseconds where there are hundreds of masks: not for the event loop.
    """
    if reply.objects is None:
        raise TypeError("a detector's reply has objects")
    width, height = picture.upright_size()
    found = reply.objects.in_picture(
        size=reply.point.image_size,
        width=width,
        height=height,
        least_score=limits.min_score,
        most=limits.top,
        masks=masks,
    )
    return InPicture(found, width, height)


def mask_bytes(picture: WholePicture, reply: Reply, limits: Limits) -> int:
    """Memory that the masks of `in_picture` take, at most, and making the largest of them."""
    if reply.objects is None:
        return 0
    kept = (reply.objects.scores >= limits.min_score)[: limits.top]
    boxes = reply.objects.boxes[: len(kept)][kept]
    if not len(boxes):
        return 0
    scale = picture.long_side / reply.point.image_size
    areas = np.prod((boxes[:, 2:] - boxes[:, :2]) * scale + 2, axis=1)
    # A byte a pixel each; and while one is made its probabilities, in 32 bits.
    return int(areas.sum() + 4 * areas.max())


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
