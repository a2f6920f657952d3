"""Where the labels of crowded points go. Plain geometry, in pixels; y grows upwards."""

from __future__ import annotations

from collections.abc import Sequence

Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""
Boxes = list[Box]

_GAP = 9.0
_MARKER = 7.0
# Nearest first; each further ring costs as much as covering this many square pixels.
_RINGS, _RING_PRICE = (1.0, 2.0, 3.2, 4.6), 60.0
# A covered label is unreadable, a crossed whisker is only ugly.
_LABEL_PRICE, _MARKER_PRICE, _WHISKER_PRICE, _OUTSIDE_PRICE = 4.0, 2.0, 0.8, 10.0


def place_labels(
    anchors: Sequence[Sequence[float]],
    sizes: Sequence[tuple[float, float]],
    whiskers: Sequence[Box],
    inside: Box,
) -> list[tuple[float, float]]:
    """Offsets of labels' lower left corners from their points' anchors (x, y).

    sizes: width and height of each label. whiskers: thin boxes to keep off. inside: what labels
    should not leave. Greedy, from the points with most neighbours to those with fewest.
    """
    markers = [(x - _MARKER, y - _MARKER, x + _MARKER, y + _MARKER) for x, y in anchors]
    placed: dict[int, Box] = {}
    offsets: dict[int, tuple[float, float]] = {}
    for i in sorted(range(len(anchors)), key=lambda i: -_crowd(anchors, sizes[i][0], i)):
        (x, y), size = anchors[i], sizes[i]

        def price(
            candidate: tuple[float, tuple[float, float]], x: float = x, y: float = y, i: int = i
        ) -> float:
            ring, (dx, dy) = candidate
            box = (x + dx, y + dy, x + dx + sizes[i][0], y + dy + sizes[i][1])
            area = sizes[i][0] * sizes[i][1]
            return (
                ring * _RING_PRICE
                + _LABEL_PRICE * sum(_shared(box, other) for other in placed.values())
                + _MARKER_PRICE * sum(_shared(box, other) for other in markers)
                + _WHISKER_PRICE * sum(_shared(box, other) for other in whiskers)
                + _OUTSIDE_PRICE * (area - _shared(box, inside))
            )

        _, (dx, dy) = min(_candidates(size), key=price)
        offsets[i] = (dx, dy)
        placed[i] = (x + dx, y + dy, x + dx + size[0], y + dy + size[1])
    return [offsets[i] for i in range(len(anchors))]


def _candidates(size: tuple[float, float]) -> list[tuple[float, tuple[float, float]]]:
    """Rings of places around a point: right, left, above, below and the corners."""
    width, height = size
    found = []
    for ring in _RINGS:
        gap = _GAP * ring
        for dx in (gap, -gap - width, -width / 2):
            for dy in (-height / 2, gap, -gap - height):
                if (dx, dy) != (-width / 2, -height / 2):
                    found.append((ring, (dx, dy)))
    return found


def _crowd(anchors: Sequence[Sequence[float]], reach: float, i: int) -> int:
    x, y = anchors[i]
    return sum(abs(a - x) < reach and abs(b - y) < reach for a, b in anchors)


def _shared(a: Box, b: Box) -> float:
    """The area that two boxes share."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0.0) * max(height, 0.0)
