"""Which annotated pictures are measured, and which count as mostly empty."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engines.bench.detectors.scenes import (
    ScenePictures,
    by_foreground,
    emptiest,
    evenly,
    foreground,
)
from engines.detection.read import read_folder
from engines.detection.scenes import InstanceMask, Scene, scene_of
from tests.engines.detection.tiny import write_nuclei


def scene(name: str, *boxes: tuple[int, int, int, int], masks: bool = False) -> Scene:
    """Of 10 x 10 pixels; masks fill the left half of their boxes."""
    halves = [
        InstanceMask(left, top, np.ones((bottom - top, (right - left) // 2), np.bool_))
        for left, top, right, bottom in boxes
    ]
    return scene_of(Path(name), (10, 10), boxes, [0] * len(boxes), masks=halves if masks else None)


def test_foreground_is_what_masks_cover_and_boxes_where_there_are_none() -> None:
    boxes = ((0, 0, 4, 5), (0, 0, 4, 10))
    assert foreground(scene("a", *boxes)) == pytest.approx(0.4)
    assert foreground(scene("a", *boxes, masks=True)) == pytest.approx(0.2)
    assert foreground(scene("a")) == 0.0


def test_the_emptiest_are_those_with_the_least_foreground() -> None:
    scenes = [scene(str(i), (0, 0, 10, height)) for i, height in enumerate((5, 1, 9, 1, 3))]
    assert [each.file.name for each in emptiest(scenes, 0.4)] == ["1", "3"]
    assert [each.file.name for each in emptiest(scenes, 0.41)] == ["1", "3", "4"]
    assert [each.file.name for each in emptiest(scenes, 0.01)] == ["1"]
    assert len(emptiest(scenes, 1.0)) == 5
    assert [each.file.name for each in by_foreground(scenes, 3)] == ["1", "4", "2"]


def test_a_few_stand_for_all_from_one_end_to_the_other() -> None:
    scenes = [scene(str(i)) for i in range(9)]
    assert [each.file.name for each in evenly(scenes, 3)] == ["1", "4", "7"]
    assert evenly(scenes, 20) == scenes


def test_pictures_are_squares_of_a_split_and_their_key_changes_with_them(tmp_path: Path) -> None:
    write_nuclei(tmp_path, {"test": (2, 0, 3)})
    folder = tmp_path / "test"
    found = ScenePictures(read_folder(folder))
    assert found.at(32).shape == (3, 32, 32, 3)
    assert found.source == f"3 of 3 pictures of {folder}"
    assert ScenePictures(read_folder(folder)).key == found.key
    Image.new("RGB", (48, 48)).save(folder / "images" / "1.png")
    assert ScenePictures(read_folder(folder)).key != found.key
