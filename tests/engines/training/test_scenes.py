"""What a detector is shown in training: varied pictures, and what each place answers for."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")

from engines.architecture import MapSize
from engines.detection.letterbox import GREY
from engines.detection.nuclei import instance_masks
from engines.detection.scenes import Scene, scene_of
from engines.errors import ConfigError
from engines.training.detection_config import DetectionConfig, SceneData
from engines.training.scene_augment import Shown, show
from engines.training.scene_batches import (
    SceneBatches,
    ScenePixels,
    answering_places,
    mask_targets,
)
from tests.engines.detection.tiny import discs, shown, write_nuclei
from tests.engines.training.tiny_detection import read_tiny, tiny_detection

pytestmark = pytest.mark.torch

PLAIN = {
    "zoom": (1.0, 1.0), "invert": 0, "grey": 0, "brightness": 0, "contrast": 0, "saturation": 0,
    "hue": 0,
}  # fmt: skip


def _spec(**changes: Any) -> SceneData:
    return SceneData.model_validate({"root": "x", **PLAIN, **changes})


def _scene(count: int = 4, height: int = 40, width: int = 64) -> tuple[Any, Scene]:
    numbered = discs(count, 3, height, width)
    masks = instance_masks(numbered.astype(np.int64))
    boxes = [mask.box for mask in masks]
    scene = scene_of(Path("a"), (width, height), boxes, [0] * len(masks), masks=masks)
    return shown(numbered), scene


def _show(seed: int, pixels: Any, scene: Scene, **changes: Any) -> Shown:
    rng = np.random.default_rng(seed)
    return show(pixels, scene, image_size=64, size=64, rng=rng, spec=_spec(**changes))


@pytest.mark.parametrize("zoom", [0.6, 1.0, 1.7])
def test_boxes_masks_and_pixels_stay_together(zoom: float) -> None:
    pixels, scene = _scene()
    seen = 0
    for seed in range(12):
        found = _show(seed, pixels, scene, zoom=(zoom, zoom))
        assert found.pixels.shape == (64, 64, 3)
        assert found.masks is not None
        assert len(found.boxes) == len(found.labels) == len(found.masks)
        for box, mask in zip(found.boxes, found.masks, strict=True):
            rows, columns = mask.nonzero()
            edges = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert np.abs(np.array(edges) - box).max() <= 1.5
            bright = found.pixels[mask].mean()
            assert bright > 130
            seen += 1
    assert seen > 12


def test_the_rest_of_a_small_picture_is_grey() -> None:
    pixels, scene = _scene()
    found = _show(0, pixels, scene, zoom=(0.5, 0.5))
    grey = (found.pixels == GREY).all(axis=2)
    assert grey.mean() > 0.8
    assert not grey[found.masks.any(axis=0)].any() if found.masks is not None else False


def test_all_eight_symmetries_come() -> None:
    pixels, scene = _scene(1)
    corners = {tuple(_show(seed, pixels, scene).boxes.round().ravel()) for seed in range(60)}
    assert len(corners) == 8


def test_the_same_generator_shows_the_same() -> None:
    pixels, scene = _scene()
    first, again = (_show(5, pixels, scene, zoom=(0.5, 2.0), grey=0.5, hue=0.1) for _ in "ab")
    assert (first.pixels == again.pixels).all()
    assert (first.boxes == again.boxes).all()


def test_a_picture_without_objects_is_shown_too() -> None:
    pixels, scene = _scene(0)
    found = _show(1, pixels, scene)
    assert found.boxes.shape == (0, 4)
    assert found.masks is not None
    assert found.masks.shape == (0, 64, 64)
    assert (answering_places(found.boxes, (MapSize(4, 4),) * 4) == -1).all()
    boxes, masks = mask_targets(found, 8, 0.1, 28, np.random.default_rng(0))
    assert boxes.shape == (0, 4)
    assert masks.shape == (0, 28, 28)


def test_ignored_objects_are_left_out() -> None:
    pixels, scene = _scene(3)
    ignored = scene_of(
        scene.file, (64, 40), scene.boxes.tolist(), scene.labels.tolist(),
        ignored=[True] + [False] * (len(scene) - 1), masks=scene.masks,
    )  # fmt: skip
    assert len(_show(0, pixels, ignored).boxes) == len(scene) - 1


def test_boxes_alone_do() -> None:
    pixels, scene = _scene()
    boxes = scene_of(scene.file, (64, 40), scene.boxes.tolist(), scene.labels.tolist())
    found = _show(0, pixels, boxes)
    assert found.masks is None
    assert len(found.boxes) == len(scene)


MAPS = tuple(MapSize(128 // s, 128 // s) for s in (4, 8, 16, 32))


def test_places_near_the_centre_answer_on_the_level_of_the_size() -> None:
    for side, level in ((12, 0), (40, 1), (80, 2), (127, 3)):
        box = np.array([[0.5, 0.5, 0.5 + side, 0.5 + side]], np.float32)
        places = answering_places(box, MAPS)
        starts = np.cumsum([0, *(size.area for size in MAPS)])
        found = [int((places[a:b] == 0).sum()) for a, b in pairwise(starts)]
        assert found[level] > 0, (side, found)
        assert sum(found) - found[level] <= 6, (side, found)


def test_of_overlapping_objects_the_smallest_is_answered_for() -> None:
    boxes = np.array([[30, 30, 46, 46], [36, 36, 41, 41], [20, 28, 46, 46]], np.float32)
    places = answering_places(boxes, MAPS)
    row, column = 40 // 4, 40 // 4
    assert places[row * 32 + column] == 1
    assert set(places.tolist()) == {-1, 0, 1, 2}


def test_masks_are_sampled_in_their_moved_boxes() -> None:
    masks = np.zeros((1, 64, 64), np.bool_)
    masks[0, 10:24, 20:48] = True
    pixels = np.zeros((64, 64, 3), np.uint8)
    box = np.array([[20, 10, 48, 24]], np.float32)
    exact = Shown(pixels, box, np.zeros(1, np.int64), masks)
    boxes, found = mask_targets(exact, 5, 0.0, 14, np.random.default_rng(0))
    assert (boxes == box).all()
    assert found.shape == (1, 14, 14)
    assert found.all()
    moved, off = mask_targets(exact, 5, 0.2, 14, np.random.default_rng(0))
    assert 0 < np.abs(moved - box).max() <= 0.2 * 28
    assert 0.3 < off.mean() < 1.0


def test_batches_are_a_function_of_epoch_and_step(tmp_path: Path) -> None:
    root = write_nuclei(tmp_path, {"train": (3, 0, 2, 5)})
    config = DetectionConfig.model_validate(tiny_detection(root))
    batches, again = (SceneBatches(read_tiny(tmp_path, "train"), config) for _ in "ab")
    assert batches.steps_per_epoch == 2
    list(batches.prefetch([(0, 0), (0, 1)]))
    images, targets = next(batches.prefetch([(1, 1)]))
    others, other_targets = again.batch(1, 1)
    assert (images == others).all()
    assert [t.boxes.tolist() for t in targets] == [t.boxes.tolist() for t in other_targets]
    assert images.shape == (2, config.crop_size, config.crop_size, 3)


def test_a_picture_of_another_size_than_its_annotations_is_told(tmp_path: Path) -> None:
    scene = scene_of(write_nuclei(tmp_path, {"train": (1,)}) / "train/images/0.png", (9, 9), [], [])
    with pytest.raises(ConfigError, match="48x48 pixels, its annotations are of 9x9"):
        ScenePixels((scene,))[0]
