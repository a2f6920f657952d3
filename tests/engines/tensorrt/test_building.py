"""What a build asks for, before any library is needed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

onnx = pytest.importorskip("onnx")

from engines.bundle import Bundle, read_bundle
from engines.errors import EngineError, InvalidInput
from engines.export.onnx.run import onnx_model
from engines.tensorrt.building import (
    BuildPlan,
    buckets_alone,
    buckets_of,
    build_rtx,
    default_output,
    exactly,
    sizes_of,
    spanning,
)
from engines.tensorrt.libraries import library
from engines.tensorrt.network import Progress
from tests.engines.int8 import bundle_of, net_of, random_weights


@pytest.fixture(scope="module")
def small() -> Bundle:
    net = net_of("spatial", "layer")
    return bundle_of(net, random_weights(net), None)


def test_sizes_are_those_of_points_and_of_their_glances() -> None:
    assert sizes_of(read_bundle("zoo:clothing")) == (64, 80, 96, 112, 128, 144, 160)


def test_every_size_with_every_batch_is_a_bucket(small: Bundle) -> None:
    plan = BuildPlan(sizes=(40, 32), batches=(4, 1, 4))
    found = buckets_of(small, plan, profile_each=True)
    assert [(each.image_size, each.images, each.profile) for each in found] == [
        (32, 1, 0),
        (32, 4, 1),
        (40, 1, 2),
        (40, 4, 3),
    ]
    assert {each.profile for each in buckets_of(small, plan, profile_each=False)} == {0}
    alone = buckets_alone(found, profile_each=True)
    assert [(each.image_size, each.images, each.profile) for each in alone] == [
        *((32, 1, 0), (40, 1, 1))
    ]
    assert {each.profile for each in buckets_alone(found, profile_each=False)} == {0}


def test_profiles_have_the_shapes_of_all_inputs(small: Bundle) -> None:
    model = onnx_model(small, "fp16")
    maskers = len(small.manifest.architecture.maskers)
    buckets = buckets_of(small, BuildPlan(sizes=(32, 40), batches=(2, 8)), profile_each=True)
    assert exactly(model, buckets[1]) == {
        "image": ((8, 32, 32, 3),) * 3,
        "thresholds": ((8, maskers),) * 3,
        "caps": ((8, maskers),) * 3,
    }
    assert spanning(model, buckets)["image"] == ((2, 32, 32, 3), (2, 40, 40, 3), (8, 40, 40, 3))
    assert spanning(model, buckets)["caps"] == ((2, maskers), (2, maskers), (8, maskers))


def test_where_a_plan_goes_by_itself(small: Bundle) -> None:
    assert default_output(small, "fp16", (86,)) == Path("int8.laud/fp16-sm86.plan")
    demo = read_bundle("zoo:clothing")
    assert default_output(demo, "fp32", (86, 89), "rtx-") == Path(
        "clothing-rtx-fp32-sm86-sm89.plan"
    )


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (BuildPlan(precision="int8"), "unknown precision 'int8' of a plan; there are: fp32, fp16"),
        (BuildPlan(batches=(1, 0)), "a batch is 1 to 1024 images, got 0"),
        (BuildPlan(sizes=(5000,)), "a size is 1 to 4096 pixels, got 5000"),
    ],
)
def test_what_cannot_be_built(plan: BuildPlan, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        build_rtx("zoo:clothing", plan, [86], lambda _line: None)


def test_a_library_that_is_missing_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    library.cache_clear()
    try:
        with pytest.raises(EngineError, match=r"TensorRT-RTX cannot be loaded .*'\.\[rtx\]'"):
            build_rtx("zoo:clothing", BuildPlan(), [86], lambda _line: None)
    finally:
        library.cache_clear()


def test_progress_is_said_every_two_seconds_and_not_more_often() -> None:
    now_s = 0.0
    said: list[str] = []
    progress = Progress(said.append, lambda: now_s)
    progress.phase("Building engine", 6)
    for step, at_s in enumerate((0.5, 1.9, 2.0, 3.9, 4.5)):
        now_s = at_s
        progress.step("Building engine", step)
    now_s = 60.0
    progress.step("Timing", 0)
    assert said == [
        "  2 s: building engine 3 of 6",
        "  4 s: building engine 5 of 6",
        "  60 s: timing",
    ]
