"""A build on a GPU, both scripted: what TensorRT is asked, and every way in which it cannot be."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from engines.bundle import read_bundle, write_bundle
from engines.errors import EngineError, InvalidInput, PlanError
from engines.tensorrt import building
from engines.tensorrt.building import BuildPlan, build_on_gpu
from engines.tensorrt.libraries import library
from engines.tensorrt.plans import read_plan
from engines.tensorrt.shapes import OBJECTS
from tests.engines.cpu import detectors
from tests.engines.int8 import bundle_of, net_of, random_weights
from tests.engines.tensorrt.scripted import ScriptedGpu
from tests.engines.tensorrt.scripted_builder import Asked, scripted_tensorrt

PLAN = BuildPlan(precision="fp32", sizes=(32, 40), batches=(1, 2))


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture
def registered() -> list[int]:
    """Capabilities that plugins were registered for."""
    return []


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    net = net_of("spatial", "joint")
    source = bundle_of(net, random_weights(net), None)
    write_bundle(tmp_path / "small.laud", source.manifest, source.weights)
    return tmp_path / "small.laud"


@pytest.fixture(autouse=True)
def gpus(
    asked: Asked, registered: list[int], monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[ScriptedGpu]]:
    """Those that were opened."""
    opened: list[ScriptedGpu] = []

    def gpu(device: int) -> ScriptedGpu:
        opened.append(ScriptedGpu(f"GPU {device}", 86))
        return opened[-1]

    plugins: Any = ModuleType("engines.tensorrt.plugins")
    monkeypatch.setitem(sys.modules, "engines.tensorrt.plugins", plugins)
    plugins.register = registered.append
    monkeypatch.setattr(building, "CudaGpu", gpu)
    monkeypatch.setitem(sys.modules, "tensorrt", scripted_tensorrt(asked))
    library.cache_clear()
    yield opened
    library.cache_clear()


def quiet(_line: str) -> None:
    """Nobody listens."""


def test_every_bucket_is_a_profile_and_what_skips_a_plugin(
    bundle: Path, asked: Asked, registered: list[int], gpus: list[ScriptedGpu]
) -> None:
    built = build_on_gpu(bundle, PLAN, 0, quiet)
    assert built.path == bundle / "fp32-sm86.plan"
    plan = read_plan(built.path)
    assert plan.manifest == built.manifest
    assert plan.program() == plan.onnx.read_bytes(), "the scripted program is the file"
    manifest = plan.manifest
    assert (manifest.library, manifest.library_version) == ("tensorrt", "10.16.1.11")
    assert (manifest.capabilities, manifest.device, manifest.dense) == ((86,), "GPU 0", False)
    assert manifest.plugins == (
        *("block_conv", "block_conv_add", "block_conv_from_groups_add", "block_conv_to_groups"),
        *("block_conv_within_groups", "dilate", "partition"),
    )
    assert [shapes["image"] for shapes in asked.profiles] == [
        ((images, size, size, 3),) * 3 for size in (32, 40) for images in (1, 2)
    ]
    assert [each.profile for each in manifest.buckets] == [0, 1, 2, 3]
    assert (registered, asked.flags, asked.cleared) == ([86], 0b1010, ["TF32"])
    assert asked.caches == []
    assert [gpu.closed for gpu in gpus] == [True]


def test_a_timing_cache_is_made_read_and_renewed(
    bundle: Path, asked: Asked, tmp_path: Path
) -> None:
    said: list[str] = []
    cached = replace(PLAN, timing_cache=tmp_path / "timing.cache")
    build_on_gpu(bundle, cached, 0, said.append)
    build_on_gpu(bundle, cached, 0, said.append)
    assert asked.caches == [b"", b"timed"]
    assert (tmp_path / "timing.cache").read_bytes() == b"timed"
    assert not [line for line in said if "made anew" in line]


@pytest.mark.parametrize("content", [b"other device", b"damaged"])
def test_a_timing_cache_that_is_not_taken_is_made_anew(
    bundle: Path, asked: Asked, tmp_path: Path, content: bytes
) -> None:
    said: list[str] = []
    cached = replace(PLAN, timing_cache=tmp_path / "timing.cache")
    (tmp_path / "timing.cache").write_bytes(content)
    build_on_gpu(bundle, cached, 0, said.append)
    assert asked.caches == [content, b""]
    assert (tmp_path / "timing.cache").read_bytes() == b"timed"
    assert [line for line in said if "the timing cache is of another device" in line]


def test_a_timing_cache_is_kept_after_the_plan_and_its_folder_looked_for_before(
    bundle: Path, gpus: list[ScriptedGpu], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_given: Any) -> None:
        raise OSError(28, "No space left on device")

    cached = replace(PLAN, timing_cache=tmp_path / "no" / "timing.cache")
    with pytest.raises(InvalidInput, match=r"cannot be kept: there is no folder '.*no'"):
        build_on_gpu(bundle, cached, 0, quiet)
    assert not gpus
    monkeypatch.setattr(building, "replace_file", no_space)
    with pytest.raises(OSError, match="No space left"):
        build_on_gpu(bundle, replace(cached, timing_cache=tmp_path / "timing.cache"), 0, quiet)
    assert read_plan(bundle / "fp32-sm86.plan"), "what was compiled is not lost with it"
    monkeypatch.setattr(building, "write_plan", no_space)
    monkeypatch.setattr(building, "replace_file", lambda *_given: pytest.fail("before the plan"))
    with pytest.raises(OSError, match="No space left"):
        build_on_gpu(bundle, replace(cached, timing_cache=tmp_path / "timing.cache"), 0, quiet)


def test_a_dense_plan_needs_no_plugins(bundle: Path, asked: Asked, registered: list[int]) -> None:
    asked.registered.clear()
    built = build_on_gpu(bundle, replace(PLAN, dense=True), 1, quiet)
    assert built.path.name == "dense-fp32-sm86.plan"
    assert (built.manifest.dense, built.manifest.plugins, registered) == (True, (), [])
    assert built.manifest.bundle == read_bundle(bundle).hash
    assert [set(shapes) for shapes in asked.profiles] == [{"image"}] * 4


@pytest.fixture
def layers(bundle: Path) -> Path:
    """A bundle whose layers are skipped as a whole."""
    net = net_of("layer", "spatial")
    source = bundle_of(net, random_weights(net), None)
    write_bundle(bundle.with_name("layers.laud"), source.manifest, source.weights)
    return bundle.with_name("layers.laud")


def test_calls_of_one_image_get_both_forms_where_layers_are_skipped(
    layers: Path, asked: Asked, tmp_path: Path
) -> None:
    cache = tmp_path / "timing.cache"
    built = build_on_gpu(layers, replace(PLAN, timing_cache=cache), 0, quiet)
    plan, branches = read_plan(built.path), built.manifest.branches
    assert branches is not None
    assert plan.branches_program() == plan.branches_onnx.read_bytes()
    shapes = [(each.image_size, each.images, each.profile) for each in branches.buckets]
    assert shapes == [(32, 1, 0), (40, 1, 1)]
    assert [shapes["image"][1] for shapes in asked.profiles] == [
        *((1, 32, 32, 3), (2, 32, 32, 3), (1, 40, 40, 3), (2, 40, 40, 3)),
        *((1, 32, 32, 3), (1, 40, 40, 3)),
    ]
    whole, alone = (
        [node.op_type for node in onnx.load(path).graph.node]
        for path in (plan.onnx, plan.branches_onnx)
    )
    assert ("If" in whole, alone.count("If")) == (False, 2)
    assert set(branches.plugins) == set(alone) & set(built.manifest.plugins)
    assert asked.caches == [b"", b"timed"], "the second build knows what the first one timed"


@pytest.mark.parametrize(
    "plan", [replace(PLAN, batches=(2, 4)), replace(PLAN, dense=True)], ids=["pairs", "dense"]
)
def test_there_is_no_second_form_without_a_call_of_one_image_or_without_maskers(
    layers: Path, plan: BuildPlan
) -> None:
    built = build_on_gpu(layers, plan, 0, quiet)
    assert built.manifest.branches is None
    assert not read_plan(built.path).branches_onnx.exists()


def test_a_network_that_skips_no_layer_has_one_form(bundle: Path) -> None:
    assert build_on_gpu(bundle, PLAN, 0, quiet).manifest.branches is None


@pytest.fixture
def things(tmp_path: Path) -> Path:
    """A bundle that finds objects, with masks and levels that skip."""
    source = detectors.bundle(detectors.SKIPPING, detectors.RAGGED)
    write_bundle(tmp_path / "things.laud", source.manifest, source.weights)
    return tmp_path / "things.laud"


def test_a_detector_is_two_programs_in_the_same_buckets(
    things: Path, asked: Asked, tmp_path: Path
) -> None:
    cache = tmp_path / "timing.cache"
    plan = replace(PLAN, sizes=(64, 96), timing_cache=cache)
    built = build_on_gpu(things, plan, 0, quiet)
    found, masks = read_plan(built.path), built.manifest.masks
    assert masks is not None
    assert masks.objects == OBJECTS
    assert found.masks_program() == found.masks_onnx.read_bytes()
    outputs = [each.name for each in onnx.load(found.onnx).graph.output]
    assert outputs == ["decisions", "boxes", "scores", *(f"features_{i}" for i in range(4))]
    assert set(built.manifest.plugins) >= {"block_conv_linear_add", "dilate", "partition"}
    heads, whole = asked.profiles[:4], asked.profiles[4:]
    images, sizes = (1, 2, 1, 2), (64, 64, 96, 96)
    assert [each["image"][1] for each in whole] == [
        (count, size, size, 3) for count, size in zip(images, sizes, strict=True)
    ]
    assert [each["features_3"][1] for each in heads] == [
        (count, 24, size // 32, size // 32) for count, size in zip(images, sizes, strict=True)
    ]
    assert {each["boxes"] for each in heads} == {((OBJECTS, 4),) * 3}
    assert asked.own_plugins == [""]
    assert asked.caches == [b"", b"timed"]


def test_a_dense_detector_has_its_mask_head_too(things: Path, asked: Asked) -> None:
    built = build_on_gpu(things, replace(PLAN, sizes=(64,), dense=True), 0, quiet)
    assert (built.manifest.dense, built.manifest.plugins) == (True, ())
    assert built.manifest.masks is not None


def test_sizes_that_a_detector_does_not_take(things: Path, gpus: list[ScriptedGpu]) -> None:
    with pytest.raises(InvalidInput, match="images are multiples of 32, got 40"):
        build_on_gpu(things, PLAN, 0, quiet)
    assert not gpus


def test_branches_that_the_library_refuses_are_told_and_leave_a_plan_without(
    layers: Path, asked: Asked
) -> None:
    said: list[str] = []
    asked.fails_with_branches = "IIfConditional is not supported"
    built = build_on_gpu(layers, PLAN, 0, said.append)
    assert built.manifest.branches is None
    assert read_plan(built.path).manifest == built.manifest
    assert [line for line in said if line.startswith("the plan gets no branches: ")] == [
        "the plan gets no branches: TensorRT 10.16.1.11 cannot compile the network: "
        "IIfConditional is not supported"
    ]


def refused(
    bundle: Path, gpus: list[ScriptedGpu], says: str, kind: type[Exception] = EngineError
) -> None:
    with pytest.raises(kind, match=says):
        build_on_gpu(bundle, PLAN, 0, quiet)
    assert not list(bundle.glob("*.plan"))
    assert all(gpu.closed for gpu in gpus)


def test_an_operator_without_its_plugin(
    bundle: Path, asked: Asked, gpus: list[ScriptedGpu]
) -> None:
    asked.registered.discard("dilate")
    refused(bundle, gpus, "'laud::dilate' has no plugin in TensorRT 10.16.1.11")


def test_a_parser_that_takes_functions_in_place_of_plugins(
    bundle: Path, asked: Asked, gpus: list[ScriptedGpu]
) -> None:
    asked.taken = 3
    refused(bundle, gpus, r"took the plugins of 3 of \d\d nodes")


def test_what_the_compiler_says(bundle: Path, asked: Asked, gpus: list[ScriptedGpu]) -> None:
    asked.fails = "Could not find any implementation for node laud"
    refused(bundle, gpus, "10.16.1.11 cannot compile the network: Could not find any")


def test_a_builder_that_does_not_start(bundle: Path, asked: Asked, gpus: list[ScriptedGpu]) -> None:
    asked.starts = False
    refused(bundle, gpus, "does not start: CUDA initialization failure with error: 35")


def test_without_tensorrt(
    bundle: Path, gpus: list[ScriptedGpu], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    refused(bundle, gpus, r"TensorRT cannot be loaded .*pip install 'tensorrt-cu13>=10\.13,<12'")


def test_a_name_that_no_plan_has_is_refused_before_the_device_is_touched(
    bundle: Path, gpus: list[ScriptedGpu]
) -> None:
    with pytest.raises(PlanError, match=r"ends in \.plan"):
        build_on_gpu(bundle, replace(PLAN, out=Path("fast.engine")), 0, quiet)
    with pytest.raises(InvalidInput, match="unknown precision 'int4'"):
        build_on_gpu(bundle, replace(PLAN, precision="int4"), 0, quiet)
    assert not gpus
