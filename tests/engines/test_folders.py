"""Which pictures and classes are found in a data folder, and what is said of one that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.errors import ConfigError, InvalidInput
from engines.folders import check_same_classes, find_split, scan_folder


def make(root: Path, *files: str) -> Path:
    """Empty files: scanning opens none of them."""
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def test_files_are_sorted_by_class_and_path(tmp_path: Path) -> None:
    root = make(tmp_path, "dress/b.jpg", "dress-long/c.jpg", "dress/a.jpg", "boots/z.jpg")
    folder = scan_folder(root)
    assert folder.classes == ("boots", "dress", "dress-long")
    names = [path.as_posix() for path in folder.files]
    assert names == ["boots/z.jpg", "dress/a.jpg", "dress/b.jpg", "dress-long/c.jpg"]
    assert folder.labels.tolist() == [0, 1, 1, 2]


def test_extensions_count_in_any_case(tmp_path: Path) -> None:
    names = ["1.jpg", "2.JPEG", "3.Png", "4.WEBP", "5.gif", "6.txt", "7"]
    root = make(tmp_path, "other/0.jpg", *(f"a/{name}" for name in names))
    found = [path.name for path in scan_folder(root).files if path.parts[0] == "a"]
    assert found == names[:4]


def test_pictures_in_nested_folders_belong_to_the_class(tmp_path: Path) -> None:
    root = make(tmp_path, "a/2024/may/x.jpg", "b/y.jpg")
    folder = scan_folder(root)
    assert folder.files[0] == Path("a/2024/may/x.jpg")
    assert folder.labels.tolist() == [0, 1]


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    root = make(tmp_path, "a/x.jpg", "b/y.jpg", "a/._x.jpg", "b/.cache/z.jpg", ".git/w.jpg")
    folder = scan_folder(root)
    assert folder.classes == ("a", "b")
    assert len(folder.files) == 2


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere: no such folder"):
        scan_folder(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("files", "found"), [(("x.jpg",), "found none"), (("a/x.jpg",), "found only 'a'")]
)
def test_fewer_than_two_classes_are_refused(
    tmp_path: Path, files: tuple[str, ...], found: str
) -> None:
    with pytest.raises(ConfigError, match=found):
        scan_folder(make(tmp_path, *files))


def test_class_without_pictures_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"empty: this class has no jpg, jpeg, png or webp file"):
        scan_folder(make(tmp_path, "full/x.jpg", "empty/readme.txt"))


@pytest.mark.parametrize(
    ("split", "name"),
    [
        ("train", "train"),
        ("validation", "validation"),
        ("validation", "val"),
        ("validation", "valid"),
        ("test", "test"),
    ],
)
def test_split_is_found_under_its_usual_names(tmp_path: Path, split: str, name: str) -> None:
    make(tmp_path, "other/x.jpg", f"{name}/a/x.jpg")
    assert find_split(tmp_path, split) == tmp_path / name


def test_full_name_of_a_split_goes_first(tmp_path: Path) -> None:
    make(tmp_path, "val/a/x.jpg", "validation/a/x.jpg")
    assert find_split(tmp_path, "validation") == tmp_path / "validation"


def test_missing_split_lists_what_is_there(tmp_path: Path) -> None:
    make(tmp_path, "train/a/x.jpg", "testing/a/x.jpg")
    with pytest.raises(ConfigError, match=r"tried validation, val, valid.*there is testing, train"):
        find_split(tmp_path, "validation")


def test_unknown_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="one of train, validation, test"):
        find_split(tmp_path, "dev")


def test_equal_classes_pass(tmp_path: Path) -> None:
    train = scan_folder(make(tmp_path / "train", "a/1.jpg", "b/2.jpg"))
    check_same_classes(train, scan_folder(make(tmp_path / "val", "a/3.jpg", "b/4.jpg")))


def test_differing_classes_are_named(tmp_path: Path) -> None:
    train = scan_folder(make(tmp_path / "train", "a/1.jpg", "b/2.jpg", "c/3.jpg"))
    other = scan_folder(make(tmp_path / "val", "a/1.jpg", "d/2.jpg"))
    with pytest.raises(ConfigError, match="it lacks b, c and also has d"):
        check_same_classes(train, other)
