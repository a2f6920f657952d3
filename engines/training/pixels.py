"""Pictures decoded once and kept on disk as one memory map, so that every epoch only reads.

A cache is a folder: `pixels` (the images one after the other, uint8), `sizes.npy` (N, 2) heights
and widths, `key.json`. It is built under another name and renamed, so it is whole or not there.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from engines.core import UInt8Array
from engines.errors import ConfigError, ImageError, InvalidInput
from engines.folders import ImageFolder
from engines.preprocessing import ImageHeader, decode, preprocess, read_header

# Part of every key: to be raised when the files' layout or what is put in them changes.
_FORMAT = 1
_CODECS = ("pillow", "simplejpeg")
_SAMPLE = 256

_T = TypeVar("_T")
# Hears how many images of how many are done.
Progress = Callable[[int, int], None]


class PixelCache:
    """Decoded images of any sizes: `cache[i]` is a uint8 (H, W, 3) view into a memory map."""

    def __init__(self, pixels: UInt8Array, sizes: npt.NDArray[np.int64]) -> None:
        """`pixels` holds every image's bytes in turn; `sizes` (N, 2) are heights and widths."""
        self._pixels, self._sizes = pixels, sizes
        self._ends = np.cumsum(sizes.prod(axis=1) * 3)

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, index: int) -> UInt8Array:
        height, width = (int(side) for side in self._sizes[index])
        end = int(self._ends[index])
        return self._pixels[end - height * width * 3 : end].reshape(height, width, 3)

    @property
    def flat(self) -> UInt8Array:
        """All bytes, (total,)."""
        return self._pixels


def open_cache(
    folder: ImageFolder, cache_dir: Path, *, short_side: int, progress: Progress | None = None
) -> PixelCache:
    """The images of `folder` with short sides of at most `short_side`, decoded once.

    Larger ones are scaled down (antialiased bilinear), none is enlarged. What `cache_dir` holds is
    reused if neither the files nor the codecs have changed. Raises ConfigError for an unusable
    picture, by name, and for a disk that is too full.
    """
    if short_side < 1:
        raise InvalidInput(f"short_side must be at least 1, got {short_side}")

    def make(data: bytes) -> UInt8Array:
        pixels = decode(data, min_short_side=short_side)
        height, width = pixels.shape[:2]
        size = _limited(width, height, short_side)
        if size == (width, height):
            return pixels
        return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))

    def area(header: ImageHeader) -> int:
        width, height = _limited(header.width, header.height, short_side)
        return width * height

    return _open(folder, cache_dir, f"short-side-{short_side}", make, area, progress)


def evaluation_pixels(
    folder: ImageFolder,
    cache_dir: Path,
    size: int,
    crop_ratio: float,
    progress: Progress | None = None,
) -> UInt8Array:
    """The images as the product sees them, by `preprocess`: uint8 (N, size, size, 3), a memory map.

    Kept in `cache_dir` as `open_cache` does; raises what it raises.
    """

    def make(data: bytes) -> UInt8Array:
        return preprocess(data, size, crop_ratio=crop_ratio)

    name = f"evaluation-{size}-{crop_ratio!r}"
    cache = _open(folder, cache_dir, name, make, lambda header: size * size, progress)
    return cache.flat.reshape(len(cache), size, size, 3)


