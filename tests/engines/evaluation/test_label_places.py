"""Labels of points: beside their own, and off the others."""

from __future__ import annotations

import itertools

import numpy as np

from engines.evaluation.label_places import Box, place_labels

INSIDE = (0.0, 0.0, 1000.0, 600.0)
SIZE = (90.0, 12.0)


def boxes_of(anchors: list[list[float]], whiskers: tuple[Box, ...] = ()) -> list[Box]:
    offsets = place_labels(anchors, [SIZE] * len(anchors), whiskers, INSIDE)
    return [
        (x + dx, y + dy, x + dx + SIZE[0], y + dy + SIZE[1])
        for (x, y), (dx, dy) in zip(anchors, offsets, strict=True)
    ]


def overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def test_a_lonely_label_stands_right_of_its_point() -> None:
    [(left, bottom, _, top)] = boxes_of([[500.0, 300.0]])
    assert 505 < left < 515
    assert bottom + top == 600


def test_crowded_labels_cover_neither_each_other_nor_markers() -> None:
    rng = np.random.default_rng(0)
    anchors = [[400.0 + 60 * rng.random(), 250.0 + 100 * rng.random()] for _ in range(6)]
    boxes = boxes_of(anchors)
    assert not any(overlap(a, b) for a, b in itertools.combinations(boxes, 2))
    markers = [(x - 3, y - 3, x + 3, y + 3) for x, y in anchors]
    assert not any(overlap(box, marker) for box in boxes for marker in markers)


def test_labels_stay_in_the_frame() -> None:
    for left, bottom, right, top in boxes_of([[995.0, 598.0], [3.0, 2.0]]):
        assert left >= 0
        assert bottom >= 0
        assert right <= 1000
        assert top <= 600


def test_a_label_keeps_off_whiskers_where_it_can() -> None:
    whisker = (515.0, 0.0, 518.0, 600.0)
    [box] = boxes_of([[500.0, 300.0]], (whisker,))
    assert not overlap(box, whisker)
