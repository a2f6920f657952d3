from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engines.detection.read import read_folder, read_scenes
from engines.errors import ConfigError, InvalidInput
from tests.engines.detection.tiny import (
    SIZE,
    discs,
    voc_object,
    write_coco,
    write_nuclei,
    write_voc,
)


def test_nuclei_are_read_object_by_object(tmp_path: Path) -> None:
    root = write_nuclei(tmp_path, {"train": (3, 0, 5)})
    found = read_scenes(root, "train")
    assert found.labels == ("nucleus",)
    assert [scene.file.name for scene in found.scenes] == ["0.png", "1.png", "2.png"]
    numbered = np.asarray(Image.open(root / "train" / "labels" / "2.png"))
    scene = found.scenes[2]
    assert (scene.width, scene.height) == (SIZE, SIZE)
    assert scene.masks is not None
    numbers = np.unique(numbered)[1:]
    assert len(scene) == len(numbers)
    for number, mask, box in zip(numbers, scene.masks, scene.boxes.tolist(), strict=True):
        assert (mask.window(0, 0, SIZE, SIZE) == (numbered == number)).all()
        assert tuple(box) == mask.box
    assert found.has_masks


def test_a_picture_without_objects_is_a_scene_too(tmp_path: Path) -> None:
    (scene,) = read_scenes(write_nuclei(tmp_path, {"train": (0,)}), "train").scenes
    assert len(scene) == 0
    assert scene.boxes.shape == (0, 4)
    assert scene.masks == ()


def test_the_folder_of_a_split_is_read_directly(tmp_path: Path) -> None:
    root = write_nuclei(tmp_path, {"test": (2,)})
    assert len(read_folder(root / "test").scenes) == 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "labels" / "0.png").unlink(), "in only one of images and labels"),
        (lambda folder: (folder / "labels" / "0.png").write_bytes(b"x"), "not a readable image"),
        (lambda folder: (folder / "images" / "0.png").write_bytes(b"x" * 40), "JPEG, PNG and WebP"),
        (
            lambda folder: Image.fromarray(discs(1, 0, 20, 20)).save(folder / "labels" / "0.png"),
            "20x20 pixels, its picture has 48x48",
        ),
        (
            lambda folder: Image.new("RGB", (48, 48)).save(folder / "labels" / "0.png"),
            "a map of objects is grey, this is RGB",
        ),
    ],
    ids=["no-map", "bad-map", "bad-picture", "other-size", "colours"],
)
def test_faulty_nuclei_are_told_by_file(tmp_path: Path, spoil: object, message: str) -> None:
    root = write_nuclei(tmp_path, {"train": (1,)})
    assert callable(spoil)
    spoil(root / "train")
    with pytest.raises(ConfigError, match=message):
        read_scenes(root, "train")


def test_voc_counts_from_one_and_names_its_last_pixel(tmp_path: Path) -> None:
    difficult = "<difficult>1</difficult>"
    objects = voc_object("b", 1, 1, 40, 30) + voc_object("a", 11, 6, 20, 15, extra=difficult)
    found = read_scenes(write_voc(tmp_path, objects), "train")
    assert found.labels == ("a", "b")
    (scene,) = found.scenes
    assert scene.boxes.tolist() == [[0, 0, 40, 30], [10, 5, 20, 15]]
    assert scene.labels.tolist() == [1, 0]
    assert scene.ignored.tolist() == [False, True]
    assert scene.masks is None
    assert not found.has_masks


@pytest.mark.parametrize(
    ("objects", "listed", "message"),
    [
        (voc_object("a", 20, 1, 10, 30), "a", "box without area"),
        ("<object><name>a</name></object>", "a", "no bndbox/xmin"),
        ("<object>", "a", "mismatched tag"),
        ("", "b", "there is no Annotations/b.xml"),
        ("", "", "no picture is listed"),
    ],
    ids=["no-area", "no-box", "no-xml", "unknown", "empty"],
)
def test_faulty_voc_is_told_by_file(
    tmp_path: Path, objects: str, listed: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        read_scenes(write_voc(tmp_path, objects, listed), "train")


def test_coco_orders_categories_by_number_and_reads_both_kinds_of_masks(tmp_path: Path) -> None:
    pytest.importorskip("faster_coco_eval")
    runs = {"size": [30, 40], "counts": [30, 2, 30 * 40 - 32]}
    annotations = [
        {"bbox": [1, 0, 1, 2], "category_id": 4, "segmentation": runs},
        {"bbox": [4, 6, 8, 10], "category_id": 9, "iscrowd": 1,
         "segmentation": [[4, 6, 12, 6, 12, 16, 4, 16]]},
    ]  # fmt: skip
    found = read_scenes(write_coco(tmp_path, annotations), "validation")
    assert found.labels == ("cat", "dog")
    (scene,) = found.scenes
    assert scene.labels.tolist() == [0, 1]
    assert scene.ignored.tolist() == [False, True]
    assert scene.masks is not None
    assert scene.masks[0].box == (1, 0, 2, 2)
    assert scene.masks[1].box == (4, 6, 12, 16)
    assert scene.masks[1].area == 80


def test_coco_without_masks_is_detection(tmp_path: Path) -> None:
    root = write_coco(tmp_path, [{"bbox": [1, 0, 5, 2], "category_id": 4}])
    (scene,) = read_scenes(root, "validation").scenes
    assert scene.masks is None
    assert scene.boxes.tolist() == [[1, 0, 6, 2]]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"bbox": [1, 0, 5, 2], "category_id": 5}, "KeyError: 5"),
        ({"bbox": [1, 0, 5], "category_id": 4}, "ValueError"),
        ({"bbox": [50, 0, 5, 5], "category_id": 4}, "box without area"),
        (
            {"bbox": [1, 0, 5, 2], "category_id": 4,
             "segmentation": {"size": [30, 40], "counts": [3]}},
            "do not add up to a picture of 40x30",
        ),
    ],
    ids=["category", "box", "outside", "runs"],
)  # fmt: skip
def test_faulty_coco_is_told_by_file(
    tmp_path: Path, entry: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        read_scenes(write_coco(tmp_path, [entry]), "validation")


@pytest.mark.parametrize("name", ["../a.png", "b.png"])
def test_coco_reads_no_picture_elsewhere(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    images = [{"id": 7, "file_name": name, "width": 40, "height": 30}]
    with pytest.raises(ConfigError, match="there is no picture"):
        read_scenes(write_coco(tmp_path / "set", [], images=images), "validation")


def test_other_folders_and_splits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        read_scenes(tmp_path / "none", "train")
    with pytest.raises(InvalidInput, match="split must be one of"):
        read_scenes(tmp_path, "all")
    (tmp_path / "train").mkdir()
    with pytest.raises(ConfigError, match="not annotated as known"):
        read_scenes(tmp_path, "train")
    with pytest.raises(ConfigError, match="not a split"):
        read_folder(tmp_path)
