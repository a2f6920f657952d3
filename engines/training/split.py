"""Somebody's folder of pictures as training, validation and test pictures. Nothing in it changes.

Where a folder has no validation split, one is made of links in the run folder, so that every other
command reads it like any other folder with splits.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engines.errors import ConfigError, ImageError, InvalidInput
from engines.folders import ImageFolder, check_same_classes, find_split, relabel, scan_folder
from engines.preprocessing import decode

VALIDATION_SHARE = 0.2

_VALIDATION = {"validation", "val", "valid"}
_LINKED = ("train", "validation")
_SAY_EVERY_S = 5.0
_MOST_NAMED = 5
# JPEG decodes faster at an eighth of its size, and is read to its end all the same.
_CHECKED_SIDE = 16


@dataclass(frozen=True)
class Pictures:
    """The splits of a folder.

    root: the folder that holds train/ and validation/, as a training configuration wants it; None
    where validation pictures are held out of others, see `link_splits`. test: None where there is
    none. how: one line about where validation comes from.
    """

    root: Path | None
    train: ImageFolder
    validation: ImageFolder
    test: ImageFolder | None
    how: str


def find_pictures(data: Path) -> Pictures:
    """The splits in `data`: train/ and validation/, only train/, or one folder a class.

    In the last two cases a fifth of every class is held out, chosen by a hash of its path. A test/
    beside train/ is found too. Raises ConfigError, in one line, for a folder that cannot be trained
    on. No picture is opened and nothing is written.
    """
    there = {path.name for path in _folders(data)}
    if "train" not in there:
        _refuse_splits_among_classes(data, there)
        return _divided(data, None)
    train = scan_folder(data / "train")
    test = None
    if "test" in there:
        test = relabel(scan_folder(data / "test", min_classes=1), train.classes)
    if not there & _VALIDATION:
        return _divided(data / "train", test)
    found = find_split(data, "validation")
    validation = scan_folder(found)
    check_same_classes(train, validation)
    return Pictures(data.resolve(), train, validation, test, f"validation: the pictures of {found}")


def check_links(pictures: Pictures, links: Path) -> None:
    """Raise ConfigError where a run with its links at `links` would write among the pictures, or
    where files are that `link_splits` has not made and would remove."""
    for folder in (pictures.train, pictures.validation, pictures.test):
        if folder is not None and links.resolve().is_relative_to(folder.root.resolve()):
            raise ConfigError(
                f"{links}: a run there would write among the pictures of {folder.root}; choose "
                "another folder with --out"
            )
    if pictures.root is not None:
        return
    for place in (links, _partial(links)):
        foreign = next((path for path in place.rglob("*") if not _is_ours(path, place)), None)
        if foreign is not None:
            raise ConfigError(
                f"{place}: the run keeps its links there, but {foreign} is none of them; choose "
                "another folder with --out"
            )


def link_splits(pictures: Pictures, links: Path, *, begun: bool) -> Path:
    """A folder with train/ and validation/: the pictures' own, or `links` with links to them.

    begun: whether a training has read `links`. Raises ConfigError when they are then of other
    pictures, which must not change under a training, and as `check_links` does.
    """
    check_links(pictures, links)
    if pictures.root is not None:
        return pictures.root
    wanted = {
        Path(split, file): folder.root.resolve() / file
        for split, folder in zip(_LINKED, (pictures.train, pictures.validation), strict=True)
        for file in folder.files
    }
    there = {
        path.relative_to(links): path.readlink() for path in links.rglob("*") if path.is_symlink()
    }
    if there == wanted:
        return links.resolve()
    if there and begun:
        raise ConfigError(
            f"{links}: the pictures of {pictures.train.root} have changed since this run began; "
            "choose another folder with --out, or delete the run"
        )
    partial = _partial(links)
    for old in (partial, links):
        shutil.rmtree(old, ignore_errors=True)
    for path, target in wanted.items():
        link = partial / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
    partial.rename(links)
    return links.resolve()


def _partial(links: Path) -> Path:
    return links.with_name(f"{links.name}.partial")


def _is_ours(path: Path, links: Path) -> bool:
    """Whether that is a folder or a link where `link_splits` makes them."""
    inside = path.relative_to(links).parts[0] in _LINKED
    return inside and (path.is_symlink() or path.is_dir())


def held_out(folder: ImageFolder, share: float = VALIDATION_SHARE) -> npt.NDArray[np.bool_]:
    """Which pictures (N,) to keep from training: `share` of each class, at least one, never all.

    They are those whose paths hash lowest, so the choice depends on no order and no seed, and few
    change sides when pictures are added. Raises ConfigError for a class with fewer than two.
    """
    if not 0.0 < share < 1.0:
        raise InvalidInput(f"share must be between 0 and 1, got {share}")
    chosen = np.zeros(len(folder.files), np.bool_)
    for label, name in enumerate(folder.classes):
        members = np.flatnonzero(folder.labels == label)
        if len(members) < 2:
            raise ConfigError(
                f"{folder.root / name}: {len(members)} picture is too few, one is needed to train "
                "and one to validate; add some or remove the folder"
            )
        members = np.array(sorted(members, key=lambda i: _hash(folder.files[i])))
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        chosen[members[:count]] = True
    return chosen


def check_pictures(
    folders: Sequence[ImageFolder], say: Callable[[str], None] = lambda line: None
) -> None:
    """Decode every picture once; ConfigError names those that cannot be used, five at most."""
    paths = [folder.root / file for folder in folders for file in folder.files]
    broken: list[str] = []
    said = time.monotonic()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="check") as pool:
        for done, fault in enumerate(pool.map(_fault, paths), start=1):
            if fault is not None:
                broken.append(fault)
            if time.monotonic() - said > _SAY_EVERY_S:
                said = time.monotonic()
                say(f"check: {done} of {len(paths)} images")
    if broken:
        more = len(broken) - _MOST_NAMED
        raise ConfigError(
            f"{len(broken)} of {len(paths)} pictures cannot be used; mend or remove "
            f"{', '.join(broken[:_MOST_NAMED])}{f' and {more} more' if more > 0 else ''}"
        )


def _fault(path: Path) -> str | None:
    try:
        decode(path.read_bytes(), min_short_side=_CHECKED_SIDE)
    except ImageError as error:
        return f"{path} ({error})"
    except OSError as error:
        return f"{path} ({error.strerror})"
    return None


def _divided(source: Path, test: ImageFolder | None) -> Pictures:
    everything = scan_folder(source)
    keep = held_out(everything)
    how = (
        f"validation: {source} has no split for it, so {int(keep.sum())} of its {len(keep)} "
        "pictures are held out, a fifth of each class and the same ones every time"
    )
    return Pictures(None, _part(everything, ~keep), _part(everything, keep), test, how)


def _part(folder: ImageFolder, inside: npt.NDArray[np.bool_]) -> ImageFolder:
    return folder.take(np.flatnonzero(inside))


def _hash(file: Path) -> bytes:
    return hashlib.sha256(os.fsencode(file.as_posix())).digest()


def _folders(root: Path) -> list[Path]:
    if not root.is_dir():
        raise ConfigError(f"{root}: no such folder")
    return [path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]


def _refuse_splits_among_classes(data: Path, there: set[str]) -> None:
    """A test/ without train/ would silently become a class called test."""
    for name in sorted(there & (_VALIDATION | {"test"})):
        if _folders(data / name):
            raise ConfigError(
                f"{data}: has the folder {name}/ with folders in it but no train/; give it a "
                "train/ with one folder a class, or name the folder that holds the classes"
            )
