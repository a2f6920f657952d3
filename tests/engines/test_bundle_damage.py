"""Bundles that were damaged, changed or written by another version: refused, with the reason."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines import bundle as bundles
from engines.bundle import MANIFEST, WEIGHTS, read_bundle, write_bundle
from engines.errors import BundleError
from tests.engines.bundles import manifest, weights

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


@settings(deadline=None)
@given(**flips)
def test_any_flipped_byte_of_the_weights_is_noticed(copy: Path, position: int, flip: int) -> None:
    assert refused(copy, WEIGHTS, position, flip)


@settings(deadline=None)
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
    ("bundles", "advice"),
    [
        ([], "make a bundle of it with laud export"),
        (["pets.laud"], "its bundle is '.*run/pets.laud'"),
    ],
)
def test_a_run_folder_is_no_bundle_but_leads_to_one(
    tmp_path: Path, bundles: list[str], advice: str
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}", encoding="utf-8")
    for name in bundles:
        (run / name).mkdir()
    with pytest.raises(BundleError, match=f"folder of a training run; {advice}"):
        read_bundle(run)


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


def test_weights_of_a_type_that_numpy_lacks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = b'{"x":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'
    blob = len(header).to_bytes(8, "little") + header + bytes(2)
    monkeypatch.setattr("safetensors.numpy.save", lambda arrays: blob)
    write_bundle(path, manifest(), weights())
    with pytest.raises(BundleError, match=f"{WEIGHTS}' has numbers of type 'BF16'"):
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
        (("architecture",), r"architecture\.resnet\.colour"),
        (("architecture", "stages", 1), r"architecture\.resnet\.stages\.1\.colour"),
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
    write_bundle(other, manifest(), {**weights(), "more": np.zeros(1, np.float32)})
    shutil.copy(other / WEIGHTS, path / WEIGHTS)
    with pytest.raises(BundleError, match="its hash does not match the manifest"):
        read_bundle(path)
