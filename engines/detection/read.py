"""Annotated pictures in a folder, whichever of the known layouts it has."""

from __future__ import annotations

from pathlib import Path

from engines.detection.coco import find_coco, read_coco
from engines.detection.nuclei import is_nuclei, read_nuclei
from engines.detection.scenes import SceneSet
from engines.detection.voc import is_voc, read_voc
from engines.errors import ConfigError, InvalidInput
from engines.folders import find_split

SPLITS = ("train", "validation", "test")


def read_scenes(root: Path, split: str) -> SceneSet:
    """The pictures of `train`, `validation` or `test` below `root`: instance maps, VOC or COCO.

    Raises ConfigError where no layout is known or a file is wrong, InvalidInput for another split.
    """
    if split not in SPLITS:
        raise InvalidInput(f"split must be one of {', '.join(SPLITS)}, got '{split}'")
    if not root.is_dir():
        raise ConfigError(f"{root}: no such folder")
    if is_voc(root):
        return read_voc(root, split)
    if (found := find_coco(root, split)) is not None:
        return read_coco(*found, split)
    folder = find_split(root, split)
    if is_nuclei(folder):
        return read_nuclei(folder)
    raise ConfigError(
        f"{folder}: not annotated as known: images/ beside labels/ (instance maps), JPEGImages/ "
        "beside Annotations/ (VOC), or COCO's JSON"
    )


def read_folder(folder: Path) -> SceneSet:
    """As `read_scenes`, where the folder is the split itself (or names one of a VOC or COCO set).

    `bccd/test` and `coco/validation` need not be there: then the split is looked for beside.
    """
    if is_nuclei(folder):
        return read_nuclei(folder)
    if folder.name in SPLITS:
        return read_scenes(folder.parent, folder.name)
    raise ConfigError(
        f"{folder}: not a split; name a folder that has images/ and labels/, or DIR/train, "
        "DIR/validation or DIR/test of annotated pictures"
    )
