"""What a cache of decoded images holds, and when it is reused, rebuilt or refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from engines.errors import ConfigError, InvalidInput
from engines.folders import ImageFolder, scan_folder
from engines.preprocessing import decode, preprocess
from engines.training.pixels import PixelCache, evaluation_pixels, open_cache

ROOT = Path(__file__).parents[3]
SIZES = ((40, 30), (30, 50), (20, 20), (120, 90), (31, 200), (64, 48))

# Dies at the third image as a kill would let it: no exception, no clean-up.
KILLED = """
import os, sys
from pathlib import Path
from engines.folders import scan_folder
from engines.training.pixels import open_cache
die = lambda done, total: os._exit(7) if done == 3 else None
open_cache(scan_folder(Path(sys.argv[1])), Path(sys.argv[2]), short_side=24, progress=die)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six pictures of noise in two classes, of several sizes and formats, one of them turned."""
    rng = np.random.default_rng(5)
    for i, (width, height) in enumerate(SIZES):
        path = tmp_path / "train" / "ab"[i % 2] / f"{i}.{('jpg', 'png', 'webp')[i % 3]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = 6 if i == 3 else 1
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(path, exif=exif)
    return tmp_path / "train"


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    return tmp_path / "cache"


class Seen:
    """A progress callback that remembers what it heard."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, int]] = []

    def __call__(self, done: int, total: int) -> None:
        self.heard.append((done, total))


def open_small(
    root: Path, cache_dir: Path, progress: Callable[[int, int], None] | None = None
) -> PixelCache:
    return open_cache(scan_folder(root), cache_dir, short_side=24, progress=progress)


