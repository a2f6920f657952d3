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
from engines.tensorrt.forms import Forms
from engines.tensorrt.plans import Branches, Bucket
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


class Formed:
    """An engine with both forms of calls of one image, over a network that skips layers."""

    def __init__(self, forms: Forms) -> None:
        net = net_of("layer", "layer")
        self.bundle = bundle_of(net, random_weights(net), None)
        blocks, branches = (
            onnx_model(self.bundle, "fp32", one_image=alone).SerializeToString()
            for alone in (False, True)
        )
        self.gpu = ScriptedGpu()
        self.network = ScriptedNetwork(self.gpu, blocks, [[(2, 33)], [(1, 33)]])
        self.branches = ScriptedNetwork(self.gpu, branches, [[(1, 33)]], capturable=False)
        buckets = tuple(
            Bucket(image_size=33, images=images, profile=i) for i, images in enumerate((2, 1))
        )
        alone = Branches(
            onnx="0" * 64, program="1" * 64, buckets=(buckets[1].model_copy(update={"profile": 0}),)
        )
        manifest = plan_manifest(
            bundle=self.bundle.hash, buckets=buckets, precision="fp32", branches=alone
        )
        self.engine = TensorRtEngine(
            self.bundle, manifest, self.gpu, self.network, self.branches, forms
        )

    def point(self, name: str, caps: Sequence[int | None]) -> OperatingPoint:
        return OperatingPoint(
            name=name, image_size=33, thresholds=(None,) * len(caps), caps=tuple(caps)
        )

    def ran(self) -> tuple[int, int]:
        """Calls of block kernels and of branches since the last time."""
        found = len(self.network.seen), len(self.branches.seen)
        self.network.seen.clear()
        self.branches.seen.clear()
        return found


def test_an_image_alone_takes_the_form_of_its_point_and_answers_the_same() -> None:
    formed = Formed(Forms({"slow": "blocks"}, otherwise="branches"))
    skips, slow = (formed.point(name, (0, 1, None, 0)) for name in ("skips", "slow"))
    images = noise(3, 33)
    with CpuEngine(formed.bundle, threads=1, precision="fp32") as native, formed.engine as engine:
        for points, ran in (
            ([skips], (0, 1)),
            ([slow], (1, 0)),
            ([skips, slow], (1, 0)),
            ([slow, slow, skips], (1, 1)),
            ([skips, skips, slow], (2, 0)),
        ):
            given = images[: len(points)]
            for _ in range(2):
                assert_same(engine.infer(given, points), native.infer(given, points))
                assert formed.ran() == ran
    assert formed.gpu.holds_nothing
    assert (formed.network.closed, formed.branches.closed) == (True, True)


def test_branches_are_never_captured_and_block_kernels_are() -> None:
    """A capture that fails may leave a stream that nothing runs on."""
    formed = Formed(Forms(otherwise="branches"))
    one = formed.point("one", (0, 1, 1, 0))
    with formed.engine as engine:
        for _ in range(3):
            engine.infer(noise(1, 33), [one])
        assert (engine.captured(), formed.gpu.captures_begun) == ((), 0)
        for _ in range(3):
            engine.infer(noise(2, 33), [one] * 2)
        assert [bucket.images for bucket in engine.captured()] == [2]


def test_whoever_compares_takes_either_form_whatever_is_chosen() -> None:
    formed = Formed(Forms())
    one = formed.point("one", (1, 0, 0, 1))
    images = noise(1, 33)
    with formed.engine as engine:
        answers = [engine.infer(images, [one])]
        assert formed.ran() == (1, 0)
        for form, ran in (("branches", (0, 1)), ("blocks", (1, 0))):
            answers.append(engine.in_form(form)(images, [one]))  # type: ignore[arg-type]
            assert formed.ran() == ran
    for other in answers[1:]:
        assert_same(other, answers[0])


def test_a_glance_keeps_the_form_at_both_looks() -> None:
    formed = Formed(Forms(otherwise="branches"))
    own = formed.point("glances", (None,) * 4).model_copy(update={"image_size": 33})
    small = Bucket(image_size=17, images=1, profile=0)
    manifest = plan_manifest(
        bundle=formed.bundle.hash,
        precision="fp32",
        buckets=(small, Bucket(image_size=33, images=1, profile=0)),
        branches=Branches(
            onnx="0" * 64,
            program="1" * 64,
            buckets=(small, Bucket(image_size=33, images=1, profile=0)),
        ),
    )
    for network in (formed.network, formed.branches):
        network.buckets = [[(1, 17), (1, 33)]]
    engine = TensorRtEngine(
        formed.bundle, manifest, formed.gpu, formed.network, formed.branches,
        Forms({"glances": "branches"}),
    )  # fmt: skip
    twice = own.model_copy(update={"glance": Glance(image_size=17, confidence=1.0)})
    with CpuEngine(formed.bundle, threads=1, precision="fp32") as native, engine:
        assert_same(engine.infer(noise(1, 33), [twice]), native.infer(noise(1, 33), [twice]))
    assert formed.ran() == (0, 2)


def test_branches_that_were_not_loaded_are_told(demo: Bundle, scripted: Scripted) -> None:
    with scripted.engine as engine, pytest.raises(EngineError, match="has no branches"):
        engine.in_form("branches")


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
    with pytest.raises(BundleError, match="TensorRtEngine takes bundles that label images"):
        Scripted(read_bundle("zoo:nuclei"), onnx)
