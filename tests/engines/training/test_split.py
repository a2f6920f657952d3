"""A folder of pictures becomes training, validation and test pictures without being touched."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from engines.errors import ConfigError
from engines.folders import ImageFolder, scan_folder
from engines.training.split import (
    check_links,
    check_pictures,
    find_pictures,
    held_out,
    link_splits,
)


def make(root: Path, *files: str) -> Path:
    """Pictures of one pixel."""
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (1, 1)).save(path)
    return root


def flat(root: Path, **counts: int) -> Path:
    """One folder a class, with so many pictures."""
    return make(root, *(f"{name}/{i}.png" for name, n in counts.items() for i in range(n)))


def names(folder: ImageFolder) -> set[str]:
    return {file.as_posix() for file in folder.files}


def listed(counts: list[int]) -> ImageFolder:
    """A folder that is not on disk."""
    files = [(label, Path(f"{label}/{i}.jpg")) for label, n in enumerate(counts) for i in range(n)]
    classes = tuple(str(label) for label in range(len(counts)))
    labels = np.array([label for label, _ in files], np.int64)
    return ImageFolder(Path("nowhere"), classes, tuple(file for _, file in files), labels)


@given(st.lists(st.integers(2, 60), min_size=1, max_size=6))
def test_a_fifth_of_each_class_is_held_out_and_every_class_is_on_both_sides(
    counts: list[int],
) -> None:
    folder = listed(counts)
    keep = held_out(folder)
    for label, count in enumerate(counts):
        held = int(keep[folder.labels == label].sum())
        assert 1 <= held < count
        assert abs(held - count / 5) <= 0.8


def test_the_choice_depends_on_names_alone() -> None:
    folder = listed([30, 12])
    keep = held_out(folder)
    order = np.random.default_rng(0).permutation(len(folder.files))
    turned = ImageFolder(
        Path("elsewhere"),
        folder.classes,
        tuple(folder.files[i] for i in order),
        folder.labels[order],
    )
    assert (held_out(turned) == keep[order]).all()


def test_more_pictures_move_few_of_those_that_were_there() -> None:
    before, after = listed([100]), listed([110])
    moved = held_out(before) != held_out(after)[:100]
    assert moved.sum() <= 10


def test_a_class_with_one_picture_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere/1: 1 picture is too few") as error:
        held_out(listed([5, 1]))
    assert "\n" not in str(error.value)


def test_splits_that_are_there_are_taken_as_they_are(tmp_path: Path) -> None:
    root = make(tmp_path, *(f"{s}/{c}/x.png" for s in ("train", "val", "test") for c in "ab"))
    found = find_pictures(root)
    assert found.root == root.resolve()
    assert (found.train.root.name, found.validation.root.name) == ("train", "val")
    assert found.test is not None
    assert found.test.root.name == "test"
    assert link_splits(found, tmp_path / "links", begun=False) == root.resolve()
    assert not (tmp_path / "links").exists()


def test_a_folder_of_classes_is_divided_through_links(tmp_path: Path) -> None:
    root = flat(tmp_path / "mine", apple=10, pear=5)
    before = {path: os.stat(path).st_mtime_ns for path in (root, *root.rglob("*"))}
    found = find_pictures(root)
    links = link_splits(found, tmp_path / "run" / "pictures", begun=False)
    train, validation = scan_folder(links / "train"), scan_folder(links / "validation")
    assert names(train).isdisjoint(names(validation))
    assert names(train) | names(validation) == names(scan_folder(root))
    assert (len(train.files), len(validation.files)) == (12, 3)
    assert "3 of its 15 pictures are held out" in found.how
    # What the splits say without links is what they say through them.
    assert names(found.train) == names(train)
    assert (found.validation.labels == validation.labels).all()
    assert {path: os.stat(path).st_mtime_ns for path in (root, *root.rglob("*"))} == before


def test_train_alone_is_divided_and_test_is_kept_out_of_it(tmp_path: Path) -> None:
    root = flat(tmp_path / "train", a=5, b=5).parent
    flat(root / "test", b=1)
    found = find_pictures(root)
    assert (len(found.train.files), len(found.validation.files)) == (8, 2)
    assert found.test is not None
    assert found.test.classes == ("a", "b")
    assert found.test.labels.tolist() == [1]


def test_pictures_in_folders_of_a_class_keep_their_place(tmp_path: Path) -> None:
    root = make(tmp_path / "mine", *(f"{c}/{y}/x.png" for c in "ab" for y in (2023, 2024)))
    links = link_splits(find_pictures(root), tmp_path / "pictures", begun=False)
    files = names(scan_folder(links / "train")) | names(scan_folder(links / "validation"))
    assert files == {"a/2023/x.png", "a/2024/x.png", "b/2023/x.png", "b/2024/x.png"}


def test_pictures_may_change_until_a_training_has_read_them(tmp_path: Path) -> None:
    root, links = flat(tmp_path / "mine", a=5, b=5), tmp_path / "pictures"
    link_splits(find_pictures(root), links, begun=False)
    flat(root, a=7)
    more = find_pictures(root)
    with pytest.raises(ConfigError, match="have changed since this run began"):
        link_splits(more, links, begun=True)
    link_splits(more, links, begun=False)
    assert len(scan_folder(links / "train").files) == len(more.train.files)
    link_splits(more, links, begun=True)


@pytest.mark.parametrize("links", ["mine", "mine/run/pictures", "mine/a/pictures"])
def test_a_run_among_the_pictures_is_refused_and_removes_none(tmp_path: Path, links: str) -> None:
    root = flat(tmp_path / "mine", a=5, b=5)
    found = find_pictures(root)
    for check in (check_links, partial(link_splits, begun=False)):
        with pytest.raises(ConfigError, match="would write among the pictures"):
            check(found, tmp_path / links)
    assert names(scan_folder(root)) == names(found.train) | names(found.validation)


@pytest.mark.parametrize("theirs", ["pictures/holiday/1.png", "pictures/train/1.png"])
@pytest.mark.parametrize("folder", ["pictures", "pictures.partial"])
def test_a_folder_of_other_files_is_not_taken_for_links(
    tmp_path: Path, theirs: str, folder: str
) -> None:
    found = find_pictures(flat(tmp_path / "mine", a=5, b=5))
    kept = theirs.replace("pictures", folder)
    make(tmp_path, kept)
    with pytest.raises(ConfigError, match=r"1\.png is none of them|holiday is none of them"):
        link_splits(found, tmp_path / "pictures", begun=False)
    assert (tmp_path / kept).is_file()


def no_classes(root: Path) -> Path:
    return make(root, "x.png")


def one_class(root: Path) -> Path:
    return flat(root, a=3)


def a_class_without_pictures(root: Path) -> Path:
    (flat(root, a=3) / "b").mkdir()
    return root


def a_test_split_without_train(root: Path) -> Path:
    return flat(flat(root / "test", a=1).parent, a=3, b=3)


def other_classes(root: Path) -> Path:
    flat(root / "train", a=1, b=1)
    return flat(root / "val", a=1, c=1).parent


def unknown_test_class(root: Path) -> Path:
    flat(root / "train", a=2, b=2)
    return flat(root / "test", z=1).parent


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (no_classes, "pictures belong in one folder a class, at least 2; found none"),
        (one_class, "pictures belong in one folder a class, at least 2; found only 'a'"),
        (a_class_without_pictures, "b: this class has no jpg, jpeg, png or webp file"),
        (a_test_split_without_train, "has the folder test/ with folders in it but no train/"),
        (other_classes, "lacks b and also has c"),
        (unknown_test_class, "no label is called z"),
        (lambda root: root / "nowhere", "nowhere: no such folder"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_in_one_line(
    tmp_path: Path, write: Callable[[Path], Path], reason: str
) -> None:
    root = write(tmp_path / "mine")
    with pytest.raises(ConfigError) as error:
        find_pictures(root)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_all_broken_pictures_are_named_at_once(tmp_path: Path) -> None:
    root = flat(tmp_path, a=4, b=4)
    check_pictures([scan_folder(root)])
    (root / "a" / "1.png").write_bytes(b"no picture")
    whole = (root / "b" / "2.png").read_bytes()
    (root / "b" / "2.png").write_bytes(whole[:45])
    with pytest.raises(ConfigError, match=r"2 of 8 pictures cannot be used") as error:
        check_pictures([scan_folder(root)])
    assert all(name in str(error.value) for name in ("a/1.png", "b/2.png"))
    for i in range(4):
        for name in "ab":
            (root / name / f"{i}.png").write_bytes(b"")
    with pytest.raises(ConfigError, match="and 3 more"):
        check_pictures([scan_folder(root)])