def assert_holds(cache: PixelCache, folder: ImageFolder) -> None:
    """Every image is the decoded file, its short side scaled down to 24 where it was longer."""
    assert len(cache) == len(folder.files)
    for i, path in enumerate(folder.files):
        picture = Image.fromarray(decode((folder.root / path).read_bytes(), min_short_side=24))
        scale = min(24 / min(picture.size), 1.0)
        size = (round(picture.width * scale), round(picture.height * scale))
        expected = picture.resize(size, Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(cache[i], np.asarray(expected))


def test_images_are_decoded_and_scaled_to_the_short_side(root: Path, cache_dir: Path) -> None:
    cache = open_small(root, cache_dir)
    assert_holds(cache, scan_folder(root))


def test_images_are_never_enlarged(root: Path, cache_dir: Path) -> None:
    cache = open_cache(scan_folder(root), cache_dir, short_side=1000)
    turned = {(120, 90): (90, 120)}
    sizes = sorted(turned.get(size, size) for size in SIZES)
    assert sorted(cache[i].shape[1::-1] for i in range(len(cache))) == sizes


def test_progress_counts_every_image(root: Path, cache_dir: Path) -> None:
    seen = Seen()
    open_small(root, cache_dir, seen)
    assert seen.heard == [(i, 6) for i in range(1, 7)]


def test_whole_cache_is_reused(root: Path, cache_dir: Path) -> None:
    open_small(root, cache_dir)
    seen = Seen()
    cache = open_small(root, cache_dir, seen)
    assert not seen.heard
    assert_holds(cache, scan_folder(root))


def test_other_short_side_has_its_own_cache(root: Path, cache_dir: Path) -> None:
    open_small(root, cache_dir)
    cache = open_cache(scan_folder(root), cache_dir, short_side=10)
    assert {min(cache[i].shape[:2]) for i in range(len(cache))} == {10}
    seen = Seen()
    open_small(root, cache_dir, seen)
    assert not seen.heard


def test_changed_file_is_decoded_again(root: Path, cache_dir: Path) -> None:
    open_small(root, cache_dir)
    Image.new("RGB", (20, 20), "red").save(root / "a" / "2.webp", lossless=True)
    assert_holds(open_small(root, cache_dir), scan_folder(root))


def test_new_modification_time_alone_rebuilds(root: Path, cache_dir: Path) -> None:
    open_small(root, cache_dir)
    os.utime(root / "a" / "0.jpg", ns=(1, 1))
    seen = Seen()
    open_small(root, cache_dir, seen)
    assert seen.heard


def test_removed_file_leaves_the_cache(root: Path, cache_dir: Path) -> None:
    open_small(root, cache_dir)
    (root / "a" / "0.jpg").unlink()
    assert_holds(open_small(root, cache_dir), scan_folder(root))


def test_data_sets_of_one_name_do_not_share_a_cache(root: Path, cache_dir: Path) -> None:
    other = root.parent / "copy" / "train"
    shutil.copytree(root, other)
    (other / "a" / "0.jpg").unlink()
    open_small(root, cache_dir)
    open_small(other, cache_dir)
    seen = Seen()
    open_small(root, cache_dir, seen)
    assert not seen.heard


@pytest.mark.parametrize("name", ["pixels", "sizes.npy", "key.json"])
def test_cut_cache_is_rebuilt(root: Path, cache_dir: Path, name: str) -> None:
    open_small(root, cache_dir)
    (path,) = cache_dir.rglob(name)
    os.truncate(path, path.stat().st_size // 2)
    assert_holds(open_small(root, cache_dir), scan_folder(root))


def test_killed_build_leaves_nothing_that_counts(root: Path, cache_dir: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(root), str(cache_dir)]
    assert subprocess.run(command, check=False, cwd=ROOT, timeout=60).returncode == 7
    assert list(cache_dir.rglob("pixels"))
    seen = Seen()
    cache = open_small(root, cache_dir, seen)
    assert len(seen.heard) == 6
    assert_holds(cache, scan_folder(root))
    assert len(list(cache_dir.rglob("pixels"))) == 1


def test_interrupted_build_cleans_up(root: Path, cache_dir: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_small(root, cache_dir, stop)
    assert not list(cache_dir.rglob("pixels"))


def test_second_builder_of_the_same_cache_is_refused(root: Path, cache_dir: Path) -> None:
    def build_too(done: int, total: int) -> None:
        with pytest.raises(ConfigError, match="another process is decoding the same images"):
            open_small(root, cache_dir)

    assert_holds(open_small(root, cache_dir, build_too), scan_folder(root))


def test_unusable_picture_is_named(root: Path, cache_dir: Path) -> None:
    path = root / "b" / "1.png"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ConfigError, match=r"train/b/1\.png: the PNG image cannot be decoded"):
        open_small(root, cache_dir)


def test_full_disk_is_told_before_decoding(
    root: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = scan_folder(root)
    needed = 6 * 16 * 16 * 3
    seen = Seen()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=needed - 1))
    with pytest.raises(ConfigError, match=r"need about 0\.0 GB, 0\.0 GB are free"):
        evaluation_pixels(folder, cache_dir, 16, 0.875, seen)
    assert not seen.heard
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=needed))
    assert len(evaluation_pixels(folder, cache_dir, 16, 0.875, seen)) == 6


def test_writing_to_an_image_does_not_reach_the_disk(root: Path, cache_dir: Path) -> None:
    open_small(root, cache_dir)[0][...] = 0
    assert_holds(open_small(root, cache_dir), scan_folder(root))


def test_short_side_below_one_is_refused(root: Path, cache_dir: Path) -> None:
    with pytest.raises(InvalidInput, match="short_side"):
        open_cache(scan_folder(root), cache_dir, short_side=0)


def test_evaluation_pixels_are_those_of_the_product(root: Path, cache_dir: Path) -> None:
    folder = scan_folder(root)
    pixels = evaluation_pixels(folder, cache_dir, 16, 0.875)
    expected = [
        preprocess((root / path).read_bytes(), 16, crop_ratio=0.875) for path in folder.files
    ]
    np.testing.assert_array_equal(pixels, expected)


def test_evaluation_pixels_are_reused_for_the_same_size_and_crop(
    root: Path, cache_dir: Path
) -> None:
    folder = scan_folder(root)
    heard = []
    for size, crop_ratio in ((16, 0.875), (16, 0.875), (16, 1.0), (8, 0.875)):
        seen = Seen()
        evaluation_pixels(folder, cache_dir, size, crop_ratio, seen)
        heard.append(len(seen.heard))
    assert heard == [6, 0, 6, 6]
