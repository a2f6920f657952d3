"""The engine on a GPU that is scripted: what it answers, and that it keeps CUDA's rules."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from engines.bundle import Bundle, read_bundle
from engines.core import Glance, OperatingPoint, Output, UInt8Array, static_point
from engines.cpu.engine import CpuEngine
from engines.errors import BundleError, EngineError, InvalidInput, PlanError
from engines.export.onnx.run import onnx_model
from engines.tensorrt.engine import TensorRtEngine
from engines.tensorrt.plans import Bucket
from tests.engines.demo import SKIP, skipping_demo
from tests.engines.int8 import bundle_of, net_of, noise, random_weights
from tests.engines.tensorrt.manifests import plan_manifest
from tests.engines.tensorrt.scripted import ScriptedGpu, ScriptedNetwork

SIZES, BATCHES = (64, 80), (1, 4)
NEAR = 1e-4


class Scripted:
    """An engine with what it stands on."""

    def __init__(
        self,
        bundle: Bundle,
        onnx: bytes,
        *,
        sizes: Sequence[int] = SIZES,
        batches: Sequence[int] = BATCHES,
        captures: bool = True,
        capturable: bool = True,
    ) -> None:
        shapes = [(images, size) for size in sizes for images in batches]
        buckets = tuple(
            Bucket(image_size=size, images=images, profile=i)
            for i, (images, size) in enumerate(shapes)
        )
        self.gpu = ScriptedGpu(captures=captures)
        self.network = ScriptedNetwork(
            self.gpu, onnx, [[shape] for shape in shapes], capturable=capturable
        )
        manifest = plan_manifest(bundle=bundle.hash, buckets=buckets, precision="fp32")
        self.engine = TensorRtEngine(bundle, manifest, self.gpu, self.network)


@pytest.fixture(scope="module")
def demo() -> Bundle:
    return skipping_demo()


@pytest.fixture(scope="module")
def onnx(demo: Bundle) -> bytes:
    return bytes(onnx_model(demo, "fp32").SerializeToString())


@pytest.fixture
def scripted(demo: Bundle, onnx: bytes) -> Scripted:
    return Scripted(demo, onnx)


def point(bundle: Bundle, name: str) -> OperatingPoint:
    return bundle.manifest.point(name).point


def assert_same(found: Output, wanted: Output) -> None:
    assert found.arrays.keys() == wanted.arrays.keys() - {"scores"}
    for name, array in found.arrays.items():
        assert array.dtype == wanted.arrays[name].dtype
        if name == "probabilities":
            other = np.asarray(wanted.arrays[name], np.float32)
            np.testing.assert_allclose(np.asarray(array, np.float32), other, atol=NEAR)
        else:
            np.testing.assert_array_equal(array, wanted.arrays[name], name)
    np.testing.assert_array_equal(found.activation, wanted.activation)
    assert found.activation.dtype == np.float32
    np.testing.assert_allclose(found.macs, wanted.macs, rtol=1e-12)
    np.testing.assert_array_equal(found.pixels, wanted.pixels)
    assert found.durations_s.keys() == wanted.durations_s.keys()


@pytest.mark.parametrize("count", [1, 2, 4, 6])
def test_it_answers_what_the_native_engine_answers(
    demo: Bundle, scripted: Scripted, count: int
) -> None:
    """Mixed points; batches that fill a bucket, that do not, and that are more than one."""
    own, whole = point(demo, SKIP), point(demo, "size-64")
    half = replace_caps(own, 3)
    points = [(own, whole, half)[i % 3] for i in range(count)]
    images = noise(count, 64, seed=count)
    with CpuEngine(demo, threads=1, precision="fp32") as native, scripted.engine as engine:
        for _ in range(3):
            assert_same(engine.infer(images, points), native.infer(images, points))
    assert scripted.gpu.holds_nothing


def replace_caps(of: OperatingPoint, cap: int) -> OperatingPoint:
    return of.model_copy(update={"name": "capped", "caps": (cap,) * len(of.caps)})


@pytest.mark.parametrize("confidence", [0.0, 0.2, 1.0])
def test_a_point_that_glances_is_two_runs(
    demo: Bundle, scripted: Scripted, confidence: float
) -> None:
    own = static_point("glances", 80, len(demo.manifest.architecture.maskers))
    glancing = own.model_copy(update={"glance": Glance(image_size=64, confidence=confidence)})
    images, points = noise(3, 80), [glancing, own, glancing]
    with CpuEngine(demo, threads=1, precision="fp32") as native, scripted.engine as engine:
        assert_same(engine.infer(images, points), native.infer(images, points))


def test_a_bucket_becomes_one_graph_and_takes_no_more_memory(
    demo: Bundle, scripted: Scripted
) -> None:
    images, points = noise(1, 64), [point(demo, SKIP)]
    gpu, engine = scripted.gpu, scripted.engine
    first = engine.infer(images, points)
    assert (engine.captured(), gpu.launches, gpu.allocations) == ((), 0, 1)
    second, third = (engine.infer(images, points) for _ in range(2))
    assert [bucket.images for bucket in engine.captured()] == [1]
    assert (gpu.launches, gpu.allocations) == (2, 1)
    other = engine.infer(noise(1, 64, seed=9), points)
    for again in (second, third):
        np.testing.assert_array_equal(again.arrays["probabilities"], first.arrays["probabilities"])
    assert not np.array_equal(other.arrays["probabilities"], first.arrays["probabilities"])


@pytest.mark.parametrize("way", [{"captures": False}, {"capturable": False}], ids=str)
def test_what_cannot_be_captured_runs_call_by_call(
    demo: Bundle, onnx: bytes, way: dict[str, bool]
) -> None:
    scripted = Scripted(demo, onnx, **way)  # type: ignore[arg-type]
    images, points = noise(1, 64), [point(demo, SKIP)]
    with scripted.engine as engine:
        answers = [engine.infer(images, points).arrays["probabilities"] for _ in range(3)]
        assert engine.captured() == ()
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[0], answers[2])
    assert (scripted.gpu.launches, scripted.gpu.holds_nothing) == (0, True)


def test_places_without_an_image_compute_nothing(demo: Bundle, scripted: Scripted) -> None:
    own = point(demo, "size-64")
    scripted.engine.infer(noise(4, 64), [own] * 4)
    scripted.engine.infer(noise(3, 64), [own] * 3)
    _, seen = scripted.network.seen
    assert [each.shape[0] for each in seen.values()] == [4, 4, 4]
    assert not seen["image"][3:].any()
    assert not seen["caps"][3:].any()
    assert seen["caps"][:3].all()


def test_an_output_is_the_callers_to_keep(demo: Bundle, scripted: Scripted) -> None:
    points = [point(demo, "size-64")]
    first = scripted.engine.infer(noise(1, 64), points).arrays["probabilities"]
    kept = first.copy()
    scripted.engine.infer(noise(1, 64, seed=5), points)
    scripted.engine.close()
    np.testing.assert_array_equal(first, kept)


def test_threads_take_turns(demo: Bundle, scripted: Scripted) -> None:
    points = [point(demo, "size-64")]
    pictures = [noise(1, 64, seed=seed) for seed in range(3)]
    wanted = [scripted.engine.infer(each, points).arrays["probabilities"] for each in pictures]
    wrong: list[int] = []

    def ask(i: int) -> None:
        for _ in range(4):
            got = scripted.engine.infer(pictures[i], points).arrays["probabilities"]
            if not np.array_equal(got, wanted[i]):
                wrong.append(i)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not wrong


def test_closed_it_holds_nothing_and_answers_nothing(demo: Bundle, scripted: Scripted) -> None:
    points = [point(demo, "size-64")]
    for _ in range(2):
        scripted.engine.infer(noise(1, 64), points)
    scripted.engine.close()
    scripted.engine.close()
    assert scripted.gpu.holds_nothing
    assert scripted.gpu.closed
    assert scripted.network.closed
    with pytest.raises(EngineError, match="has been closed"):
        scripted.engine.infer(noise(1, 64), points)


def test_a_fault_of_the_device_is_told_and_what_is_held_can_be_given_back(
    demo: Bundle, scripted: Scripted
) -> None:
    points = [point(demo, "size-64")]
    scripted.engine.infer(noise(1, 64), points)
    scripted.gpu.broken = "an illegal memory access was encountered"
    with pytest.raises(EngineError, match="illegal memory access"):
        scripted.engine.infer(noise(1, 64), points)
    scripted.engine.close()
    assert scripted.gpu.holds_nothing


def test_a_bucket_that_does_not_open_leaves_nothing(demo: Bundle, onnx: bytes) -> None:
    scripted = Scripted(demo, onnx)
    scripted.network.buckets = [[]] * 4
    with pytest.raises(EngineError, match="refuses image of shape"):
        scripted.engine.infer(noise(1, 64), [point(demo, "size-64")])
    assert scripted.gpu.holds_nothing
    assert scripted.network.contexts[0].closed


@pytest.mark.parametrize(
    ("images", "name", "says"),
    [
        (noise(1, 96), "size-96", "takes images of 64, 80 px, not of 96: build it again with"),
        (noise(1, 64).astype(np.float32), "size-64", "must be a uint8 array"),
        (noise(2, 64), "size-64", "2 images need as many points, got 1"),
    ],
)
def test_what_it_cannot_run(
    demo: Bundle, scripted: Scripted, images: UInt8Array, name: str, says: str
) -> None:
    with pytest.raises(InvalidInput, match=says):
        scripted.engine.infer(images, [point(demo, name)])


@pytest.mark.parametrize("paradigm", ["static", "layer", "joint"])
def test_networks_of_other_paradigms(paradigm: str) -> None:
    net = net_of(paradigm)
    bundle = bundle_of(net, random_weights(net), None)
    onnx = onnx_model(bundle, "fp32").SerializeToString()
    scripted = Scripted(bundle, onnx, sizes=[33], batches=[2])
    maskers = len(net.maskers)
    skips = OperatingPoint(
        name="skips", image_size=33, thresholds=(0.0,) * maskers, caps=(None,) * maskers
    )
    images, points = noise(2, 33), [skips, static_point("all", 33, maskers)]
    with CpuEngine(bundle, threads=1, precision="fp32") as native, scripted.engine as engine:
        assert_same(engine.infer(images, points), native.infer(images, points))


def test_layers_that_are_branches_run_image_by_image_and_without_a_graph() -> None:
    net = net_of("layer", "layer")
    bundle = bundle_of(net, random_weights(net), None)
    onnx = onnx_model(bundle, "fp32", one_image=True).SerializeToString()
    scripted = Scripted(bundle, onnx, sizes=[33], batches=[1], capturable=False)
    maskers = len(net.maskers)
    skips = [
        OperatingPoint(name="skips", image_size=33, thresholds=(None,) * maskers, caps=caps)
        for caps in ((0, 1, 1, 0), (1, 0, None, 1), (0,) * 4)
    ]
    images = noise(3, 33)
    with CpuEngine(bundle, threads=1, precision="fp32") as native, scripted.engine as engine:
        for _ in range(2):
            assert_same(engine.infer(images, skips), native.infer(images, skips))
    assert len(scripted.network.seen) == 6


def test_a_plan_of_another_bundle(demo: Bundle, onnx: bytes) -> None:
    other, gpu = replace(demo, hash="1" * 64), ScriptedGpu()
    network = ScriptedNetwork(gpu, onnx, [])
    with pytest.raises(PlanError, match=r"is of bundle small \(000000000000\), not of clothing"):
        TensorRtEngine(other, plan_manifest(bundle="0" * 64), gpu, network)


def test_a_plan_with_other_inputs(demo: Bundle) -> None:
    net = net_of("static")
    bundle = bundle_of(net, random_weights(net), None)
    with pytest.raises(PlanError, match="inputs are image instead of caps, image, thresholds"):
        Scripted(demo, onnx_model(bundle, "fp32").SerializeToString())


def test_what_finds_objects_has_no_such_engine(onnx: bytes) -> None:
    with pytest.raises(BundleError, match="the tensorrt engine takes bundles that label images"):
        Scripted(read_bundle("zoo:nuclei"), onnx)
