"""Verifying a plan: right ones agree, wrong ones do not, calls are timed. The GPU is scripted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import count
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from engines.bench.pictures import MadeUpPictures
from engines.bundle import Bundle
from engines.core import Glance, OperatingPoint, Output, UInt8Array, static_point
from engines.errors import EngineError
from engines.export.onnx.run import onnx_model
from engines.glance import Infer
from engines.manifest import PointRecord
from engines.tensorrt.dense import dense_bundle
from engines.tensorrt.engine import TensorRtEngine
from engines.tensorrt.oracle import OnnxRuntime
from engines.tensorrt.plans import Bucket
from engines.tensorrt.verifying import measured, trials, verify
from engines.tensorrt.ways import LabelsWay, Way
from tests.engines.int8 import bundle_of, net_of, random_weights
from tests.engines.tensorrt.manifests import plan_manifest
from tests.engines.tensorrt.scripted import ScriptedGpu, ScriptedNetwork

BUCKETS = tuple(
    Bucket(image_size=size, images=images, profile=i)
    for i, (size, images) in enumerate(((24, 1), (24, 2), (32, 1), (32, 2)))
)
at = cache(MadeUpPictures(0, 5).at)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """Three points: full, one that skips, and one that glances."""
    net = net_of("spatial", "channel")
    source = bundle_of(net, random_weights(net), None)
    maskers = len(net.maskers)
    skip = OperatingPoint(
        name="skip", image_size=24, thresholds=(0.1,) * maskers, caps=(None,) * maskers
    )
    glance = static_point("glance", 32, maskers).model_copy(
        update={"glance": Glance(image_size=24, confidence=0.5)}
    )
    full = source.manifest.full
    records: list[PointRecord] = [
        full,
        *(full.model_copy(update={"point": point, "again": again})
          for point, again in ((skip, None), (glance, 0.5))),
    ]  # fmt: skip
    manifest = source.manifest.model_copy(update={"points": tuple(records)})
    return Bundle(source.path, manifest, source.hash, source.weights)


def scripted(bundle: Bundle) -> TensorRtEngine:
    gpu = ScriptedGpu()
    onnx = onnx_model(bundle, "fp32").SerializeToString()
    shapes = [[(bucket.images, bucket.image_size)] for bucket in BUCKETS]
    manifest = plan_manifest(bundle=bundle.hash, buckets=BUCKETS, precision="fp32")
    return TensorRtEngine(bundle, manifest, gpu, ScriptedNetwork(gpu, onnx, shapes))


@pytest.fixture(scope="module")
def engine(bundle: Bundle) -> Iterator[TensorRtEngine]:
    with scripted(bundle) as found:
        yield found


@pytest.fixture(scope="module")
def oracle(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> OnnxRuntime:
    path = tmp_path_factory.mktemp("oracle") / "small.onnx"
    path.write_bytes(onnx_model(bundle, "fp32").SerializeToString())
    return OnnxRuntime(path, bundle.manifest.architecture, threads=1)


class Wrong:
    """An engine that answers a little beside."""

    def __init__(
        self, engine: TensorRtEngine, error: float = 0.0, flipped: int = 0, begin: int = 0
    ) -> None:
        """begin: the first image of a call that is wrong."""
        self._engine, self._error, self._flipped = engine, error, flipped
        self._wrong = slice(begin, None)

    def infer(self, images: UInt8Array, points: Sequence[OperatingPoint]) -> Output:
        output = self._engine.infer(images, points)
        probabilities = np.asarray(output.arrays["probabilities"], np.float32)
        probabilities[self._wrong, 0] += self._error
        decisions = np.asarray(output.arrays["decisions"], np.bool_)
        decisions[self._wrong, : self._flipped] ^= True
        arrays = {"probabilities": probabilities, "decisions": decisions}
        return replace(output, arrays=arrays)


@pytest.fixture(scope="module")
def ways(engine: TensorRtEngine, oracle: OnnxRuntime) -> tuple[Way, ...]:
    return (LabelsWay("blocks", engine.infer, BUCKETS, oracle),)


def beside(
    engine: TensorRtEngine,
    oracle: OnnxRuntime,
    buckets: Sequence[Bucket],
    error: float = 0.0,
    **which: int,
) -> tuple[Way, ...]:
    """A way that answers a little beside."""
    return (LabelsWay("blocks", Wrong(engine, error, **which).infer, buckets, oracle),)


def test_everything_is_tried_in_every_bucket(bundle: Bundle) -> None:
    found = list(trials(bundle, BUCKETS, seed=0))
    by_size = {
        size: [each.name for each in found if each.bucket == bucket]
        for size, bucket in ((24, BUCKETS[1]), (32, BUCKETS[2]))
    }
    rest = ["nothing active", "all active", *(f"random masks {i}" for i in range(1, 5))]
    assert by_size[24] == ["skip", "first look at 24 px", *rest]
    assert by_size[32] == ["full", "glance", *rest]
    assert all(len(each.points) == each.bucket.images for each in found)
    random = [each for each in found if each.name == "random masks 1" and len(each.points) > 1]
    assert all(each.points[0].caps != each.points[1].caps for each in random)
    assert all(point.glance is None for each in found for point in each.points)


def test_a_plan_that_answers_as_its_file_agrees(bundle: Bundle, ways: tuple[Way, ...]) -> None:
    said: list[str] = []
    found = verify(bundle, ways, at, said.append, precision="fp32")
    assert found.agrees
    assert (found.max_error, found.differing) == (0.0, 0.0)
    assert len(found.agreements) == 4 * 6 + 2 * 2 + 2 * 2


@pytest.mark.parametrize("error", [1e-3, np.nan])
def test_a_probability_that_is_wrong_is_found(
    bundle: Bundle, engine: TensorRtEngine, oracle: OnnxRuntime, error: float
) -> None:
    wrong = beside(engine, oracle, BUCKETS[:1], error)
    found = verify(bundle, wrong, at, print, precision="fp32")
    assert not found.agrees
    assert found.max_error == pytest.approx(error, rel=1e-3) or np.isinf(found.max_error)


def test_half_precision_may_err_more(
    bundle: Bundle, engine: TensorRtEngine, oracle: OnnxRuntime
) -> None:
    wrong = beside(engine, oracle, BUCKETS[:1], 1e-3)
    assert verify(bundle, wrong, at, print, precision="fp16").agrees


def test_decisions_that_are_wrong_are_found_though_no_image_can_be_compared(
    bundle: Bundle, engine: TensorRtEngine, oracle: OnnxRuntime
) -> None:
    wrong = beside(engine, oracle, BUCKETS[:1], flipped=3)
    found = verify(bundle, wrong, at, print, precision="fp16")
    assert not found.agrees
    assert all(each.max_error is None for each in found.agreements)
    assert found.differing > 0.02


def test_decisions_of_one_trial_are_not_few_for_those_of_the_other_buckets(
    bundle: Bundle, engine: TensorRtEngine, oracle: OnnxRuntime
) -> None:
    """The mean of all would be within the limit."""
    calls = count()
    wrong = Wrong(engine, flipped=len(bundle.manifest.full.point.thresholds))

    def infer(images: UInt8Array, points: Sequence[OperatingPoint]) -> Output:
        return (wrong if next(calls) == 2 else engine).infer(images, points)

    way = LabelsWay("blocks", infer, BUCKETS, oracle)
    found = verify(bundle, [way], at, print, precision="fp16")
    shares = [each.differing for each in found.agreements]
    assert 0.0 < np.mean(shares) <= 0.02
    assert found.differing == np.mean(shares[:8]) > 0.02
    assert (found.wrong, found.agrees) == (("blocks",), False)


@pytest.mark.parametrize(("error", "agrees"), [(0.3, True), (0.6, False), (np.nan, False)])
def test_an_image_with_another_decision_may_answer_otherwise_but_not_anything(
    bundle: Bundle, engine: TensorRtEngine, oracle: OnnxRuntime, error: float, agrees: bool
) -> None:
    four = Bucket(image_size=32, images=4, profile=0)
    wrong = beside(engine, oracle, [four], error, flipped=1, begin=3)
    found = verify(bundle, wrong, at, print, precision="fp16")
    assert found.agrees == agrees
    assert found.max_error == 0.0
    assert 0.0 < found.differing <= 0.02
    assert found.worst_error == pytest.approx(error, rel=1e-3) or np.isinf(found.worst_error)


def test_calls_are_timed_beside_a_dense_plan_that_answers_the_same(
    bundle: Bundle, engine: TensorRtEngine, ways: tuple[Way, ...]
) -> None:
    ticks = count()
    plain = dense_bundle(bundle)
    assert plain.hash == bundle.hash
    assert [r.point.image_size for r in plain.manifest.points] == [32, 24]
    full = bundle.manifest.full.point
    with scripted(plain) as dense:
        points = ([static_point("dense", 32, 0)] * 2, [full] * 2)
        one, other = (
            np.asarray(each.infer(at(32)[:2], asked).arrays["probabilities"], np.float32)
            for each, asked in zip((dense, engine), points, strict=True)
        )
        np.testing.assert_allclose(one, other, atol=1e-6)
        found = measured(
            bundle, ways, at, print,
            calls=3, dense=dense.infer, clock=lambda: float(next(ticks)),
        )  # fmt: skip
    assert [(each.point, each.image_size, each.images) for each in found] == [
        ("skip", 24, 1), ("skip", 24, 2),
        ("full", 32, 1), ("glance", 32, 1), ("full", 32, 2), ("glance", 32, 2),
    ]  # fmt: skip
    assert all(each.calls == 3 for each in found)
    assert all(set(each.seconds) == {1.0} and each.dense_s == 1.0 for each in found)
    assert {each.point for each in found if each.again} == {"glance"}


def test_a_point_whose_glance_has_no_bucket_is_not_timed(
    bundle: Bundle, ways: tuple[Way, ...]
) -> None:
    found = measured(bundle, [replace(ways[0], buckets=BUCKETS[2:])], at, print, calls=1)
    assert {each.point for each in found} == {"full"}
    assert all(each.dense_s is None for each in found)


def test_both_forms_of_calls_of_one_image_are_compared_and_timed(
    bundle: Bundle, engine: TensorRtEngine, oracle: OnnxRuntime, ways: tuple[Way, ...]
) -> None:
    """Each with its own file's meaning; the forms of one bucket turn by turn."""
    alone = [bucket for bucket in BUCKETS if bucket.images == 1]
    wrong = LabelsWay("branches", Wrong(engine, 1e-3).infer, alone, oracle)
    found = verify(bundle, [*ways, wrong], at, print, precision="fp32")
    assert (found.wrong, found.agrees) == (("branches",), False)
    by_form = {
        form: [each for each in found.agreements if each.form == form]
        for form in ("blocks", "branches")
    }
    assert {each.images for each in by_form["branches"]} == {1}
    assert {each.max_error for each in by_form["blocks"]} == {0.0}
    assert all(each.max_error == pytest.approx(1e-3, rel=1e-3) for each in by_form["branches"])
    turns: list[str] = []

    def told(form: str) -> Infer:
        def infer(images: UInt8Array, points: Sequence[OperatingPoint]) -> Output:
            turns.append(form)
            return engine.infer(images, points)

        return infer

    both = [replace(ways[0], infer=told("blocks")), replace(wrong, infer=told("branches"))]
    timed = measured(bundle, both, at, print, calls=1)
    forms = {(each.point, each.images, each.form, each.again is not None) for each in timed}
    assert forms == {
        *(("skip", 1, "blocks", False), ("skip", 1, "branches", False)),
        *(("full", 1, "blocks", False), ("full", 1, "branches", False)),
        *(("glance", 1, "blocks", True), ("glance", 1, "branches", True)),
        *(("skip", 2, "blocks", False), ("full", 2, "blocks", False)),
        ("glance", 2, "blocks", True),
    }
    assert turns[:4] == ["blocks", "branches"] * 2, "neither has a warmer GPU"


