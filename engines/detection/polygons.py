"""Masks as COCO's polygons: outlines along the edges of pixels, so that nothing is lost.

A polygon is a flat list x0, y0, x1, y1, ... of corners of pixels, clockwise as it is seen; a mask
is the union of its polygons. Pixels that touch at a corner only belong to different polygons.
COCO's polygons cannot have holes: a mask with holes is cut from top to bottom, so that each of them
opens into a part, and the parts share the cut as a side.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from engines.detection.scenes import BoolArray, InstanceMask, Int64Array

Polygon = list[int]


def polygons_of(mask: InstanceMask) -> list[Polygon]:
    """The outlines in the pixels of the picture; none for a mask without pixels.

    Takes two walks over the bitmap at most, whatever its holes.
    """
    outlines, holes = _outlines(mask.bitmap)
    if not holes:
        return [_polygon(outline, mask.left, mask.top) for outline in outlines]
    # What a cut leaves closed on both of its sides was a hole before: one round of cuts is enough.
    edges = [0, *_cuts(holes), mask.bitmap.shape[1]]
    return [
        _polygon(outline, mask.left + first, mask.top)
        for first, last in pairwise(edges)
        for outline in _outlines(mask.bitmap[:, first:last])[0]
    ]


def _polygon(corners: Int64Array, left: int, top: int) -> Polygon:
    moved: Polygon = (corners + np.array([left, top])).ravel().tolist()
    return moved


def _cuts(holes: list[Int64Array]) -> list[int]:
    """The fewest columns, ascending, one of which touches each hole: the rightmost hole is opened
    at its left side, and with it all that reach so far; then the rightmost of the others."""
    sides = sorted(((int(hole[:, 0].min()), int(hole[:, 0].max())) for hole in holes), reverse=True)
    cuts: list[int] = []
    for left, right in sides:
        if not cuts or right < cuts[-1]:
            cuts.append(left)
    return cuts[::-1]


def _outlines(bitmap: BoolArray) -> tuple[list[Int64Array], list[Int64Array]]:
    """Corners (K, 2), x and y, of the outer outlines of a bitmap (h, w), and of those of its holes.

    A corner lies where one or three of four pixels are set, or two that touch there only: that one
    counts as two. Along a row as along a column corners are then joined in pairs.
    """
    framed = np.pad(bitmap, 1)
    quads = framed[:-1, :-1], framed[:-1, 1:], framed[1:, :-1], framed[1:, 1:]
    falling = quads[0] & quads[3] & ~quads[1] & ~quads[2]
    rising = quads[1] & quads[2] & ~quads[0] & ~quads[3]
    odd = quads[0] ^ quads[1] ^ quads[2] ^ quads[3]
    ys, xs = (odd | falling | rising).nonzero()
    twice = 1 + (falling | rising)[ys, xs]
    rises = np.repeat(rising[ys, xs], twice)
    ys, xs = np.repeat(ys, twice), np.repeat(xs, twice)
    second = np.zeros(len(ys), np.bool_)
    second[np.cumsum(twice)[twice == 2] - 1] = True
    # In a row the first of such two ends the edge from the left. In a column it ends that from
    # above where the upper left pixel is set, and begins that below where the upper right one is.
    across = _partners(np.arange(len(ys))).tolist()
    down = _partners(np.lexsort((second ^ rises, ys, xs))).tolist()
    outlines: list[Int64Array] = []
    holes: list[Int64Array] = []
    seen = bytearray(len(ys))
    for first in range(len(ys)):
        if seen[first]:
            continue
        ring: list[int] = []
        corner = first
        while not seen[corner]:
            beside = across[corner]
            seen[corner] = seen[beside] = True
            ring += (corner, beside)
            corner = down[beside]
        corners = np.stack((xs[ring], ys[ring]), axis=1)
        # Its first corner is its upper left one: what it encloses lies to the lower right.
        (outlines if bitmap[ys[first], xs[first]] else holes).append(corners)
    return outlines, holes


def _partners(order: Int64Array) -> Int64Array:
    """Of each corner the one that it is joined to: in that order they come in pairs."""
    partners = np.empty(len(order), np.int64)
    partners[order[::2]], partners[order[1::2]] = order[1::2], order[::2]
    return partners
