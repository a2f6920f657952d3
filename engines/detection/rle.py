"""COCO's run lengths: masks as runs of pixels down the columns, off first, and their short text.

Our own few lines, since answers are written where neither torch nor COCO's tools are installed.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np

from engines.detection.scenes import BoolArray, InstanceMask, Int64Array
from engines.errors import InvalidInput

# A character carries five bits and whether another follows, moved to printable ones.
_BITS, _MORE, _FIRST = 5, 0x20, 48


class CocoRle(TypedDict):
    """As COCO writes it. size: height and width of the picture. counts: the runs, as text."""

    size: list[int]
    counts: str


def coco_rle(mask: InstanceMask, width: int, height: int) -> CocoRle:
    """The mask in a picture of that size."""
    return CocoRle(size=[height, width], counts=_spelled(_runs(mask, width, height)))


def mask_of_rle(size: tuple[int, int], counts: str | list[int]) -> BoolArray:
    """The picture's mask (H, W) from its (height, width) and runs, as text or as numbers.

    Raises InvalidInput for runs that are damaged or do not fill the picture.
    """
    height, width = size
    runs = np.asarray(_read(counts) if isinstance(counts, str) else counts, np.int64)
    if runs.ndim != 1 or (runs < 0).any() or runs.sum() != height * width:
        raise InvalidInput(f"the runs of a mask do not add up to a picture of {width}x{height}")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def _runs(mask: InstanceMask, width: int, height: int) -> Int64Array:
    left, top, right, bottom = mask.box
    if right > width or bottom > height:
        raise InvalidInput(f"the mask at {mask.box} leaves its picture of {width}x{height}")
    rows, columns = mask.bitmap.shape
    # Only the object's box is laid out, with one row that is off below it: it stands for all that
    # are between the end of a column and the begin of the next, unless there are none.
    step = rows + (rows < height)
    pixels = np.zeros((columns, step), np.bool_)
    pixels[:, :rows] = mask.bitmap.T
    places = np.flatnonzero(np.diff(pixels.ravel(), prepend=False, append=False))
    column, row = np.divmod(places, step)
    changes = (left + column) * height + top + row
    total = width * height
    return np.diff(np.append(changes[changes < total], total), prepend=0)


def _spelled(runs: Int64Array) -> str:
    text = bytearray()
    values = runs.tolist()
    for place, run in enumerate(values):
        # From the fourth on, differences to the run before last: those are short.
        value = run - values[place - 2] if place > 2 else run
        more = True
        while more:
            five = value & (_MORE - 1)
            value >>= _BITS
            more = value != (-1 if five & (_MORE >> 1) else 0)
            text.append(_FIRST + (five | (_MORE if more else 0)))
    return text.decode("ascii")


def _read(text: str) -> list[int]:
    runs: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - _FIRST
        if not 0 <= code < 2 * _MORE or shift > 60:
            raise InvalidInput(f"'{character}' cannot stand in the runs of a mask")
        value |= (code & (_MORE - 1)) << shift
        shift += _BITS
        if code & _MORE:
            continue
        if code & (_MORE >> 1):
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise InvalidInput("the runs of a mask end amid a number")
    return runs
