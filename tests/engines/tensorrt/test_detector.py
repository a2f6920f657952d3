"""The engine for detectors on a scripted GPU: it answers as the native one, by the same rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from engines.architecture import ResNet
from engines.bundle import Bundle, read_bundle
from engines.core import Glance, OperatingPoint, Output, Paradigm, UInt8Array
from engines.cpu.detector import CpuDetector
from engines.detection.agreement import agreement
from engines.detection.architecture import Detector
from engines.detection.letterbox import detections_of
from engines.errors import BundleError, EngineError, InvalidInput, PlanError
from engines.export.onnx.run import onnx_masks, onnx_model
from engines.tensorrt.dense import dense_bundle
from engines.tensorrt.detector import TensorRtDetector
from engines.tensorrt.forms import Forms
from engines.tensorrt.plans import Branches, Bucket, MaskHead, Precision
from tests.engines.cpu import detectors
from tests.engines.cpu.same_objects import assert_same_objects
from tests.engines.int8 import noise
from tests.engines.tensorrt.manifests import plan_manifest
from tests.engines.tensorrt.scripted import ScriptedGpu, ScriptedNetwork

SIZE = 64
OBJECTS = 5


class Scripted:
    """An engine with what it stands on; few objects a call, so that masks take several."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        sizes: Sequence[int] = (SIZE,),
        batches: Sequence[int] = (1, 3),
        alone: bool = False,
        precision: Precision = "fp32",
    ) -> None:
        shapes = [(images, size) for size in sizes for images in batches]
        buckets = tuple(
            Bucket(image_size=size, images=images, profile=i)
            for i, (images, size) in enumerate(shapes)
        )
        self.gpu = ScriptedGpu()
        self.network = self._network(onnx_model(bundle, precision, select=False), shapes)
        model = onnx_masks(bundle, precision)
        self.masks = None if model is None else self._network(model, shapes)
        self.branches = None
        fields: dict[str, Any] = {}
        if model is not None:
            fields["masks"] = MaskHead(onnx="0" * 64, program="1" * 64, objects=OBJECTS)
        if alone:
            ones = [shape for shape in shapes if shape[0] == 1]
            self.branches = self._network(
                onnx_model(bundle, precision, select=False, one_image=True), ones
            )
            fields["branches"] = Branches(
                onnx="2" * 64,
                program="3" * 64,
                buckets=tuple(
                    Bucket(image_size=size, images=1, profile=i) for i, (_, size) in enumerate(ones)
                ),
            )
        manifest = plan_manifest(bundle=bundle.hash, buckets=buckets, precision=precision, **fields)
        self.engine = TensorRtDetector(
            bundle, manifest, self.gpu, self.network, self.branches,
            Forms(otherwise="branches") if alone else None, self.masks,
        )  # fmt: skip

    def _network(self, model: Any, shapes: Sequence[tuple[int, int]]) -> ScriptedNetwork:
        return ScriptedNetwork(self.gpu, model.SerializeToString(), [[each] for each in shapes])


def points_of(bundle: Bundle, size: int = SIZE) -> list[OperatingPoint]:
    """Everything; nothing but a unit of each masker; what thresholds leave."""
    full = bundle.manifest.full.point.model_copy(update={"image_size": size})
    maskers = len(full.thresholds)
    if not maskers:
        return [full]
    return [
        full,
        full.model_copy(update={"name": "few", "caps": (1,) * maskers}),
        full.model_copy(update={"name": "some", "thresholds": (0.05,) * maskers}),
    ]


def assert_same(found: Output, wanted: Output) -> None:
    assert_same_objects(found, wanted)
    for name, array in found.arrays.items():
        assert array.dtype == wanted.arrays[name].dtype
        assert array.shape == wanted.arrays[name].shape
    for name in ("counts", "decisions"):
        np.testing.assert_array_equal(found.arrays[name], wanted.arrays[name], name)
    np.testing.assert_allclose(found.activation, wanted.activation, atol=1e-6)
    np.testing.assert_allclose(found.macs, wanted.macs, rtol=1e-9)
    assert found.pixels is not None
    assert wanted.pixels is not None
    np.testing.assert_array_equal(found.pixels, wanted.pixels)


