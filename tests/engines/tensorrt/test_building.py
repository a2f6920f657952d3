"""What a build asks for, before any library is needed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

onnx = pytest.importorskip("onnx")

from engines.bundle import Bundle, read_bundle
from engines.errors import EngineError, InvalidInput
from engines.tensorrt.building import BuildPlan, build_rtx, default_output
from engines.tensorrt.libraries import library
from engines.tensorrt.network import Progress
from tests.engines.int8 import bundle_of, net_of, random_weights


@pytest.fixture(scope="module")
def small() -> Bundle:
    net = net_of("spatial", "layer")
    return bundle_of(net, random_weights(net), None)


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
