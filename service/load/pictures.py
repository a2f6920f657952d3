"""The pictures that load is made of: files as they are, read once and held in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engines.errors import InvalidInput

MOST_PICTURES = 256
_TYPES = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
}


@dataclass(frozen=True, slots=True)
class PictureFile:
    """An encoded picture; name: of its file."""

    name: str
    content_type: str
    data: bytes


def read_pictures(paths: Sequence[Path], most: int = MOST_PICTURES) -> tuple[PictureFile, ...]:
    """At most `most` of the files in `paths` and, at any depth, of its folders, spread evenly.

    None given: the pictures that ship with the package. Raises InvalidInput where there are none,
    OSError for one that cannot be read.
    """
    files = _files(paths) if paths else _files([Path(__file__).parents[1] / "samples"])
    if not files:
        wanted = ", ".join(sorted(_TYPES))
        raise InvalidInput(f"no pictures ({wanted}) in {', '.join(map(str, paths))}")
    count = min(len(files), most)
    chosen = [files[i * len(files) // count] for i in range(count)]
    return tuple(
        PictureFile(path.name, _TYPES[path.suffix.lower()], path.read_bytes()) for path in chosen
    )


def described(pictures: Sequence[PictureFile], paths: Sequence[Path]) -> str:
    """What they are, for reports."""
    size = sum(len(one.data) for one in pictures) / len(pictures) / 1e3
    where = ", ".join(map(str, paths)) or "the package's samples"
    return f"{len(pictures)} of {where}, {size:.1f} kB on average"


def _files(paths: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = (one.relative_to(path) for one in path.rglob("*"))
            found += sorted(path / one for one in inside if _is_picture(one))
        elif not path.exists():
            raise InvalidInput(f"'{path}': no such file or folder")
        elif _is_picture(Path(path.name)):
            found.append(path)
        else:
            raise InvalidInput(f"'{path}' is not a .jpg, .jpeg, .png or .webp file")
    return found


def _is_picture(path: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.parts)
    return path.suffix.lower() in _TYPES and not hidden
