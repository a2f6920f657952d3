"""Which form a call of one image takes: what was timed says so, and before that a default."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from engines.core import Glance, OperatingPoint, static_point
from engines.manifest import Manifest
from engines.tensorrt.forms import Forms, chosen_forms, default_form, faster_form, timed_of
from engines.tensorrt.latency import CallLatency, PlanTable, plan_table_name, write_plan_table
from engines.tensorrt.plans import (
    Branches,
    Bucket,
    Form,
    LibraryName,
    read_plan,
    sha256,
    write_plan,
)
from tests.engines.int8 import bundle_of, net_of, random_weights
from tests.engines.tensorrt.manifests import ONNX, PROGRAM, plan_manifest

DEVICE = "NVIDIA GeForce RTX 3090"
BRANCHES = Branches(
    onnx=sha256(ONNX),
    program=sha256(PROGRAM),
    buckets=(Bucket(image_size=32, images=1, profile=0),),
)


def call(
    point: str, form: Form, *seconds: float, images: int = 1, again: Sequence[float] = ()
) -> CallLatency:
    bucket = Bucket(image_size=32, images=images, profile=0)
    return CallLatency.of(point, bucket, seconds, [again] if again else [], [], 5, form)


def table(*calls: CallLatency, **changes: Any) -> PlanTable:
    manifest = plan_manifest(branches=BRANCHES)
    fields: dict[str, Any] = {
        "bundle": manifest.bundle,
        "program": manifest.program,
        "branches": BRANCHES.program,
        "name": manifest.name,
        "library": manifest.library,
        "library_version": manifest.library_version,
        "precision": manifest.precision,
        "device": DEVICE,
        "version": manifest.version,
        "calls": calls,
        **changes,
    }
    return PlanTable(**fields)


@pytest.fixture(scope="module")
def bundle() -> Manifest:
    """Points full, skip, and one that glances, every second image again."""
    net = net_of("layer")
    manifest = bundle_of(net, random_weights(net), None).manifest
    maskers, full = len(net.maskers), manifest.full
    skip = OperatingPoint(
        name="skip", image_size=32, thresholds=(0.1,) * maskers, caps=(None,) * maskers
    )
    glance = static_point("glance", 32, maskers).model_copy(
        update={"glance": Glance(image_size=24, confidence=0.5)}
    )
    records = (
        full,
        full.model_copy(update={"point": skip}),
        full.model_copy(update={"point": glance, "again": 0.5}),
    )
    return manifest.model_copy(update={"points": records})


@pytest.mark.parametrize(
    ("library", "form"), [("tensorrt", "blocks"), ("tensorrt_rtx", "branches")]
)
def test_before_anything_was_timed_the_library_says(
    bundle: Manifest, library: LibraryName, form: Form
) -> None:
    assert default_form(library) == form
    manifest = plan_manifest(branches=BRANCHES, library=library)
    forms = chosen_forms(manifest, bundle, None)
    assert {forms(name) for name in ("full", "skip", "anything else")} == {form}
    assert set(forms.of_points) == {"full", "skip", "glance"}
    assert forms.branch == (form == "branches")


def test_a_plan_without_branches_takes_block_kernels(bundle: Manifest) -> None:
    timed = table(call("full", "blocks", 2.0, 2.0), call("full", "branches", 1.0, 1.0))
    for library in ("tensorrt", "tensorrt_rtx"):
        forms = chosen_forms(plan_manifest(library=library), bundle, timed)
        assert (forms, forms.branch) == (Forms(), False)


def test_every_point_takes_what_was_faster_for_it_at_the_median(bundle: Manifest) -> None:
    timed = table(
        call("full", "blocks", 1.0, 1.0, 9.0),
        call("full", "branches", 2.0, 2.0, 2.0),
        call("skip", "blocks", 2.0, 2.0),
        call("skip", "branches", 1.0, 1.0),
        call("skip", "blocks", 0.1, 0.1, images=4),
    )
    forms = chosen_forms(plan_manifest(branches=BRANCHES), bundle, timed)
    assert [forms(name) for name in ("full", "skip", "glance")] == ["blocks", "branches", "blocks"]
    assert forms.branch


@pytest.mark.parametrize(
    "calls",
    [
        (),
        (call("full", "branches", 1.0, 1.0),),
        (call("full", "blocks", 1.0, 1.0), call("full", "branches", 1.0, 1.0)),
        (call("full", "blocks", 1.0, 1.0, images=2), call("full", "branches", 0.5, 0.5)),
    ],
    ids=["nothing", "one", "equal", "another batch"],
)
def test_what_does_not_compare_leaves_the_default(
    bundle: Manifest, calls: tuple[CallLatency, ...]
) -> None:
    timed = table(*calls, call("other", "branches", 1.0, 1.0))
    assert faster_form(timed, "full", 0.0) is None
    for library in ("tensorrt", "tensorrt_rtx"):
        manifest = plan_manifest(branches=BRANCHES, library=library)
        assert chosen_forms(manifest, bundle, timed)("full") == default_form(manifest.library)


def test_branches_that_have_no_call_in_the_table_were_wrong_and_no_point_takes_them(
    bundle: Manifest,
) -> None:
    timed = table(call("full", "blocks", 1.0, 1.0))
    forms = chosen_forms(plan_manifest(branches=BRANCHES, library="tensorrt_rtx"), bundle, timed)
    assert {forms(name) for name in ("full", "skip", "anything else")} == {"blocks"}
    assert not forms.branch


@pytest.mark.parametrize(("again", "form"), [(0.0, "blocks"), (0.5, None), (1.0, "branches")])
def test_a_glance_counts_both_looks_as_often_as_they_come(again: float, form: Form | None) -> None:
    timed = table(
        call("glance", "blocks", 1.0, 1.0, again=(4.0, 4.0)),
        call("glance", "branches", 2.0, 2.0, again=(3.0, 3.0)),
    )
    assert faster_form(timed, "glance", again) == form


def test_the_share_that_is_looked_at_again_is_the_bundles(bundle: Manifest) -> None:
    timed = table(
        call("glance", "blocks", 1.0, 1.0, again=(4.0, 4.0)),
        call("glance", "branches", 1.5, 1.5, again=(3.0, 3.0)),
    )
    assert faster_form(timed, "glance", 0.0) == "blocks"
    assert chosen_forms(plan_manifest(branches=BRANCHES), bundle, timed)("glance") == "branches"


def test_the_table_is_the_one_in_the_plans_folder_of_this_device_and_plan(tmp_path: Path) -> None:
    manifest = plan_manifest(branches=BRANCHES)
    write_plan(tmp_path / "a.plan", manifest, ONNX, PROGRAM, (ONNX, PROGRAM))
    plan = read_plan(tmp_path / "a.plan")
    timed = table(call("full", "blocks", 1.0, 1.0))
    assert timed_of(plan, DEVICE) is None
    path = plan.path / plan_table_name(DEVICE)
    write_plan_table(path, timed)
    assert timed_of(plan, DEVICE) == timed
    assert timed_of(plan, "L4") is None
    for changes in (
        {"program": "0" * 64},
        {"branches": None},
        {"masks": "0" * 64},
        {"device": "L4"},
    ):
        write_plan_table(path, timed.model_copy(update=changes))
        assert timed_of(plan, DEVICE) is None, changes
    path.write_text("{")
    assert timed_of(plan, DEVICE) is None
