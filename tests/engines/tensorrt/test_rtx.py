"""TensorRT-RTX compiles our networks for cards that are not here, and its parser finds plugins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.engines.tensorrt.rtx_wheels import require_tensorrt_rtx

onnx = pytest.importorskip("onnx")
require_tensorrt_rtx()

from engines.architecture import RegNet, RegNetStage, ResNet, Stage
from engines.bundle import read_bundle, write_bundle
from engines.errors import BundleError, EngineError, InvalidInput
from engines.export.onnx.operators import OPERATORS, plugin
from engines.export.onnx.run import onnx_masks, onnx_model
from engines.tensorrt.building import BuildPlan, Built, build_rtx
from engines.tensorrt.libraries import library
from engines.tensorrt.network import Order, Shapes, check_registered, compile_network
from engines.tensorrt.plans import read_plan, sha256
from tests.engines.cpu import detectors
from tests.engines.int8 import bundle_of, net_of, random_weights

pytestmark = pytest.mark.wheels

ROOT = Path(__file__).parents[3]
ALL = ("static", "spatial", "channel", "layer", "joint")
SMALL = BuildPlan(precision="fp16", sizes=(32,), batches=(1, 2))
LIMIT_S = 600


def quiet(_line: str) -> None:
    """Nobody listens."""


def small(path: Path) -> Path:
    """A bundle of a small network of all paradigms."""
    net = net_of(*ALL)
    bundle = bundle_of(net, random_weights(net), None)
    write_bundle(path, bundle.manifest, bundle.weights)
    return path


def test_the_demo_compiles_for_a_card_that_is_not_here(tmp_path: Path) -> None:
    plan = BuildPlan(sizes=(64,), batches=(1,), out=tmp_path / "demo.plan")
    said: list[str] = []
    built = build_rtx("zoo:clothing", plan, [86], said.append)
    manifest = read_plan(built.path).manifest
    assert manifest == built.manifest
    assert manifest.bundle == read_bundle("zoo:clothing").hash
    assert manifest.onnx == sha256((built.path / "network.onnx").read_bytes())
    assert manifest.program == sha256((built.path / "network.engine").read_bytes())
    assert (manifest.library, manifest.capabilities) == ("tensorrt_rtx", (86,))
    assert (manifest.precision, manifest.plugins) == ("fp16", ())
    assert any("sm_86" in line for line in said)


def test_resnet_50_compiles() -> None:
    stages = tuple(
        Stage(depth=depth, width=width) for depth, width in ((3, 64), (4, 128), (6, 256), (3, 512))
    )
    net = ResNet(stem_width=64, stages=stages, num_classes=1000, folded=True)
    bundle = bundle_of(net, random_weights(net), None)
    model = onnx_model(bundle, "fp16")
    shape: Shapes = {"image": ((1, 224, 224, 3), (1, 224, 224, 3), (32, 224, 224, 3))}
    order = Order(model.SerializeToString(), [shape], [86])
    compiled = compile_network(library("tensorrt_rtx"), order, quiet)
    weights = sum(array.size for array in bundle.weights.values())
    assert len(compiled.program) > 2 * weights, "all weights are in it, in half precision"


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_a_regnet_compiles(tmp_path: Path, precision: str) -> None:
    """Groups in its 3x3, squeeze-and-excitation, and masks behind them."""
    grains: tuple[dict[str, Any], ...] = (
        {"paradigm": "layer"},
        {"paradigm": "spatial+channel", "spatial_granularity": 2, "channel_granularity": 4},
    )
    stages = tuple(RegNetStage(depth=1, width=8, group_width=4, **each) for each in grains)
    net = RegNet(stem_width=8, stages=stages, num_classes=3, folded=True)
    bundle = bundle_of(net, random_weights(net), None)
    write_bundle(tmp_path / "regnet.laud", bundle.manifest, bundle.weights)
    plan = BuildPlan(precision=precision, sizes=(32,), batches=(1, 2))
    built = build_rtx(tmp_path / "regnet.laud", plan, [86], quiet)
    assert built.manifest.branches is not None
    assert operators(built.path / "network.onnx") == {
        *("partition", "block_conv_add", "block_conv_from_groups_add", "channel_mask"),
        "pixel_mask",
    }


def operators(path: Path) -> set[str]:
    """Of our own, in a file."""
    return {node.op_type for node in onnx.load(path).graph.node if node.domain}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A small network of all paradigms in fp32, built where its bundle is."""
    folder = small(tmp_path_factory.mktemp("small") / "small.laud")
    plan = BuildPlan(precision="fp32", sizes=(32, 40), batches=(2, 1, 2))
    return build_rtx(folder, plan, [89, 86, 86], quiet)