CASES: dict[str, tuple[ResNet, Detector]] = {
    "boxes alone": (detectors.SMALL, detectors.PLAIN),
    "masks": (detectors.WIDE, detectors.MASKED),
    "a backbone that skips": (detectors.SKIPPING, detectors.MASKED),
    "levels that skip": (detectors.SKIPPING, detectors.RAGGED),
    "levels alone, which look elsewhere": (detectors.WIDE, detectors.ABROAD),
}


@pytest.mark.parametrize("case", CASES)
def test_it_answers_what_the_native_engine_answers(case: str) -> None:
    """Mixed points; a batch that fills a bucket, one that does not, one of several."""
    bundle = detectors.bundle(*CASES[case])
    scripted, points = Scripted(bundle), points_of(bundle)
    found = 0
    with CpuDetector(bundle, threads=1, precision="fp32") as native, scripted.engine as engine:
        for count in (1, 2, 3, 4):
            asked = [points[i % len(points)] for i in range(count)]
            images = noise(count, SIZE, seed=count)
            wanted = native.infer(images, asked)
            assert_same(engine.infer(images, asked), wanted)
            found += int(np.asarray(wanted.arrays["counts"]).sum())
    assert found > OBJECTS, "masks took more than one call"
    assert scripted.gpu.holds_nothing
    assert scripted.network.closed
    assert scripted.masks is None or scripted.masks.closed


def test_the_nuclei_are_found_as_the_native_engine_finds_them() -> None:
    bundle = read_bundle("zoo:nuclei")
    full = bundle.manifest.full.point
    images = noise(1, full.image_size)
    scripted = Scripted(bundle, sizes=[full.image_size], batches=[1])
    with CpuDetector(bundle, threads=1, precision="fp32") as native, scripted.engine as engine:
        assert_same(engine.infer(images, [full]), native.infer(images, [full]))


def test_in_half_precision_the_pyramid_passes_from_one_program_to_the_other_as_it_is() -> None:
    bundle = detectors.bundle(detectors.SKIPPING, detectors.RAGGED)
    images, points = noise(2, SIZE), [bundle.manifest.full.point] * 2
    scripted = Scripted(bundle, precision="fp16")
    with scripted.engine as engine, Scripted(bundle).engine as single:
        assert engine.precision == "fp16"
        half, whole = engine.infer(images, points), single.infer(images, points)
    assert scripted.masks is not None
    assert scripted.masks.seen[0]["features_0"].dtype == np.float16
    assert half.arrays["masks"].dtype == np.float32
    counts = [np.asarray(each.arrays["counts"], np.int64).sum() for each in (half, whole)]
    assert abs(counts[0] - counts[1]) <= 0.1 * counts[1]
    found, wanted = (
        [detections_of(each, i, SIZE, SIZE, SIZE) for i in range(2)] for each in (half, whole)
    )
    assert agreement(found, wanted) > 0.8


def test_two_programs_are_graphs_and_share_nothing() -> None:
    bundle = detectors.bundle()
    scripted = Scripted(bundle)
    images, points = noise(1, SIZE), points_of(bundle)[:1]
    with scripted.engine as engine:
        first = engine.infer(images, points)
        taken = scripted.gpu.allocations
        again = [engine.infer(images, points) for _ in range(3)]
        assert scripted.gpu.allocations == taken == 2
        assert scripted.gpu.launches > 3, "masks are graphs too"
    for other in again:
        for name, array in first.arrays.items():
            np.testing.assert_array_equal(other.arrays[name], array)


def test_what_it_found_is_the_callers_to_keep() -> None:
    bundle = detectors.bundle()
    scripted, points = Scripted(bundle), points_of(bundle)[:1]
    first = scripted.engine.infer(noise(1, SIZE), points)
    kept = {name: array.copy() for name, array in first.arrays.items()}
    scripted.engine.infer(noise(1, SIZE, seed=7), points)
    scripted.engine.close()
    for name, array in kept.items():
        np.testing.assert_array_equal(first.arrays[name], array)


def test_a_picture_without_objects_makes_no_mask() -> None:
    bundle = detectors.bundle(
        detectors.WIDE, detectors.MASKED.model_copy(update={"least_score": 0.999})
    )
    scripted = Scripted(bundle)
    with scripted.engine as engine:
        found = engine.infer(noise(2, SIZE), [bundle.manifest.full.point] * 2)
    assert scripted.masks is not None
    assert (scripted.masks.seen, found.arrays["counts"].tolist()) == ([], [0, 0])
    assert found.arrays["masks"].shape == (2, 0, 28, 28)


