"""Bundles on disk: what is written is read back, and anything else is refused with the reason."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from engines import bundle as bundles
from engines.bundle import (
    MANIFEST,
    WEIGHTS,
    Bundle,
    Manifest,
    read_bundle,
    write_bundle,
    zoo_names,
)
from engines.core import static_point
from engines.errors import BundleError, InvalidInput
from tests.engines.bundles import SIZE, manifest, weights

Edit = Callable[[Callable[[dict[str, Any]], object]], Path]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A bundle that is fine."""
    path = tmp_path / "small.laud"
    write_bundle(path, manifest(), weights())
    return path


@pytest.fixture
def edit(path: Path) -> Edit:
    """Changes the manifest's content, and leaves hash and file as they are."""

    def change(how: Callable[[dict[str, Any]], object]) -> Path:
        file = path / MANIFEST
        content = json.loads(file.read_text("utf-8"))
        how(content)
        file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
        return path

    return change


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


# Damage


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for many examples, each of which puts back what it changed."""
    path = tmp_path_factory.mktemp("bundle") / "small.laud"
    write_bundle(path, manifest(), weights())
    return path


def refused(path: Path, file: str, position: int, flip: int) -> bool:
    """Whether the bundle is refused once that byte of a file has been changed."""
    whole = (path / file).read_bytes()
    damaged = bytearray(whole)
    damaged[position % len(whole)] ^= flip
    try:
        (path / file).write_bytes(damaged)
        read_bundle(path)
    except BundleError as error:
        return file in str(error) or path.name in str(error)
    finally:
        (path / file).write_bytes(whole)
    return False


flips = {"position": st.integers(0, 10**6), "flip": st.integers(1, 255)}
many = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@many
@given(**flips)
def test_any_flipped_byte_of_the_weights_is_noticed(copy: Path, position: int, flip: int) -> None:
    assert refused(copy, WEIGHTS, position, flip)


@many
@given(**flips)
def test_any_flipped_byte_of_the_manifest_is_noticed(copy: Path, position: int, flip: int) -> None:
    assert refused(copy, MANIFEST, position, flip)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("\n ", "\n\t"),
        ("\n", "\r"),
        ("1e-05", "1E-05"),
        ("0.30000000000000004", "0.30000000000000005"),
    ],
    ids=["blank", "line end", "exponent", "last digit"],
)
def test_bytes_that_change_no_value_are_noticed_too(path: Path, text: str, other: str) -> None:
    file = path / MANIFEST
    whole = file.read_bytes()
    assert text.encode() in whole
    file.write_bytes(whole.replace(text.encode(), other.encode(), 1))
    assert json.loads(file.read_bytes()) == json.loads(whole)
    with pytest.raises(BundleError, match="changed after it was written"):
        read_bundle(path)


@pytest.mark.parametrize("file", [MANIFEST, WEIGHTS])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_cut_off_file_is_refused(path: Path, file: str, share: float) -> None:
    whole = (path / file).read_bytes()
    (path / file).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(BundleError, match=re.escape(file)):
        read_bundle(path)


@pytest.mark.parametrize("file", [MANIFEST, WEIGHTS])
def test_a_missing_file_is_named(path: Path, file: str) -> None:
    (path / file).unlink()
    with pytest.raises(BundleError, match=rf"cannot read '.*{re.escape(file)}': No such file"):
        read_bundle(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 10**5, "not JSON"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"{}", "name: Field required"),
    ],
    ids=["empty", "not text", "too deep", "list", "null", "no fields"],
)
def test_a_manifest_that_is_none(path: Path, content: bytes, says: str) -> None:
    (path / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError, match=says):
        read_bundle(path)


def test_a_huge_manifest_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "_MAX_MANIFEST_BYTES", 100)
    with pytest.raises(BundleError, match="larger than 100 bytes"):
        read_bundle(path)


def test_weights_that_are_not_safetensors(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a file with the right hash can only come from a writer gone wrong."""
    monkeypatch.setattr("safetensors.numpy.save", lambda arrays: b"no tensors")
    write_bundle(path, manifest(), weights())
    with pytest.raises(BundleError, match=f"{WEIGHTS}' is not a safetensors file"):
        read_bundle(path)


# Versions and unknown keys


def test_a_newer_schema_is_refused_naming_both_versions(edit: Edit) -> None:
    """Before anything else, since its keys may be unknown too."""
    path = edit(lambda content: content.update(schema_version=7, colour="red"))
    with pytest.raises(BundleError, match=r"schema version 7, .* reads up to 1; install a newer"):
        read_bundle(path)


@pytest.mark.parametrize("version", [0, "1", None, 1.5])
def test_a_schema_that_never_was_is_refused(edit: Edit, version: object) -> None:
    path = edit(lambda content: content.update(schema_version=version))
    with pytest.raises(BundleError, match="schema_version"):
        read_bundle(path)


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ((), "colour"),
        (("architecture",), r"architecture\.colour"),
        (("architecture", "stages", 1), r"architecture\.stages\.1\.colour"),
        (("points", 0, "point"), r"points\.0\.point\.colour"),
        (("preprocessing",), r"preprocessing\.colour"),
        (("weights",), r"weights\.colour"),
    ],
    ids=str,
)
def test_an_unknown_key_is_named(edit: Edit, where: tuple[str | int, ...], name: str) -> None:
    def add(content: Any) -> None:
        for step in where:
            content = content[step]
        content["colour"] = "red"

    with pytest.raises(BundleError, match=f"{name}: Extra inputs are not permitted"):
        read_bundle(edit(add))


def test_a_changed_value_does_not_match_the_hash(edit: Edit) -> None:
    path = edit(lambda content: content["labels"].reverse())
    with pytest.raises(BundleError, match="its hash does not match; export the bundle again"):
        read_bundle(path)


def test_a_manifest_without_its_hash_is_refused(edit: Edit) -> None:
    path = edit(lambda content: content.pop("hash"))
    with pytest.raises(BundleError, match="its hash does not match"):
        read_bundle(path)


def test_weights_of_another_bundle_are_noticed(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.laud"
    write_bundle(other, manifest(), weights(np.float16))
    shutil.copy(other / WEIGHTS, path / WEIGHTS)
    with pytest.raises(BundleError, match="its hash does not match the manifest"):
        read_bundle(path)


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
        ({"task": "detection"}, "classification"),
        ({"quantisation": "int8"}, "None"),
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


def test_points_are_found_by_name() -> None:
    assert manifest().full is manifest().full or manifest().full.point.name == "full"
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
