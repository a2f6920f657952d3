"""Plans on disk, and whether one fits what is here. Needs neither TensorRT nor a GPU."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from engines.errors import PlanError
from engines.tensorrt.plans import (
    Branches,
    Bucket,
    Here,
    MaskHead,
    check_plan_output,
    misfit,
    plans_in,
    read_plan,
    sha256,
    spelled,
    write_plan,
)
from tests.engines.tensorrt.manifests import ONNX, PROGRAM, plan_manifest

HERE = Here("tensorrt", "10.16.1.11", "NVIDIA GeForce RTX 3090", 86)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    where = tmp_path / "new" / "small.plan"
    write_plan(where, plan_manifest(), ONNX, PROGRAM)
    return where


def test_a_plan_comes_back_as_it_was(path: Path) -> None:
    plan = read_plan(path)
    assert plan.manifest == plan_manifest()
    assert (plan.onnx.read_bytes(), plan.program()) == (ONNX, PROGRAM)
    assert [each.name for each in path.parent.iterdir()] == ["small.plan"]


def test_an_older_plan_is_replaced_whole(path: Path) -> None:
    (path / "left.txt").write_text("over")
    newer = plan_manifest(precision="fp32")
    write_plan(path, newer, ONNX, PROGRAM)
    assert read_plan(path).manifest == newer
    assert not (path / "left.txt").exists()


def test_an_older_plan_stays_where_the_new_one_cannot_be_put(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.replace

    def fails_once_the_old_one_is_away(source: Any, target: Any) -> None:
        if Path(source).name == "new":
            raise OSError("no space")
        real(source, target)

    monkeypatch.setattr(os, "replace", fails_once_the_old_one_is_away)
    with pytest.raises(OSError, match="no space"):
        write_plan(path, plan_manifest(precision="fp32"), ONNX, PROGRAM)
    assert read_plan(path).manifest == plan_manifest()
    assert [each.name for each in path.parent.iterdir()] == ["small.plan"]


@pytest.mark.parametrize("name", ["network.onnx", "network.engine"])
def test_a_flipped_byte_is_seen(path: Path, name: str) -> None:
    content = bytearray((path / name).read_bytes())
    content[3] ^= 1
    (path / name).write_bytes(content)
    with pytest.raises(PlanError, match=f"{name}' is damaged: its hash does not match"):
        read_plan(path)


@pytest.mark.parametrize("name", ["network.onnx", "network.engine", "manifest.json"])
def test_a_file_that_is_missing(path: Path, name: str) -> None:
    (path / name).unlink()
    with pytest.raises(PlanError, match=f"cannot read '.*{name}'.*: No such file"):
        read_plan(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "is not a plan's manifest"),
        (json.dumps({"schema_version": 3}), "has schema version 3, .* install a newer laudserve"),
        (
            json.dumps({"schema_version": 1}),
            "is of an older laudserve; build again with: laud build",
        ),
    ],
    ids=["cut", "deep", "list", "newer", "older"],
)
def test_manifests_that_are_none(path: Path, text: str, says: str) -> None:
    (path / "manifest.json").write_text(text)
    with pytest.raises(PlanError, match=says):
        read_plan(path)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("precision", "int8", "precision: Input should be 'fp32' or 'fp16'"),
        ("buckets", [], "buckets: Tuple should have at least 1 item"),
        ("colour", "red", "colour: Extra inputs are not permitted"),
        ("onnx", "short", "onnx: String should match"),
    ],
)
def test_keys_and_values_that_no_plan_has(path: Path, key: str, value: object, says: str) -> None:
    content = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**content, key: value}))
    with pytest.raises(PlanError, match=says):
        read_plan(path)


def test_two_buckets_of_one_shape() -> None:
    twice = (Bucket(image_size=32, images=1, profile=0), Bucket(image_size=32, images=1, profile=1))
    with pytest.raises(ValidationError, match="two buckets have one shape"):
        plan_manifest(buckets=twice)


BRANCHES = Branches(
    onnx=sha256(b"branches"),
    program=sha256(b"compiled branches"),
    buckets=(Bucket(image_size=32, images=1, profile=0),),
    plugins=("partition",),
)


def test_branches_lie_beside_and_are_verified_too(path: Path) -> None:
    manifest = plan_manifest(branches=BRANCHES)
    write_plan(path, manifest, ONNX, PROGRAM, (b"branches", b"compiled branches"))
    plan = read_plan(path)
    assert plan.manifest == manifest
    assert plan.branches_onnx.read_bytes() == b"branches"
    assert plan.branches_program() == b"compiled branches"
    assert manifest.programs == (sha256(PROGRAM), sha256(b"compiled branches"), None)
    masks = MaskHead(onnx="0" * 64, program="1" * 64, objects=8)
    assert plan_manifest(masks=masks).programs == (sha256(PROGRAM), None, "1" * 64)
    (path / "branches.engine").write_bytes(b"cut")
    with pytest.raises(PlanError, match=r"branches\.engine' is damaged"):
        read_plan(path)


@pytest.mark.parametrize("buckets", [(), ((40, 1),), ((32, 1), (40, 1)), ((32, 4),)], ids=str)
def test_branches_are_of_the_buckets_of_one_image(buckets: tuple[tuple[int, int], ...]) -> None:
    shapes = tuple(Bucket(image_size=size, images=images, profile=0) for size, images in buckets)
    with pytest.raises(ValidationError, match=r"at least 1 item|every bucket of one image"):
        plan_manifest(branches={**BRANCHES.model_dump(), "buckets": shapes})


def test_a_plan_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"is not a plan .* laud build BUNDLE"):
        read_plan(tmp_path / "missing.plan")


def test_what_is_no_plan_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "other.plan").mkdir()
    (tmp_path / "other.plan" / "thesis.tex").write_text("mine")
    with pytest.raises(PlanError, match="exists and is not a plan"):
        write_plan(tmp_path / "other.plan", plan_manifest(), ONNX, PROGRAM)
    with pytest.raises(PlanError, match=r"ends in \.plan, got 'net\.onnx'"):
        check_plan_output(tmp_path / "net.onnx")


def test_where_nothing_can_be_put_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for inside in ("a.plan", "new/a.plan"):
        with pytest.raises(PlanError, match=r"nothing can be put into '.*file'"):
            check_plan_output(tmp_path / "file" / inside)
    check_plan_output(tmp_path / "new" / "a.plan")
    # Whoever tests may be root, who may write everywhere.
    monkeypatch.setattr(os, "access", lambda where, mode: where != tmp_path)
    with pytest.raises(PlanError, match=rf"nothing can be put into '{tmp_path}'"):
        check_plan_output(tmp_path / "new" / "a.plan")


def test_plans_of_folders_are_listed_by_name_and_once(path: Path) -> None:
    other = path.with_name("another.plan")
    write_plan(other, plan_manifest(), ONNX, PROGRAM)
    (path.parent / "empty.plan").mkdir()
    assert plans_in([path.parent, path.parent, path.parent.parent]) == [other, path]


def test_a_plan_fits_its_library_version_and_capability() -> None:
    assert misfit(plan_manifest(), HERE) is None
    several = plan_manifest(capabilities=(86, 89))
    assert misfit(several, replace(HERE, capability=89)) is None


@pytest.mark.parametrize(
    ("here", "says"),
    [
        (replace(HERE, library="tensorrt_rtx"), "is of TensorRT, not of TensorRT-RTX"),
        (
            replace(HERE, library_version="10.16.1.12"),
            "was compiled by TensorRT 10.16.1.11, and 10.16.1.12 is installed: build it again, or "
            "install that version",
        ),
        (
            replace(HERE, capability=89, device="L4"),
            "was compiled for compute capability 8.6, and L4 has 8.9: build it again for this "
            "device",
        ),
    ],
)
def test_why_a_plan_does_not_fit(here: Here, says: str) -> None:
    assert misfit(plan_manifest(), here) == says


def test_capabilities_of_two_and_three_digits() -> None:
    assert (spelled(86), spelled(120)) == ("8.6", "12.0")