def test_a_plan_lies_in_its_bundle_and_names_all_devices_and_shapes(built: Built) -> None:
    assert built.path.name == "rtx-fp32-sm86-sm89.plan"
    assert read_bundle(built.path.parent).hash == built.manifest.bundle
    shapes = [(each.image_size, each.images, each.profile) for each in built.manifest.buckets]
    assert shapes == [(32, 1, 0), (32, 2, 0), (40, 1, 0), (40, 2, 0)]
    assert built.manifest.capabilities == (86, 89)
    names = {path.name for path in built.path.parent.iterdir()}
    assert names == {"manifest.json", "weights.safetensors", built.path.name}


def test_layers_are_branches_too_in_calls_of_one_image(built: Built, tmp_path: Path) -> None:
    """Without a plugin, hence what skips here at all; beside what batches run."""
    branches = built.manifest.branches
    assert branches is not None
    assert branches.plugins == ()
    shapes = [(each.image_size, each.images, each.profile) for each in branches.buckets]
    assert shapes == [(32, 1, 0), (40, 1, 0)]
    plan = read_plan(built.path)
    alone, whole = (
        [node.op_type for node in onnx.load(path).graph.node]
        for path in (plan.branches_onnx, plan.onnx)
    )
    assert ("If" in whole, "If" in alone) == (False, True)
    assert sha256(plan.branches_program()) == branches.program
    net = net_of("layer")
    source = bundle_of(net, random_weights(net), None)
    write_bundle(tmp_path / "layers.laud", source.manifest, source.weights)
    pairs = build_rtx(tmp_path / "layers.laud", BuildPlan(sizes=(32,), batches=(2,)), [86], quiet)
    assert pairs.manifest.branches is None, "no call is of one image"


@pytest.mark.parametrize(
    ("capabilities", "says"),
    [
        ([], "--rtx needs --sm, .* there are: 75, 80, 86"),
        ([90], "does not compile for compute capability 90; it does for: 75, 80, 86"),
    ],
)
def test_capabilities_that_there_are_not(capabilities: list[int], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        build_rtx("zoo:clothing", SMALL, capabilities, quiet)


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_a_detector_whose_levels_skip_compiles(tmp_path: Path, precision: str) -> None:
    """To its answers for all places, at any size and batch of its buckets."""
    detector = detectors.RAGGED.model_copy(update={"masks": False})
    source = detectors.bundle(detectors.SKIPPING, detector)
    write_bundle(tmp_path / "things.laud", source.manifest, source.weights)
    plan = BuildPlan(precision=precision, sizes=(64, 96), batches=(1, 2))
    built = build_rtx(tmp_path / "things.laud", plan, [86], quiet)
    assert built.manifest.masks is None
    assert {"block_conv_linear_add", "pixel_mask"} <= operators(built.path / "network.onnx")


def test_objects_with_masks_are_refused_since_it_has_no_regions_of_them() -> None:
    with pytest.raises(BundleError, match="finds objects with masks: TensorRT-RTX has no RoiAlign"):
        build_rtx("zoo:nuclei", SMALL, [86], quiet)
    model = onnx_masks(read_bundle("zoo:nuclei"), "fp16")
    assert model is not None
    order = Order(model.SerializeToString(), [], [86])
    with pytest.raises(EngineError, match="ROIAlign plugin was not found in the plugin registry"):
        compile_network(library("tensorrt_rtx"), order, quiet)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_turing_multiplies_no_fp32_and_that_is_said_in_the_librarys_words(
    tmp_path: Path, precision: str
) -> None:
    """Classifiers are float32 in both."""
    plan = BuildPlan(precision=precision, sizes=(32,), batches=(1,))
    with pytest.raises(EngineError, match=r"cannot compile the network: .*FP32 GEMM"):
        build_rtx(small(tmp_path / "small.laud"), plan, [75], quiet)
    assert not list(tmp_path.glob("small.laud/*.plan"))


def test_an_operator_that_it_has_not_is_named() -> None:
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 4])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.INT64, [2, "K"])
    node = onnx.helper.make_node("NonZero", ["x"], ["y"], "which")
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "data-dependent", [x], [y]),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
        ir_version=9,
    )
    order = Order(model.SerializeToString(), [{"x": ((1, 4), (1, 4), (2, 4))}], [86])
    with pytest.raises(EngineError, match=r"cannot read the network: .*NonZero"):
        compile_network(library("tensorrt_rtx"), order, quiet)


