"""The whole picture in a square: scaled by its long side, the rest grey. And the way back.

Every picture then costs the same at an operating point, whatever its shape, which is what deadlines
and batches need.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from engines.core import Float32Array, Output, UInt8Array
from engines.detection.scenes import Detections, InstanceMask, Int64Array
from engines.errors import InvalidInput
from engines.preprocessing import MAX_PIXELS, decode, read_header

GREY = 115
"""Of the padding: near the mean that the backbone was trained to subtract."""

HALF = 0.5
"""A probability from which a pixel is an object's."""


def inner_size(width: int, height: int, size: int) -> tuple[int, int]:
    """Width and height that a picture has within the square: the long side fills it."""
    scale = size / max(width, height)
    return max(round(width * scale), 1), max(round(height * scale), 1)


def letterbox(pixels: UInt8Array, size: int) -> UInt8Array:
    """Pixels (H, W, 3) as (size, size, 3), in the top left corner. Raises InvalidInput."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise InvalidInput(
            f"pixels must be uint8 (H, W, 3) and not empty, got {pixels.dtype} {pixels.shape}"
        )
    width, height = inner_size(pixels.shape[1], pixels.shape[0], size)
    square = np.full((size, size, 3), GREY, np.uint8)
    if (height, width) != pixels.shape[:2]:
        picture = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
        pixels = np.asarray(picture)
    square[:height, :width] = pixels
    return square


def decode_whole(data: bytes, size: int, *, max_pixels: int = MAX_PIXELS) -> UInt8Array:
    """Network input (size, size, 3) from an encoded picture.

    A JPEG is decoded at the smallest scale that need not be enlarged. Raises what `decode` raises.
    """
    header = read_header(data, max_pixels=max_pixels)
    shrink = min(size / max(header.width, header.height), 1.0)
    least = max(math.ceil(shrink * min(header.width, header.height)), 1)
    return letterbox(decode(data, min_short_side=least, max_pixels=max_pixels), size)


def to_picture(
    boxes: Float32Array,
    scores: Float32Array,
    labels: Int64Array,
    masks: Float32Array | None,
    *,
    size: int,
    width: int,
    height: int,
) -> Detections:
    """What an engine found in a square of `size` pixels, in the pixels of its picture.

    masks: probabilities (N, M, M) over each box. What lies in the padding is left out; boxes are
    clipped to the picture.
    """
    inner = inner_size(width, height, size)
    scale = np.array([inner[0] / width, inner[1] / height] * 2, np.float32)
    moved = boxes / scale
    limits = np.array([width, height, width, height], np.float32)
    clipped = np.clip(moved, 0, limits)
    inside = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
    pasted = None
    if masks is not None:
        pasted = tuple(
            paste(mask, box, width, height)
            for mask, box in zip(masks[inside], moved[inside].tolist(), strict=True)
        )
    return Detections(clipped[inside], scores[inside], labels[inside], pasted)


def detections_of(output: Output, place: int, size: int, width: int, height: int) -> Detections:
    """What an engine found in one image of its batch, in the pixels of a picture of that size."""
    count = int(output.arrays["counts"][place])
    masks = output.arrays.get("masks")
    return to_picture(
        np.asarray(output.arrays["boxes"][place, :count], np.float32),
        np.asarray(output.arrays["scores"][place, :count], np.float32),
        np.asarray(output.arrays["labels"][place, :count], np.int64),
        None if masks is None else np.asarray(masks[place, :count], np.float32),
        size=size,
        width=width,
        height=height,
    )


def paste(
    probabilities: Float32Array, box: tuple[float, ...] | list[float], width: int, height: int
) -> InstanceMask:
    """The pixels of a picture at which probabilities (M, M), spread over `box`, reach a half."""
    left, top, right, bottom = box
    x0, x1 = _pixels(left, right, width)
    y0, y1 = _pixels(top, bottom, height)
    across = _taps(x0, x1, left, right, probabilities.shape[1])
    down = _taps(y0, y1, top, bottom, probabilities.shape[0])
    return InstanceMask(x0, y0, down @ probabilities @ across.T >= HALF)


def _pixels(low: float, high: float, limit: int) -> tuple[int, int]:
    """The picture's pixels that a side of a box touches, at least one."""
    first = min(max(math.floor(low), 0), limit - 1)
    return first, min(max(math.ceil(high), first + 1), limit)


def _taps(first: int, last: int, low: float, high: float, count: int) -> Float32Array:
    """Linear weights of `count` samples spread over low to high, at pixel centres: (pixels, count).

    Outside the outermost samples' centres these hold; outside the box nothing is the object's.
    """
    centres = np.arange(first, last) + 0.5
    place = (centres - low) / max(high - low, 1e-6) * count - 0.5
    inside = (centres >= low) & (centres <= high)
    if not inside.any():
        # A box within one pixel: the pixel stands for it.
        inside[:] = True
    place = np.clip(place, 0, count - 1)
    below = np.minimum(place.astype(int), count - 2)
    weights = np.zeros((last - first, count), np.float32)
    rows = np.arange(last - first)
    weights[rows, below + 1] = place - below
    weights[rows, below] = 1 - (place - below)
    return weights * inside[:, None]
