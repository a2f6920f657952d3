"""Layers that are skipped by branches: the same answers, for one image in a call."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from engines.architecture import ResNet
from engines.bundle import Bundle, read_bundle
from engines.core import OperatingPoint
from engines.errors import BundleError
from engines.export.onnx.feeds import feeds
from engines.export.onnx.graph import Precision
from engines.export.onnx.run import onnx_model
from tests.engines.export.onnx.running import Network
from tests.engines.int8 import bundle_of, net_of, noise, random_weights

SIZE = 33


@pytest.fixture(scope="module")
def source() -> Bundle:
    net = net_of("spatial", "layer", "layer")
    return bundle_of(net, random_weights(net, seed=3), None)


def branches(model: Any) -> list[Any]:
    return [node for node in model.graph.node if node.op_type == "If"]


def test_every_layer_that_can_be_skipped_is_a_branch(source: Bundle) -> None:
    model = onnx_model(source, "fp16", conditional=True)
    found = branches(model)
    assert [node.name for node in found] == [
        f"layer{stage}.{block}.branch" for stage in (2, 3) for block in (0, 1)
    ]
    for node in found:
        graphs = {each.name: [inner.op_type for inner in each.g.node] for each in node.attribute}
        assert graphs == {
            "then_branch": ["Conv", "Relu", "Conv", "Relu", "Conv", "Add", "Relu"],
            "else_branch": ["Relu"],
        }
    shapes = [
        each.type.tensor_type.shape.dim[0].dim_value
        for each in (*model.graph.input, *model.graph.output)
    ]
    assert set(shapes) == {1}
    assert not branches(onnx_model(source, "fp16"))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_it_answers_as_without_branches(source: Bundle, precision: Precision) -> None:
    net = source.manifest.architecture
    assert isinstance(net, ResNet)
    plain, branching = (
        Network(onnx_model(source, precision, conditional=each)) for each in (False, True)
    )
    layers = [i for i, masker in enumerate(net.maskers) if masker.block >= 2]
    seen = set()
    for turn in range(12):
        caps: list[int | None] = [None] * len(net.maskers)
        for place, masker in enumerate(layers):
            caps[masker] = turn >> place & 1
        point = OperatingPoint(
            name="skips", image_size=SIZE, thresholds=(None,) * len(caps), caps=tuple(caps)
        )
        given = feeds(net, noise(1, SIZE, seed=turn), [point])
        inputs = {name: np.asarray(array) for name, array in given.items()}
        wanted, found = plain.run(**inputs), branching.run(**inputs)
        np.testing.assert_array_equal(found["decisions"], wanted["decisions"])
        near = 1e-6 if precision == "fp32" else 2e-3
        np.testing.assert_allclose(found["probabilities"], wanted["probabilities"], atol=near)
        seen.add(tuple(found["decisions"][0, -len(layers) :].tolist()))
    assert len(seen) == 12, "layers were skipped in many ways"


def test_a_network_that_skips_no_layers_has_no_branches() -> None:
    with pytest.raises(BundleError, match="has no stage of paradigm 'layer'"):
        onnx_model(read_bundle("zoo:clothing"), "fp32", conditional=True)
