"""Instance maps: `<split>/images/NAME.png` beside `<split>/labels/NAME.png`, pixels numbered by
object, 0 for background. The Data Science Bowl's corrected nuclei are published in a form like it.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from engines.detection.scenes import InstanceMask, Scene, SceneSet, scene_of
from engines.errors import ConfigError, ImageError
from engines.preprocessing import read_header

IMAGES, LABELS = "images", "labels"
NAMES = ("nucleus",)
_PICTURES = {".png", ".jpg", ".jpeg", ".webp"}
# Grey, 8 or 16 bits or wider; colours are no numbers of objects.
_MAPS = ("1", "L", "I", "I;16", "I;16B")


def is_nuclei(folder: Path) -> bool:
    """Whether the folder of a split has this layout."""
    return (folder / IMAGES).is_dir() and (folder / LABELS).is_dir()


def read_nuclei(folder: Path, labels: tuple[str, ...] = NAMES) -> SceneSet:
    """All pictures of a split, every object of the one label.

    Raises ConfigError that names the file: no pictures, a picture without a map or the other way
    round, a map that is no grey image or of another size.
    """
    pictures = _files(folder / IMAGES)
    maps = {path.stem: path for path in _files(folder / LABELS)}
    if not pictures:
        raise ConfigError(f"{folder / IMAGES}: no png, jpg, jpeg or webp file")
    missing = sorted({path.stem for path in pictures} ^ maps.keys())
    if missing:
        raise ConfigError(
            f"{folder}: {len(missing)} names are in only one of {IMAGES} and {LABELS}, "
            f"such as '{missing[0]}'"
        )
    scenes = tuple(_scene(path, maps[path.stem]) for path in pictures)
    return SceneSet(folder, labels, scenes, folder.resolve().name)


def instance_masks(numbered: npt.NDArray[np.integer[npt.NBitBase]]) -> list[InstanceMask]:
    """One mask per number above 0 in a map (H, W), by rising number."""
    rows, columns = numbered.nonzero()
    objects = numbered[rows, columns]
    order = np.argsort(objects, kind="stable")
    rows, columns, objects = rows[order], columns[order], objects[order]
    starts = np.flatnonzero(np.diff(objects, prepend=0))
    masks: list[InstanceMask] = []
    for first, last in pairwise([*starts, len(objects)]):
        ys, xs = rows[first:last], columns[first:last]
        top, left = int(ys.min()), int(xs.min())
        bitmap = np.zeros((int(ys.max()) - top + 1, int(xs.max()) - left + 1), np.bool_)
        bitmap[ys - top, xs - left] = True
        masks.append(InstanceMask(left, top, bitmap))
    return masks


def _scene(picture: Path, numbered: Path) -> Scene:
    try:
        header = read_header(picture.read_bytes())
    except ImageError as error:
        raise ConfigError(f"{picture}: {error}") from None
    try:
        with Image.open(numbered) as opened:
            mode, pixels = opened.mode, np.asarray(opened)
    except (OSError, SyntaxError) as error:
        raise ConfigError(f"{numbered}: not a readable image: {error}") from None
    if mode not in _MAPS:
        raise ConfigError(f"{numbered}: a map of objects is grey, this is {mode}")
    if pixels.shape != (header.height, header.width):
        raise ConfigError(
            f"{numbered}: {pixels.shape[1]}x{pixels.shape[0]} pixels, its picture has "
            f"{header.width}x{header.height}"
        )
    masks = instance_masks(pixels.astype(np.int64))
    boxes = [mask.box for mask in masks]
    return scene_of(picture, (header.width, header.height), boxes, [0] * len(masks), masks=masks)


def _files(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in _PICTURES and not path.name.startswith(".")
    )
