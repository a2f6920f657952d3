"""Bundles on disk: what is written is read back, what contradicts itself is never written."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from engines import bundle as bundles
from engines.bundle import (
    Bundle,
    Manifest,
    Provenance,
    read_bundle,
    write_bundle,
    zoo_names,
)
from engines.core import static_point
from engines.errors import BundleError, InvalidInput
from tests.engines.bundles import SIZE, manifest, weights


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A bundle that is fine."""
    path = tmp_path / "small.laud"
    write_bundle(path, manifest(), weights())
    return path


def content_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


# Writing and reading


def test_what_was_written_is_read_back(path: Path) -> None:
    found = read_bundle(path)
    assert found.path == path
    stored = found.manifest.model_copy(update={"weights": manifest().weights})
    assert stored == manifest()
    wanted = weights()
    assert found.weights.keys() == wanted.keys()
    for name, value in found.weights.items():
        assert value.dtype == np.float32
        assert value.shape == wanted[name].shape
        np.testing.assert_array_equal(value, wanted[name])


def test_16_bit_weights_stay_so(tmp_path: Path) -> None:
    path = tmp_path / "half.laud"
    record = manifest().weights.model_copy(update={"dtype": "fp16"})
    write_bundle(path, manifest(weights=record), weights(np.float16))
    found = read_bundle(path)
    assert found.manifest.weights.dtype == "fp16"
    assert {value.dtype for value in found.weights.values()} == {np.dtype(np.float16)}


@pytest.mark.parametrize(("says", "are"), [("fp16", np.float32), ("fp32", np.float16)])
def test_a_manifest_that_says_another_type_than_the_weights_have_is_refused(
    tmp_path: Path, says: str, are: type[np.generic], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither written nor, where an older version wrote it, read."""
    record = manifest().weights.model_copy(update={"dtype": says})
    with pytest.raises(BundleError, match=rf"says {says} weights.*conv1\.weight \({are.__name__}"):
        write_bundle(tmp_path / "new.laud", manifest(weights=record), weights(are))
    assert not [*tmp_path.iterdir()]
    with monkeypatch.context() as patch:
        patch.setattr(bundles, "_check_types", lambda *arguments: None)
        write_bundle(tmp_path / "old.laud", manifest(weights=record), weights(are))
    with pytest.raises(BundleError, match=rf"old\.laud': its manifest says {says} weights"):
        read_bundle(tmp_path / "old.laud")


def test_weights_may_be_views(tmp_path: Path) -> None:
    matrix = np.arange(12, dtype=np.float32).reshape(3, 4)
    write_bundle(tmp_path / "view.laud", manifest(), {"w": matrix.T[::-1]})
    np.testing.assert_array_equal(read_bundle(tmp_path / "view.laud").weights["w"], matrix.T[::-1])


def test_the_hash_depends_on_content_alone(tmp_path: Path) -> None:
    first, second = tmp_path / "a.laud", tmp_path / "b.laud"
    one = write_bundle(first, manifest(), weights())
    assert write_bundle(second, manifest(), weights()) == one
    assert content_of(first) == content_of(second)
    assert re.fullmatch("[0-9a-f]{64}", one)
    assert read_bundle(first).hash == one


@pytest.mark.parametrize("what", ["manifest", "weights"])
def test_the_hash_covers_manifest_and_weights(tmp_path: Path, what: str) -> None:
    one = write_bundle(tmp_path / "a.laud", manifest(), weights())
    arrays = weights()
    if what == "weights":
        arrays["scale"] = arrays["scale"] * 2
    other = manifest(labels=("cat", "cow")) if what == "manifest" else manifest()
    assert write_bundle(tmp_path / "b.laud", other, arrays) != one


def test_a_reader_needs_no_torch(path: Path) -> None:
    code = "import sys; from engines.bundle import read_bundle; read_bundle(sys.argv[1])"
    command = [sys.executable, "-c", f"{code}; sys.exit('torch' in sys.modules)", str(path)]
    root = Path(__file__).parents[2]
    assert subprocess.run(command, cwd=root, timeout=60, check=False).returncode == 0


def test_others_may_read_it(path: Path) -> None:
    """As the process's umask says, although it was prepared in a private folder."""
    plain = path.parent / "plain"
    plain.mkdir()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


# Writing over something


def test_a_bundle_is_replaced(path: Path) -> None:
    digest = write_bundle(path, manifest(name="newer"), weights())
    assert read_bundle(path).manifest.name == "newer"
    assert read_bundle(path).hash == digest
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["small", "small.zip", "laud"])
def test_another_suffix_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match=rf"ends in \.laud, got '{name}'"):
        write_bundle(tmp_path / name, manifest(), weights())
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("what", ["folder", "file"])
def test_something_else_is_not_overwritten(tmp_path: Path, what: str) -> None:
    path = tmp_path / "mine.laud"
    precious = path / "thesis.txt" if what == "folder" else path
    precious.parent.mkdir(exist_ok=True)
    precious.write_text("years of work")
    with pytest.raises(BundleError, match=r"exists and is not a bundle"):
        write_bundle(path, manifest(), weights())
    assert precious.read_text() == "years of work"


