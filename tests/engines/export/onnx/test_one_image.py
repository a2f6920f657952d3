"""Networks exported for one image at a time, whose skipped blocks are branches that do not run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from engines.architecture import RegNet, RegNetStage
from engines.bundle import Bundle
from engines.core import Paradigm
from engines.export.onnx.run import onnx_model
from tests.engines.cpu.cases import bundle, net_of, pictures, stage, varied_points
from tests.engines.cpu.comparing import reference_answer
from tests.engines.export.onnx.running import BundleNetwork
from tests.engines.regnets import bundle as regnet_bundle

pytestmark = pytest.mark.torch

LAYERS = net_of(
    stage(Paradigm.LAYER, 6, depth=2), stage(Paradigm.SPATIAL, 8), stage(Paradigm.LAYER, 8, depth=2)
)


def regnet(**options: Any) -> RegNet:
    """With squeeze-and-excitation in blocks that are skipped as a whole."""
    stages = tuple(
        RegNetStage(depth=2, width=6, group_width=width, paradigm=Paradigm.LAYER)
        for width in (2, 3)
    )
    return RegNet(stem_width=6, stages=stages, num_classes=3, **options)


def assert_equal(source: Bundle, size: int, bound: float = 1e-4, precision: Any = "fp32") -> float:
    """All and none active, caps, maskers that are not asked; returns the share of active units."""
    network = BundleNetwork(source, precision, one_image=True)
    maskers = len(source.manifest.architecture.maskers)
    images, points = pictures(5, size), varied_points(maskers, size)
    wanted = reference_answer(source, images, points)
    for i in range(len(images)):
        found = network.answer(images[i : i + 1], points[i : i + 1])
        np.testing.assert_array_equal(found["decisions"][0], wanted.arrays["decisions"][i])
        np.testing.assert_allclose(
            found["probabilities"][0],
            wanted.arrays["probabilities"][i].astype(np.float64),
            rtol=0,
            atol=bound,
        )
    return float(wanted.activation.mean())


@pytest.mark.parametrize("stride_in_1x1", [False, True])
@pytest.mark.parametrize("size", [33, 40, 5])
def test_layers(size: int, stride_in_1x1: bool) -> None:
    source = bundle(LAYERS.model_copy(update={"stride_in_1x1": stride_in_1x1}))
    assert 0.2 < assert_equal(source, size) < 0.8


@pytest.mark.parametrize("over", ["active", "map"])
def test_layers_of_a_regnet(over: str) -> None:
    assert_equal(regnet_bundle(regnet(squeeze_over=over)), 33)


def test_half_precision() -> None:
    assert_equal(bundle(LAYERS), 33, 2e-2, "fp16")


def test_every_paradigm_beside_each_other() -> None:
    assert_equal(bundle(), 33)


def test_what_is_skipped_is_in_the_branch() -> None:
    model = onnx_model(bundle(LAYERS), "fp32", one_image=True)
    nodes = {node.name: node for node in model.graph.node}
    branches = [node for node in model.graph.node if node.op_type == "If"]
    assert [node.name for node in branches] == [
        f"layer{stage}.{block}.out" for stage in (1, 3) for block in (0, 1)
    ]
    for node in branches:
        name = node.name.removesuffix(".out")
        inner = {each.name: each.g for each in node.attribute}
        convolutions = {each.name for each in inner["then_branch"].node if each.op_type == "Conv"}
        assert convolutions == {f"{name}.conv{i}" for i in (1, 2, 3)}
        assert not convolutions & nodes.keys()
        assert [each.op_type for each in inner["else_branch"].node] == ["Relu"]
    assert {node.op_type for node in model.graph.node if node.domain} == {
        *("partition", "dilate", "block_conv", "block_conv_add")
    }
    shapes = [
        each.type.tensor_type.shape.dim[0] for each in (*model.graph.input, *model.graph.output)
    ]
    assert all(dim.dim_value == 1 for dim in shapes)


def test_a_batch_is_refused() -> None:
    network = BundleNetwork(bundle(LAYERS), one_image=True)
    points = varied_points(len(LAYERS.maskers))[:2]
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument, match="image"):
        network.answer(pictures(2), points)