def test_every_trial_and_turn_has_other_pictures_and_all_forms_of_it_the_same(
    bundle: Bundle, engine: TensorRtEngine, oracle: OnnxRuntime
) -> None:
    """Five there are: a call of two that ends with the last begins again with the first."""
    seen: list[tuple[int, ...]] = []

    def infer(images: UInt8Array, points: Sequence[OperatingPoint]) -> Output:
        there = at(images.shape[1])
        seen.append(tuple(int((there == each).all(axis=(1, 2, 3)).argmax()) for each in images))
        return engine.infer(images, points)

    ways = [LabelsWay("blocks", infer, BUCKETS, oracle) for _ in range(2)]
    verify(bundle, ways, at, print, precision="fp32")
    turns = [(i,) for i in (0, 1, 2, 3, 4, 0)]
    assert seen[:6] == turns
    # Eight trials a bucket.
    assert seen[8:11] == [(1, 2), (3, 4), (0, 1)]
    assert seen == seen[: len(seen) // 2] * 2, "both forms see the same"
    seen.clear()
    measured(bundle, [replace(way, buckets=BUCKETS[:1]) for way in ways], at, print, calls=1)
    assert seen == [turn for turn in turns for _ in ways]


def test_a_file_that_onnx_runtime_does_not_take(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"no protobuf")
    with pytest.raises(EngineError, match=r"ONNX Runtime does not take '.*net\.onnx'"):
        OnnxRuntime(tmp_path / "net.onnx", bundle.manifest.architecture)
