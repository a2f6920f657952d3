"""Pictures to measure with: which of a folder, and made-up ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engines.bench.pictures import MOST_PICTURES, FolderPictures, MadeUpPictures
from engines.errors import ConfigError


def fill(folder: Path, count: int) -> None:
    """Grey pictures, the i-th of brightness i % 256; half of them one folder deeper."""
    for i in range(count):
        name = f"{i:04}.png" if i % 2 else f"deeper/{i:04}.PNG"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (i % 256,) * 3).save(folder / name)


def test_all_pictures_of_a_small_folder_are_taken_at_any_depth(tmp_path: Path) -> None:
    fill(tmp_path, 10)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden").mkdir()
    fill(tmp_path / ".hidden", 3)
    found = FolderPictures(tmp_path, 1.0)
    pixels = found.at(8)
    assert pixels.shape == (10, 8, 8, 3)
    assert sorted(pixels[:, 0, 0, 0].tolist()) == [*range(10)]
    assert found.source == f"10 of 10 pictures below {tmp_path}"
    assert found.at(3).shape == (10, 3, 3, 3)


def test_a_large_folder_is_sampled_evenly(tmp_path: Path) -> None:
    fill(tmp_path, 2 * MOST_PICTURES)
    found = FolderPictures(tmp_path, 1.0)
    pixels = found.at(1)
    assert len(pixels) == MOST_PICTURES
    assert found.source.startswith(f"{MOST_PICTURES} of {2 * MOST_PICTURES} ")
    # Half of the sorted paths is in `deeper`, with even numbers.
    assert (pixels[:, 0, 0, 0] % 2 == 0).sum() == MOST_PICTURES // 2


def test_key_tells_pictures_and_crops_apart(tmp_path: Path) -> None:
    fill(tmp_path, 8)
    keys = {FolderPictures(tmp_path, ratio).key for ratio in (1.0, 1.0, 0.9)}
    Image.new("RGB", (4, 4), "red").save(tmp_path / "0001.png")
    keys.add(FolderPictures(tmp_path, 1.0).key)
    assert len(keys) == 3


def test_too_few_pictures_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    with pytest.raises(ConfigError, match=r"3 jpg, jpeg, png or webp files are too few.* 8 are"):
        FolderPictures(tmp_path, 1.0)


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere: no such folder"):
        FolderPictures(tmp_path / "nowhere", 1.0)


def test_file_that_is_no_picture_is_named(tmp_path: Path) -> None:
    fill(tmp_path, 8)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ConfigError, match=r"broken\.jpg"):
        FolderPictures(tmp_path, 1.0).at(4)


def test_made_up_pictures_say_what_they_are_and_follow_the_seed() -> None:
    one, again, other = (MadeUpPictures(seed, 4) for seed in (0, 0, 1))
    assert one.source == "4 made-up pictures (--images DIR takes real ones)"
    assert one.key == again.key != other.key
    assert one.at(16).shape == (4, 16, 16, 3)
    assert np.array_equal(one.at(16), again.at(16))
    assert not np.array_equal(one.at(16), other.at(16))