def test_a_file_that_is_no_network_is_told() -> None:
    with pytest.raises(EngineError, match=r"TensorRT-RTX .* cannot read the network: "):
        compile_network(library("tensorrt_rtx"), Order(b"no protobuf", []), quiet)


def test_a_node_that_should_be_a_plugin_and_is_not(tmp_path: Path) -> None:
    """The parser takes the function in its place, which is right and saves nothing."""
    model = onnx_model(read_bundle(small(tmp_path / "small.laud")), "fp16")
    wanted = sum(node.op_type in OPERATORS for node in model.graph.node)
    with pytest.raises(EngineError, match=f"took the plugins of 0 of {wanted} nodes"):
        compile_network(
            library("tensorrt_rtx"),
            Order(model.SerializeToString(), [], plugins=wanted),
            quiet,
        )


def test_an_operator_without_its_plugin_is_named() -> None:
    with pytest.raises(EngineError, match="'laud::dilate' has no plugin in TensorRT-RTX"):
        check_registered(library("tensorrt_rtx"), ["dilate"])


def test_the_parser_hands_a_plugin_the_attributes_of_its_node(tmp_path: Path) -> None:
    models = [
        onnx_model(read_bundle(small(tmp_path / "small.laud")), "fp16"),
        onnx_model(detectors.bundle(detectors.SKIPPING, detectors.DYNAMIC), "fp16"),
    ]
    paths = [tmp_path / f"{i}.onnx" for i in range(len(models))]
    for path, model in zip(paths, models, strict=True):
        path.write_bytes(model.SerializeToString())
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("handing_over.py")), *map(str, paths)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    nodes = {node.name: node for model in reversed(models) for node in model.graph.node}
    heard = [json.loads(line) for line in done.stdout.splitlines()]
    assert [name for name, _, _ in heard] == [name for name in OPERATORS if plugin(name)]
    for name, node, fields in heard:
        assert nodes[node].op_type == name
        wanted = {
            each.name: ["INT32", [onnx.helper.get_attribute_value(each)]]
            for each in nodes[node].attribute
            if each.name not in plugin(name)
        }
        assert fields == wanted


def test_only_faults_are_kept_of_what_it_says() -> None:
    found = library("tensorrt_rtx")
    severity = found.module.ILogger.Severity
    found.said.faults.clear()
    found.logger.log(severity.WARNING, "odd")
    assert found.said.taken() == "it does not say why"
    found.logger.log(severity.ERROR, "first\n  fault")
    found.logger.log(severity.INTERNAL_ERROR, "second")
    assert found.said.taken() == "first fault; second"
    assert not found.said.faults