def test_places_without_a_box_are_empty() -> None:
    """What an earlier picture left there is nobody's."""
    bundle = detectors.bundle()
    scripted, points = Scripted(bundle), points_of(bundle)[:1]
    with scripted.engine as engine:
        for seed in range(3):
            engine.infer(noise(1, SIZE, seed=seed), points)
    assert scripted.masks is not None
    ends = [seen for seen in scripted.masks.seen if not seen["boxes"][-1].any()]
    assert ends, "some call was not full"
    for seen in ends:
        count = int(seen["boxes"].any(axis=1).sum())
        assert not seen["boxes"][count:].any()
        assert not seen["images"][count:].any()


def test_branches_of_a_backbone_that_skips_layers() -> None:
    net = detectors.WIDE.model_copy(
        update={
            "stages": tuple(
                stage.model_copy(update={"paradigm": Paradigm.LAYER}) if i else stage
                for i, stage in enumerate(detectors.WIDE.stages)
            )
        }
    )
    bundle = detectors.bundle(net, detectors.MASKED)
    scripted, points = Scripted(bundle, alone=True), points_of(bundle)
    with CpuDetector(bundle, threads=1, precision="fp32") as native, scripted.engine as engine:
        for point in points:
            images = noise(1, SIZE)
            assert_same(engine.infer(images, [point]), native.infer(images, [point]))
    assert scripted.branches is not None
    assert (len(scripted.branches.seen), len(scripted.network.seen)) == (len(points), 0)


def test_a_dense_detector_has_no_maskers() -> None:
    bundle = detectors.bundle(detectors.SKIPPING, detectors.RAGGED)
    plain = dense_bundle(bundle)
    images, full = noise(1, SIZE), bundle.manifest.full.point
    with Scripted(plain).engine as dense, Scripted(bundle).engine as engine:
        own = plain.manifest.full.point
        one, other = dense.infer(images, [own]), engine.infer(images, [full])
    assert one.arrays["decisions"].shape == (1, 0)
    np.testing.assert_array_equal(one.arrays["counts"], other.arrays["counts"])
    assert one.macs == other.macs


@pytest.mark.parametrize(
    ("images", "changes", "says"),
    [
        (noise(1, 40), {"image_size": 40}, "a detector's images are multiples of 32, got 40"),
        (noise(1, 96), {"image_size": 96}, "takes images of 64 px, not of 96"),
        (
            noise(1, SIZE),
            {"glance": Glance(image_size=32, confidence=0.5)},
            "a detector does not glance, point 'full' does",
        ),
    ],
)
def test_what_it_cannot_run(images: UInt8Array, changes: dict[str, Any], says: str) -> None:
    bundle = detectors.bundle()
    point = bundle.manifest.full.point.model_copy(update=changes)
    with Scripted(bundle).engine as engine, pytest.raises(InvalidInput, match=says):
        engine.infer(images, [point])


def test_closed_it_answers_nothing() -> None:
    bundle = detectors.bundle()
    scripted = Scripted(bundle)
    scripted.engine.close()
    scripted.engine.close()
    for ask in (scripted.engine.infer, scripted.engine.seen):
        with pytest.raises(EngineError, match="has been closed"):
            ask(noise(1, SIZE), [bundle.manifest.full.point])


def test_plans_that_are_not_of_this_bundle() -> None:
    bundle = detectors.bundle()
    scripted = Scripted(bundle)
    with pytest.raises(BundleError, match="finds no objects"):
        TensorRtDetector(
            read_bundle("zoo:clothing"), plan_manifest(), scripted.gpu, scripted.network
        )
    manifest = plan_manifest(bundle=bundle.hash)
    with pytest.raises(PlanError, match="has no mask head: build it again"):
        TensorRtDetector(bundle, manifest, scripted.gpu, scripted.network)
    manifest = plan_manifest(
        bundle=bundle.hash, masks=MaskHead(onnx="0" * 64, program="0" * 64, objects=OBJECTS)
    )
    with pytest.raises(PlanError, match="inputs are image instead of boxes, features_0"):
        TensorRtDetector(bundle, manifest, scripted.gpu, scripted.network, masks=scripted.network)
    with pytest.raises(PlanError, match="is of bundle"):
        TensorRtDetector(
            replace(bundle, hash="1" * 64), manifest, scripted.gpu, scripted.network,
            masks=scripted.masks,
        )  # fmt: skip
