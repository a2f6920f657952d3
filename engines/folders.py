"""Labelled pictures in folders: `<split>/<class>/<any depth>/<picture>`, as ImageNet has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engines.errors import ConfigError, InvalidInput

_EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp"}
_SPLIT_NAMES = {
    "train": ("train",),
    "validation": ("validation", "val", "valid"),
    "test": ("test",),
}


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """The pictures of one split.

    classes: sorted names. files: relative to `root`, sorted by class, then path. labels: int64
    (N,), index into `classes` for each file.
    """

    root: Path
    classes: tuple[str, ...]
    files: tuple[Path, ...]
    labels: npt.NDArray[np.int64]

    def take(self, places: npt.NDArray[np.int64]) -> ImageFolder:
        """Only the pictures at these places, in their order."""
        files = tuple(self.files[i] for i in places)
        return ImageFolder(self.root, self.classes, files, self.labels[places])

    def thinned(self, most: int) -> ImageFolder:
        """At most that many of its pictures, evenly from all classes."""
        count = len(self.files)
        if count <= most:
            return self
        return self.take(np.linspace(0, count - 1, most).round().astype(np.int64))


def scan_folder(root: Path, *, min_classes: int = 2) -> ImageFolder:
    """List the pictures (jpg, jpeg, png, webp in any case) in the class folders of `root`.

    Hidden files and folders are left out. Raises ConfigError for a missing folder, fewer than
    `min_classes` classes, or a class without pictures.
    """
    classes = tuple(_folders_in(root))
    if len(classes) < min_classes:
        found = f"only '{classes[0]}'" if classes else "none"
        raise ConfigError(
            f"{root}: pictures belong in one folder a class, at least {min_classes}; found {found}"
        )
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        pictures = sorted(path for path in (root / name).rglob("*") if _is_picture(path, root))
        if not pictures:
            raise ConfigError(f"{root / name}: this class has no jpg, jpeg, png or webp file")
        files += (path.relative_to(root) for path in pictures)
        labels += [label] * len(pictures)
    return ImageFolder(root, classes, tuple(files), np.array(labels, np.int64))


def find_split(data_root: Path, split: str) -> Path:
    """The folder of `train`, `validation` (or val, valid) or `test`; ConfigError if not there."""
    names = _SPLIT_NAMES.get(split)
    if names is None:
        raise InvalidInput(f"split must be one of {', '.join(_SPLIT_NAMES)}, got '{split}'")
    there = _folders_in(data_root)
    for name in names:
        if name in there:
            return data_root / name
    raise ConfigError(
        f"{data_root}: no folder for the {split} split (tried {', '.join(names)}); "
        f"there is {', '.join(there) or 'no folder at all'}"
    )


def check_same_classes(train: ImageFolder, other: ImageFolder) -> None:
    """Raise ConfigError, naming the differences, unless `other` has exactly train's classes."""
    missing = sorted(set(train.classes) - set(other.classes))
    unknown = sorted(set(other.classes) - set(train.classes))
    faults = []
    if missing:
        faults.append(f"lacks {', '.join(missing)}")
    if unknown:
        faults.append(f"also has {', '.join(unknown)}")
    if faults:
        raise ConfigError(
            f"{other.root}: not the classes of {train.root}: it {' and '.join(faults)}"
        )


def relabel(folder: ImageFolder, labels: Sequence[str]) -> ImageFolder:
    """The same pictures with the label numbers of a network; classes may be missing, not extra.

    Raises ConfigError that lists the folders which name no label.
    """
    unknown = [name for name in folder.classes if name not in labels]
    if unknown:
        raise ConfigError(
            f"{folder.root}: no label is called {', '.join(unknown)}; the labels are: "
            f"{', '.join(labels)}. Name the folder that holds one folder a class"
        )
    numbers = np.array([labels.index(name) for name in folder.classes], np.int64)
    return ImageFolder(folder.root, tuple(labels), folder.files, numbers[folder.labels])


def _folders_in(root: Path) -> list[str]:
    if not root.is_dir():
        raise ConfigError(f"{root}: no such folder")
    return sorted(
        path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")
    )


def _is_picture(path: Path, root: Path) -> bool:
    return (
        path.suffix.lower() in _EXTENSIONS
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        and path.is_file()
    )
