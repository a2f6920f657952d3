"""Pictures of detection: shown whole, and drawn upon."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import simplejpeg  # type: ignore[import-untyped]
from PIL import Image, ImageDraw

from engines.core import UInt8Array
from engines.detection.letterbox import HALF, decode_whole, inner_size, letterbox
from engines.detection.scenes import Detections
from engines.preprocessing import decode, read_header, upright_size
from service.errors import BadRequest
from service.explain import Kept
from service.images import Picture
from service.request import Reply
from service.schemas.detection import Limits

MAX_DRAWN = 2048
"""Long side of a drawn picture in pixels, at most: larger ones are shown smaller."""

MOST_MASK_PIXELS = 100_000_000
"""Of the boxes of one answer's masks: a thread makes that many in about a second."""

Floats = npt.NDArray[np.float64]

_COLOURS = np.array(
    [
        (230, 60, 60), (60, 180, 75), (255, 200, 25), (65, 110, 230), (245, 130, 50),
        (150, 60, 200), (70, 220, 230), (240, 50, 200), (190, 230, 70), (0, 150, 140),
    ],
    np.float32,
)  # fmt: skip
_TINT = 0.4
_SKIPPED = np.array((40, 90, 255), np.float64)
_SKIPPED_TINT = 0.45
_ROWS = 64
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


def overlay_bytes(picture: WholePicture) -> int:
    """Memory that drawing upon a picture takes: decoded, scaled and encoded, thrice three bytes a
    pixel."""
    header = picture.header
    pixels = MAX_DRAWN**2 if header is None else header.width * header.height
    return 9 * pixels


def mask_bytes(answered: Iterable[tuple[WholePicture, Reply]], limits: Limits) -> int:
    """Memory that the masks of `in_picture` take, at most, their texts, and making the largest.

    Raises BadRequest where making all of them would take too long.
    """
    pixels, num_bytes = 0, 0
    for picture, reply in answered:
        of_picture = _mask_sizes(picture, reply, limits)
        if of_picture is None:
            continue
        areas, sides, outlines = of_picture
        pixels += int(areas.sum())
        # A byte a pixel and the outline's text are kept. Made one by one are the probabilities, of
        # 32 bits, from weights along both sides, and then runs or corners along the outline.
        kept = areas.sum() + 32 * outlines.sum()
        making = (7 * areas + 220 * sides + 60 * outlines).max()
        num_bytes += int(kept + making) + 2**15
    if pixels > MOST_MASK_PIXELS:
        raise BadRequest(
            f"the masks that were found have {pixels:,} pixels, the limit is {MOST_MASK_PIXELS:,}: "
            "ask for fewer by 'top' or 'min_score', or send a smaller picture"
        )
    return num_bytes


def _mask_sizes(
    picture: WholePicture, reply: Reply, limits: Limits
) -> tuple[Floats, Floats, Floats] | None:
    """Per mask of a picture, in its pixels: area of its box, sum of two sides, and about how long
    the outline is, at most. None where there are no masks."""
    objects = reply.objects
    if objects is None or objects.masks is None:
        return None
    kept = (objects.scores >= limits.min_score)[: limits.top]
    boxes, masks = objects.boxes[: len(kept)][kept], objects.masks[: len(kept)][kept]
    if not len(boxes):
        return None
    scale = picture.long_side / reply.point.image_size
    spans = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64) * scale + 2
    # An outline passes only between probabilities of which some reach a half and some do not, and
    # along the box.
    on = np.pad(masks >= HALF, ((0, 0), (1, 1), (1, 1)), "edge").astype(np.uint8)
    corners = on[:, :-1, :-1] + on[:, 1:, :-1] + on[:, :-1, 1:] + on[:, 1:, 1:]
    crossed = (corners % 4 != 0).sum(axis=(1, 2)) / masks.shape[1]
    sides = spans.sum(axis=1)
    return spans.prod(axis=1), sides, sides * (1 + crossed)


def drawn(
    picture: WholePicture,
    found: Detections,
    labels: Sequence[str],
    kept: Kept | None = None,
    size: int = 1,
) -> bytes:
    """A JPEG of the picture with what was found: masks tinted and outlined, else boxes.

    kept: what maskers kept of the square of that size that the network saw; the rest is tinted
    blue. Takes up to a second for a large picture; not for the event loop.
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
    if kept is not None:
        _tint_skipped(pixels, kept, inner_size(width, height, size), size)
    if found.masks is None:
        _draw_boxes(pixels, found, scale)
    else:
        _draw_masks(pixels, found, scale)
    if len(labels) > 1:
        pixels = _named(pixels, found, labels, scale)
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=_QUALITY))


def _tint_skipped(pixels: UInt8Array, kept: Kept, inner: tuple[int, int], size: int) -> None:
    """inner: width and height of the picture in the upper left corner of the square."""
    height, width = pixels.shape[:2]
    xs, ys = (
        (np.arange(count) + 0.5) / count * side / size
        for count, side in zip((width, height), inner, strict=True)
    )
    # A few rows at a time: in floats the whole picture would be eight times as large.
    for top in range(0, height, _ROWS):
        rows = pixels[top : top + _ROWS]
        tint = _SKIPPED_TINT * (1 - kept.shares(ys[top : top + _ROWS], xs))[:, :, np.newaxis]
        rows[:] = rows * (1 - tint) + _SKIPPED * tint


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