def _limited(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Width and height once the short side is at most `short_side`."""
    scale = short_side / min(width, height)
    return (width, height) if scale >= 1 else (round(width * scale), round(height * scale))


def _open(
    folder: ImageFolder,
    cache_dir: Path,
    name: str,
    make: Callable[[bytes], UInt8Array],
    area: Callable[[ImageHeader], int],
    progress: Progress | None,
) -> PixelCache:
    """Read the cache `name` of `folder`, building it with `make` where it is not there or old."""
    root = folder.root.resolve()
    where = hashlib.sha256(os.fsencode(root)).hexdigest()[:8]
    entry = cache_dir / f"{root.name}-{where}-{name}"
    key = _key(folder, name)
    if (cache := _read(entry, key)) is not None:
        return cache
    cache_dir.mkdir(parents=True, exist_ok=True)
    with _lock(entry):
        # Another process may have finished it, or been killed in the middle of it.
        if (cache := _read(entry, key)) is not None:
            return cache
        partial = entry.with_name(f"{entry.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(entry, ignore_errors=True)
        _check_space(folder, cache_dir, area)
        try:
            _build(folder, partial, key, make, progress or (lambda done, total: None))
            partial.rename(entry)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    if (cache := _read(entry, key)) is None:
        raise ConfigError(f"{entry}: the cache was removed or changed while it was written")
    return cache


def _key(folder: ImageFolder, name: str) -> dict[str, str]:
    """What a cache was made from. Moving the whole data set does not change it."""
    files = hashlib.sha256()
    for path in folder.files:
        stat = (folder.root / path).stat()
        files.update(os.fsencode(path) + f"\0{stat.st_size} {stat.st_mtime_ns}\0".encode())
    codecs = {codec: version(codec) for codec in _CODECS}
    return {"format": str(_FORMAT), "pixels": name, "files": files.hexdigest(), **codecs}


def _read(entry: Path, key: dict[str, str]) -> PixelCache | None:
    """The cache at `entry` if it is whole and was made from `key`."""
    try:
        if json.loads((entry / "key.json").read_text(encoding="utf-8")) != key:
            return None
        sizes = np.load(entry / "sizes.npy", allow_pickle=False)
        # Copy on write: torch warns of arrays that cannot be written, and no change reaches disk.
        pixels = np.memmap(entry / "pixels", np.uint8, "c")
    except (OSError, ValueError, EOFError):
        return None
    if sizes.ndim != 2 or int(sizes.prod(axis=1).sum()) * 3 != pixels.size:
        return None
    return PixelCache(pixels, sizes)


@contextmanager
def _lock(entry: Path) -> Iterator[None]:
    """Hold the right to build `entry`; the system releases it when the process dies."""
    with entry.with_name(f"{entry.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"{entry}: another process is decoding the same images; start again when it is done"
            ) from error
        yield


def _check_space(folder: ImageFolder, cache_dir: Path, area: Callable[[ImageHeader], int]) -> None:
    """Raise ConfigError when the disk is too full, judged by the headers of a sample of files."""
    count = len(folder.files)
    sample = np.unique(np.linspace(0, count - 1, min(count, _SAMPLE)).astype(int))
    pixels = [
        _with_file(folder.root / folder.files[i], lambda d: area(read_header(d))) for i in sample
    ]
    needed = sum(pixels) * 3 * count // len(sample)
    free = shutil.disk_usage(cache_dir).free
    if needed > free:
        raise ConfigError(
            f"{cache_dir}: the decoded images of {folder.root} need about {needed / 1e9:.1f} GB, "
            f"{free / 1e9:.1f} GB are free"
        )


def _build(
    folder: ImageFolder,
    partial: Path,
    key: dict[str, str],
    make: Callable[[bytes], UInt8Array],
    progress: Progress,
) -> None:
    partial.mkdir()
    workers = len(os.sched_getaffinity(0))
    paths = [folder.root / path for path in folder.files]
    sizes: list[tuple[int, ...]] = []
    with ThreadPoolExecutor(workers) as pool, (partial / "pixels").open("wb") as file:
        # A few at a time: the pool would run ahead of the disk and fill the memory.
        for start in range(0, len(paths), 4 * workers):
            some = paths[start : start + 4 * workers]
            for pixels in pool.map(lambda path: _with_file(path, make), some):
                file.write(pixels.data)
                sizes.append(pixels.shape[:2])
                progress(len(sizes), len(paths))
        file.flush()
        os.fsync(file.fileno())
    np.save(partial / "sizes.npy", np.array(sizes, np.int64))
    (partial / "key.json").write_text(json.dumps(key, indent=2), encoding="utf-8")


def _with_file(path: Path, use: Callable[[bytes], _T]) -> _T:
    """What `use` makes of the bytes of `path`; its ImageError becomes one that names the file."""
    try:
        return use(path.read_bytes())
    except (ImageError, OSError) as error:
        raise ConfigError(f"{path}: {error}") from error
