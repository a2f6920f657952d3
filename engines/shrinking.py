"""Small copies of images: what each pixel of the copy is made of, and the slow exact way to do it.

Means of squares of pixels where the copy's side divides the image's; elsewhere a triangle as wide
as the copy is coarser, which is bilinear antialiased scaling. Weights are 256ths that add up to 1,
and both passes (down the columns, then along the rows) round to whole levels, so that engines that
do it fast (`csrc/shrink.hpp`) do exactly the same.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from engines.core import UInt8Array
from engines.errors import InvalidInput

ONE = 256
"""What weights add up to."""

_MOST_SIZES = 64


class Taps(NamedTuple):
    """Per pixel of a row of the copy: its first source pixel, int32 (size,), and the weights of
    that and those after it, uint16 (size, taps); all of them lie inside the source's row."""

    first: npt.NDArray[np.int32]
    weights: npt.NDArray[np.uint16]


@lru_cache(maxsize=_MOST_SIZES)
def taps(source: int, size: int) -> Taps:
    """Of a row of `source` pixels as one of `size`. Raises InvalidInput unless it gets smaller."""
    if not 1 <= size < source:
        raise InvalidInput(f"a copy of {source} pixels has 1 to {source - 1}, got {size}")
    scale, (factor, rest) = source / size, divmod(source, size)
    centers = (np.arange(size) + 0.5) * scale
    reach = scale / 2 if rest == 0 else scale
    first = np.clip(np.ceil(centers - reach - 0.5), 0, source - 1).astype(np.int32)
    last = np.clip(np.floor(centers + reach - 0.5), 0, source - 1).astype(np.int32)
    count = factor if rest == 0 else int((last - first).max()) + 1
    first = np.minimum(first, source - count).astype(np.int32)
    places = first[:, None] + np.arange(count)
    if rest == 0:
        exact = np.full((size, count), 1.0 / factor)
    else:
        exact = np.maximum(1.0 - np.abs(places + 0.5 - centers[:, None]) / scale, 0.0)
        exact /= exact.sum(axis=1, keepdims=True)
    whole = np.floor(exact * ONE).astype(np.int64)
    # What rounding down left over goes to those who lost most, the first of equals.
    lost = np.argsort(whole - exact * ONE, axis=1, kind="stable")
    missing = ONE - whole.sum(axis=1, keepdims=True)
    np.put_along_axis(
        whole,
        lost,
        np.take_along_axis(whole, lost, axis=1) + (np.arange(count) < missing),
        axis=1,
    )
    weights = whole.astype(np.uint16)
    for array in (first, weights):
        array.setflags(write=False)
    return Taps(first, weights)


def shrunk(images: UInt8Array, size: int) -> UInt8Array:
    """Square images (N, S, S, 3) as (N, size, size, 3). Raises InvalidInput unless size < S."""
    if images.ndim != 4 or images.shape[1] != images.shape[2]:
        raise InvalidInput(f"images to shrink must be square (N, S, S, 3), got {images.shape}")
    first, weights = taps(images.shape[1], size)
    for axis in (1, 2):
        shape = [1, 1, 1, 1]
        shape[axis] = size
        total = np.full(
            (*images.shape[:axis], size, *images.shape[axis + 1 :]), ONE // 2, np.uint16
        )
        for tap in range(weights.shape[1]):
            column = np.take(images, first + tap, axis=axis)
            total += weights[:, tap].reshape(shape) * column
        images = (total // ONE).astype(np.uint8)
    return images
