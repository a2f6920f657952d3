"""Candidates that glance: which pairs and shares are worth measuring. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engines.core import Glance, OperatingPoint, Output, UInt8Array, static_point
from engines.evaluation import LabelledImages, evaluate_points
from engines.export.glances import MOST, _Tried, glancing_points, settled_glance, worth_measuring
from engines.export.pictures import PixelCache
from engines.folders import scan_folder
from tests.engines.evaluation.by_colour import FULL, SMALL, ByColour, write_pictures


def tried(name: str, macs: float, loss: float) -> _Tried:
    return _Tried(static_point(name, 8, 0), macs, loss)


def names(found: list[_Tried]) -> list[str]:
    return [one.point.name for one in found]


def quiet(line: str) -> None:
    """Takes progress lines."""


def test_what_a_mere_size_does_as_well_is_not_measured() -> None:
    found = worth_measuring([tried("a", 60, 0.4), tried("b", 70, 0.2)], [(50.0, 0.35)])
    assert names(found) == ["b"]


def test_of_two_about_as_dear_the_better_is_enough() -> None:
    found = worth_measuring([tried("a", 100, 0.30), tried("b", 98, 0.31), tried("c", 90, 0.4)], [])
    assert names(found) == ["a", "c"]


def test_who_is_dearer_and_worse_is_not_measured() -> None:
    assert names(worth_measuring([tried("a", 80, 0.3), tried("b", 100, 0.31)], [])) == ["a"]


def test_many_are_thinned_evenly_both_ends_kept() -> None:
    found = worth_measuring([tried(str(i), 1.1**-i, i) for i in range(50)], [])
    assert len(found) == MOST
    assert (names(found)[0], names(found)[-1]) == ("0", "49")


@pytest.fixture
def pixels(tmp_path: Path) -> PixelCache:
    found = scan_folder(write_pictures(tmp_path / "validation"))
    # The one that is labelled otherwise than it looks would be right by chance only.
    folder = replace(found, labels=np.array([0, 0, 1, 1, 1, 1, 2, 2, 0]))
    return PixelCache(LabelledImages(folder, 1.0), "validation", quiet)


class Named(ByColour):
    """Knows first looks by their size."""

    def infer(self, images: UInt8Array, points: Sequence[OperatingPoint]) -> Output:
        known = {16: FULL, 8: SMALL}
        found = super().infer(images, [known[point.image_size] for point in points])
        # No two images are equally sure.
        less = 1 - 1e-3 * np.arange(len(images))[:, None]
        rows = (np.asarray(found.arrays["probabilities"]) * less).astype(np.float32)
        return replace(found, arrays={"probabilities": rows})


def test_pairs_of_sizes_are_tried_on_the_pictures(pixels: PixelCache) -> None:
    """Sure of red at first sight: who looks again at the others saves work and loses little."""
    engine = Named()
    labels = pixels.pictures.folder.labels
    sizes = evaluate_points(engine, [FULL, SMALL], pixels.pictures)
    found = glancing_points(engine, sizes, pixels, labels, quiet)
    assert found
    for point in found:
        assert point.image_size == 16
        assert point.glance is not None
        assert point.glance.image_size == 8
        assert point.name.startswith("glance-8-16-")


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_the_images_is_looked_at_again(share: float) -> None:
    class Unsure(ByColour):
        def infer(self, images: UInt8Array, points: Sequence[OperatingPoint]) -> Output:
            found = super().infer(images, [SMALL] * len(images))
            sure = images[:, 0, 0, 0] / 255
            rows = np.stack([sure, 1 - sure, 0 * sure], axis=1).astype(np.float32)
            return replace(found, arrays={"probabilities": rows})

    images = np.stack([np.full((16, 16, 3), v, np.uint8) for v in range(140, 240, 10)])
    point = FULL.model_copy(update={"glance": Glance(image_size=8, confidence=0.0)})
    found = settled_glance(Unsure(), point, share, images).glance
    assert found is not None
    sure = images[:, 0, 0, 0] / 255
    again = (sure < found.confidence) | (found.confidence >= 1)
    assert again.mean() == share
