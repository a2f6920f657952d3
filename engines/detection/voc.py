"""Pascal VOC: `JPEGImages`, `Annotations` (XML, boxes only), and splits as lists in `ImageSets`."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from engines.detection.scenes import Scene, SceneSet, scene_of
from engines.errors import ConfigError, InvalidInput

PICTURES, ANNOTATIONS = "JPEGImages", "Annotations"
_LISTS = Path("ImageSets") / "Main"
_SPLITS = {"train": "train", "validation": "val", "test": "test"}
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")

Object = tuple[str, list[float], bool]


def is_voc(root: Path) -> bool:
    """Whether the data folder has this layout."""
    return (root / PICTURES).is_dir() and (root / ANNOTATIONS).is_dir()


def read_voc(root: Path, split: str) -> SceneSet:
    """The pictures of `train`, `validation` or `test`; labels are those of all splits, sorted.

    Raises ConfigError that names the file and what is wrong with it.
    """
    listed = root / _LISTS / f"{_SPLITS[split]}.txt"
    try:
        names = listed.read_text(encoding="utf-8").split()
    except OSError as error:
        raise ConfigError(f"cannot read '{listed}': {error.strerror}") from None
    if not names:
        raise ConfigError(f"{listed}: no picture is listed")
    read = {path.stem: _read(path) for path in sorted((root / ANNOTATIONS).glob("*.xml"))}
    labels = tuple(sorted({label for _, objects in read.values() for label, _, _ in objects}))
    scenes = []
    for name in sorted(names):
        if name not in read:
            raise ConfigError(f"{listed}: there is no {ANNOTATIONS}/{name}.xml")
        size, objects = read[name]
        scenes.append(_scene(_picture(root, name), size, objects, labels))
    return SceneSet(root, labels, tuple(scenes), split)


def _scene(
    file: Path, size: tuple[int, int], objects: list[Object], labels: tuple[str, ...]
) -> Scene:
    try:
        return scene_of(
            file,
            size,
            [box for _, box, _ in objects],
            [labels.index(label) for label, _, _ in objects],
            ignored=[difficult for _, _, difficult in objects],
        )
    except InvalidInput as error:
        raise ConfigError(str(error)) from None


def _read(path: Path) -> tuple[tuple[int, int], list[Object]]:
    try:
        root = ElementTree.parse(path).getroot()
        size = (int(_text(root, "size/width")), int(_text(root, "size/height")))
        objects: list[Object] = []
        for entry in root.iter("object"):
            left, top, right, bottom = (float(_text(entry, f"bndbox/{c}")) for c in _CORNERS)
            # VOC counts pixels from 1 and names the last one.
            box = [left - 1, top - 1, right, bottom]
            objects.append((_text(entry, "name"), box, entry.findtext("difficult") == "1"))
    except (ElementTree.ParseError, ValueError, OSError) as error:
        raise ConfigError(f"{path}: {error}") from None
    return size, objects


def _text(entry: ElementTree.Element, path: str) -> str:
    found = entry.findtext(path)
    if found is None or not found.strip():
        raise ValueError(f"<{entry.tag}> has no {path}")
    return found.strip()


def _picture(root: Path, name: str) -> Path:
    for suffix in _SUFFIXES:
        if (found := root / PICTURES / f"{name}{suffix}").is_file():
            return found
    raise ConfigError(f"{root / PICTURES}: no picture for {ANNOTATIONS}/{name}.xml")
