"""COCO JSON: `annotations/instances_<split>*.json` with pictures in `<split>*/` or `images/`, or
`<split>/_annotations.coco.json` beside its pictures. Masks are polygons or run lengths, or absent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engines.detection.rle import mask_of_rle
from engines.detection.scenes import InstanceMask, Scene, SceneSet, scene_of
from engines.errors import ConfigError, InvalidInput

_NAMES = {"train": ("train",), "validation": ("val", "validation", "valid"), "test": ("test",)}
_BESIDE = "_annotations.coco.json"
_MISSING = (KeyError, TypeError, ValueError, IndexError)


def find_coco(root: Path, split: str) -> tuple[Path, Path] | None:
    """The split's JSON file and its folder of pictures; None where there is no such file."""
    for name in _NAMES[split]:
        if (file := root / name / _BESIDE).is_file():
            return file, file.parent
        for file in sorted((root / "annotations").glob(f"instances_{name}*.json")):
            folders = (root / file.stem.removeprefix("instances_"), root / name, root / "images")
            for folder in folders:
                if folder.is_dir():
                    return file, folder
            raise ConfigError(f"{file}: no pictures in any of {', '.join(map(str, folders))}")
    return None


def read_coco(file: Path, pictures: Path, split: str) -> SceneSet:
    """All pictures of a JSON file, that of a split; labels are its categories by rising number.

    Raises ConfigError that names the file and what is wrong. Polygons need faster-coco-eval.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        categories = sorted(content["categories"], key=lambda entry: int(entry["id"]))
        labels = tuple(str(entry["name"]) for entry in categories)
        places = {int(entry["id"]): place for place, entry in enumerate(categories)}
        objects: dict[int, list[Mapping[str, Any]]] = {int(i["id"]): [] for i in content["images"]}
        for entry in content["annotations"]:
            objects[int(entry["image_id"])].append(entry)
        images = sorted(content["images"], key=lambda entry: str(entry["file_name"]))
    except OSError as error:
        raise ConfigError(f"cannot read '{file}': {error.strerror}") from None
    except _MISSING as error:
        raise ConfigError(f"{file}: not COCO's JSON ({type(error).__name__}: {error})") from None
    if not images:
        raise ConfigError(f"{file}: no image is listed")
    return SceneSet(
        pictures,
        labels,
        tuple(_scene(file, pictures, image, objects[int(image["id"])], places) for image in images),
        split,
    )


def _scene(
    file: Path,
    pictures: Path,
    image: Mapping[str, Any],
    objects: Sequence[Mapping[str, Any]],
    places: Mapping[int, int],
) -> Scene:
    name = str(image["file_name"])
    picture = pictures / name
    # A file from elsewhere must not name files elsewhere.
    if not picture.resolve().is_relative_to(pictures.resolve()) or not picture.is_file():
        raise ConfigError(f"{file}: there is no picture '{name}' in {pictures}")
    try:
        size = int(image["width"]), int(image["height"])
        boxes = [_box(entry["bbox"]) for entry in objects]
        labels = [places[int(entry["category_id"])] for entry in objects]
        crowds = [bool(entry.get("iscrowd", 0)) for entry in objects]
        masks = None
        if all(entry.get("segmentation") for entry in objects):
            masks = [_mask(entry["segmentation"], size) for entry in objects]
        return scene_of(picture, size, boxes, labels, ignored=crowds, masks=masks)
    except InvalidInput as error:
        raise ConfigError(f"{file}: {error}") from None
    except _MISSING as error:
        raise ConfigError(
            f"{file}: an object of '{name}' is not as COCO has it ({type(error).__name__}: {error})"
        ) from None


def _box(values: Sequence[float]) -> list[float]:
    left, top, width, height = map(float, values)
    return [left, top, left + width, top + height]


def _mask(segmentation: Any, size: tuple[int, int]) -> InstanceMask:
    width, height = size
    if isinstance(segmentation, dict):
        rows, columns = map(int, segmentation["size"])
        if (rows, columns) != (height, width):
            raise InvalidInput(f"a mask is of {columns}x{rows}, its picture of {width}x{height}")
        return InstanceMask.of(mask_of_rle((height, width), segmentation["counts"]))
    # Fractions of pixels at an outline's edge: the standard's own code decides what is inside.
    from faster_coco_eval.core import mask as coco_mask

    parts = coco_mask.frPyObjects([list(map(float, part)) for part in segmentation], height, width)
    return InstanceMask.of(np.asarray(coco_mask.decode(parts)).max(axis=2) > 0)