@pytest.mark.parametrize("step", [1, 2])
def test_a_failure_leaves_the_old_bundle(
    path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Whichever move fails: that of the old bundle out of the way, or that of the new one in."""
    before = content_of(path)
    moves = 0
    replace = os.replace

    def fail(source: Path, target: Path) -> None:
        nonlocal moves
        moves += 1
        if moves == step:
            raise OSError("disk on fire")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="on fire"):
        write_bundle(path, manifest(name="newer"), weights())
    assert content_of(path) == before
    assert [p.name for p in path.parent.iterdir()] == [path.name], "something is left over"


def test_a_full_disk_leaves_nothing_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Path, data: bytes) -> int:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="no space"):
        write_bundle(tmp_path / "new.laud", manifest(), weights())
    assert not [*tmp_path.iterdir()]


# Manifests that contradict themselves


def record(index: int = 1, **changes: Any) -> dict[str, Any]:
    return {**manifest().points[index].model_dump(), **changes}


FULL = record(0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"labels": ("cat",)}, "1 labels for 2 classes"),
        ({"labels": ()}, "at least 1 item"),
        ({"points": ()}, "at least 1 item"),
        ({"points": (FULL, FULL)}, "equal names: full, full"),
        ({"points": (record(), FULL)}, "must be 'full' and skip nothing"),
        ({"points": (record(),)}, "must be 'full' and skip nothing"),
        ({"points": (record(point=record()["point"] | {"name": "full"}),)}, "skip nothing"),
        ({"points": (record(0, activation=(1.0,)),)}, "'full' has 1 entries for 2 maskers"),
        (
            {"points": (record(0, point=static_point("full", SIZE, 3)),)},
            "'full' has 3 entries for 2 maskers",
        ),
        (
            {"points": (FULL, record(point=static_point("late", SIZE, 1)))},
            "'late' has 1 entries for 2 maskers",
        ),
        ({"points": (record(0, activation=(1.0, 1.1)),)}, "less than or equal to 1"),
        ({"points": (record(0, macs=0.0),)}, "greater than 0"),
        ({"name": "Small Bundle"}, "pattern"),
        ({"name": "../small"}, "pattern"),
        ({"task": "detection"}, "needs a detector"),
        ({"quantisation": "int8"}, "quantisation"),
    ],
    ids=str,
)
def test_a_manifest_that_contradicts_itself(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        manifest(**changes)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("std", (58.0, 0.0, 57.0), "greater than 0"),
        ("crop_ratio", 0.0, "greater than 0"),
        ("crop_ratio", 1.1, "less than or equal to 1"),
        ("channel_order", "grb", "'rgb' or 'bgr'"),
        ("mean", (0.0, 0.0), "Field required"),
        ("mean", (0.0, 0.0, float("nan")), "finite number"),
    ],
)
def test_preprocessing_that_cannot_be(field: str, value: Any, says: str) -> None:
    preprocessing = {**manifest().preprocessing.model_dump(), field: value}
    with pytest.raises(ValidationError, match=says):
        manifest(preprocessing=preprocessing)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_configuration_with_a_number_that_json_lacks_is_refused(number: float) -> None:
    """It would be written as null."""
    config = {"data": {"rates": [0.1, number]}}
    with pytest.raises(ValidationError, match=rf"config\.data\.rates\.1 is {number}"):
        Provenance(config=config)


def test_points_are_found_by_name() -> None:
    assert manifest().full.point.name == "full"
    assert manifest().point("skip").macs_ratio == 0.65
    with pytest.raises(
        InvalidInput, match="'small' has no operating point 'fast'; it has: full, skip"
    ):
        manifest().point("fast")


# Where bundles are looked for


@pytest.mark.parametrize("kind", ["nothing", "a file"])
def test_what_is_no_folder_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "some.laud"
    if kind == "a file":
        path.write_text("text")
    with pytest.raises(BundleError, match=r"some\.laud' is not a bundle directory .* nor zoo:NAME"):
        read_bundle(path)


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A zoo of two."""
    for name in ("wolf", "bear"):
        write_bundle(tmp_path / f"{name}.laud", manifest(name=name), weights())
    monkeypatch.setattr(bundles, "_ZOO", tmp_path)
    return tmp_path


def test_the_zoo_is_read_by_name(zoo: Path) -> None:
    assert zoo_names() == ("bear", "wolf")
    found: Bundle = read_bundle("zoo:wolf")
    assert isinstance(found.manifest, Manifest)
    assert (found.manifest.name, found.path) == ("wolf", zoo / "wolf.laud")


@pytest.mark.parametrize("name", ["lion", "", "../bear", "wolf.laud"])
def test_an_unknown_name_lists_those_there_are(zoo: Path, name: str) -> None:
    with pytest.raises(BundleError, match=f"'zoo:{re.escape(name)}' .* are: zoo:bear, zoo:wolf"):
        read_bundle(f"zoo:{name}")


def test_an_empty_zoo_says_so(zoo: Path) -> None:
    for path in zoo.iterdir():
        shutil.rmtree(path)
    with pytest.raises(BundleError, match="there are: none"):
        read_bundle("zoo:wolf")
