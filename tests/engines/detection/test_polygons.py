"""Outlines of masks: filling them gives the mask back, pixel for pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from engines.detection import polygons
from engines.detection.polygons import Polygon, polygons_of
from engines.detection.scenes import BoolArray, InstanceMask

LEFT, TOP = 3, 2

SHAPES = {
    "pixel": ["#"],
    "bar": ["###"],
    "corner touch": ["#.", ".#"],
    "other corner touch": [".#", "#."],
    "hole": ["###", "#.#", "###"],
    "two holes": ["#####", "#.#.#", "#####"],
    "holes that touch": ["####", "#.##", "##.#", "####"],
    "hole that touches the outside": [".##", "#.#", "###"],
    "pixel in a hole": ["#####", "#...#", "#.#.#", "#...#", "#####"],
    "parts": ["##..#", "##..#", ".....", "#.###"],
    "spiral": ["#####", "....#", "###.#", "#...#", "#####"],
    "nothing": ["...", "..."],
}


def bitmap(rows: list[str]) -> BoolArray:
    return np.array([[mark == "#" for mark in row] for row in rows])


def filled(outlines: list[Polygon], mask: InstanceMask) -> npt.NDArray[np.int64]:
    """How many of the polygons each pixel's centre lies in: slow, and by crossing counts alone."""
    height, width = mask.bitmap.shape
    rows, columns = np.mgrid[: height + TOP + 2, : width + LEFT + 2] + 0.5
    counts = np.zeros(rows.shape, np.int64)
    for polygon in outlines:
        corners = np.array(polygon).reshape(-1, 2)
        inside = np.zeros(rows.shape, np.bool_)
        for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            assert (x0 == x1) != (y0 == y1), "sides are edges of pixels"
            if x0 == x1:
                inside ^= (columns < x0) & (rows > min(y0, y1)) & (rows < max(y0, y1))
        counts += inside
    return counts


def assert_exact(pixels: BoolArray) -> list[Polygon]:
    mask = InstanceMask(LEFT, TOP, pixels)
    outlines = polygons_of(mask)
    counts = filled(outlines, mask)
    # The union is the mask, and no two of them overlap.
    height, width = counts.shape
    np.testing.assert_array_equal(counts, mask.window(0, 0, width, height).astype(int))
    return outlines


@pytest.mark.parametrize("rows", SHAPES.values(), ids=SHAPES)
def test_filling_gives_the_mask_back(rows: list[str]) -> None:
    assert_exact(bitmap(rows))


@pytest.mark.parametrize("seed", range(40))
def test_filling_gives_any_mask_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert_exact(rng.random(tuple(rng.integers(1, 16, 2))) < rng.uniform(0.1, 0.95))


def test_a_rectangle_has_four_corners_clockwise() -> None:
    assert assert_exact(np.ones((4, 5), np.bool_)) == [[3, 2, 8, 2, 8, 6, 3, 6]]


def test_parts_are_polygons_of_their_own() -> None:
    assert len(assert_exact(bitmap(SHAPES["parts"]))) == 4
    assert len(assert_exact(bitmap(SHAPES["corner touch"]))) == 2
    assert assert_exact(bitmap(SHAPES["nothing"])) == []


def test_holes_are_cut_open() -> None:
    """COCO's polygons are filled whole: one around a hole would fill that too."""
    left, right = sorted(assert_exact(bitmap(SHAPES["hole"])))
    assert left == [3, 2, 4, 2, 4, 5, 3, 5]
    assert right[:2] == [4, 2]
    assert len(assert_exact(bitmap(SHAPES["two holes"]))) == 3


def test_a_bitmap_is_walked_over_twice_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many holes it has."""
    walked: list[int] = []
    outlines = polygons._outlines

    def counted(part: BoolArray) -> Any:
        walked.append(part.size)
        return outlines(part)

    monkeypatch.setattr(polygons, "_outlines", counted)
    rows, columns = np.mgrid[:61, :61]
    assert_exact(~((rows % 4 == 2) & ((columns + rows // 4) % 6 == 2)))
    assert sum(walked) == 2 * 61 * 61


def test_a_cut_opens_every_hole_that_it_meets() -> None:
    """Three holes above one another need one, the fourth to their left another."""
    shape = ["########", "#.##..##", "########", "###...##", "########", "####.###", "########"]
    assert len(assert_exact(bitmap(shape))) == 3


@pytest.mark.parametrize("seed", range(10))
def test_the_standards_own_code_fills_them_alike(seed: int) -> None:
    coco_mask = pytest.importorskip("faster_coco_eval.core").mask
    rng = np.random.default_rng(seed)
    mask = InstanceMask(LEFT, TOP, rng.random((9, 12)) < 0.7)
    shape = 9 + TOP + 1, 12 + LEFT + 1
    outlines = [list(map(float, polygon)) for polygon in polygons_of(mask)]
    drawn = np.asarray(coco_mask.decode(coco_mask.frPyObjects(outlines, *shape))).max(axis=2)
    np.testing.assert_array_equal(drawn > 0, mask.window(0, 0, shape[1], shape[0]))


def test_a_large_outline_encloses_as_many_pixels() -> None:
    rows, columns = np.mgrid[:900, :900]
    disc = (rows - 450) ** 2 + (columns - 450) ** 2 < 440**2
    (outline,) = polygons_of(InstanceMask(0, 0, disc))
    corners = np.array(outline).reshape(-1, 2)
    # The shoelace formula gives its area in pixels, positive as it goes clockwise.
    x, y = corners.T
    assert (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2 == disc.sum()
