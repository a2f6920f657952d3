"""The nodes of an exported network as questions."""

from __future__ import annotations

import onnx

from engines.export.onnx.operators import DOMAIN
from engines.tensorrt.plugins.operators import OPERATORS
from engines.tensorrt.spec import ConvSpec, DilateSpec, Dtype, PartitionSpec
from tests.engines.tensorrt.plugins.questions import Question


def questions(model: onnx.ModelProto, dtype: Dtype) -> list[Question]:
    """One of all nodes that are alike. dtype: of the network's maps."""
    shapes = {each.name: list(each.dims) for each in model.graph.initializer}
    found: dict[Question, None] = {}
    for node in model.graph.node:
        if node.domain == DOMAIN and node.op_type in OPERATORS:
            names = dict(zip(OPERATORS[node.op_type].inputs, node.input, strict=True))
            question = _question(node, shapes.get(names.get("weight", ""), []), dtype)
            given = {each.name: each.i for each in node.attribute if each.type == each.INT}
            assert given == question.attributes, "the plugin asks for what the node has"
            found.setdefault(question)
    return list(found)


def _question(node: onnx.NodeProto, weight: list[int], dtype: Dtype) -> Question:
    name = node.op_type
    given = {each.name: each.i for each in node.attribute}
    if name == "partition":
        return Question(name, PartitionSpec(given["masker"]))
    if name == "dilate":
        spec = DilateSpec(dtype, given["patch"], given["stride"])
        return Question(name, spec, given["stride_before"])
    kernel, _, inputs, outputs = weight
    return Question(
        name,
        ConvSpec(
            dtype,
            inputs,
            outputs,
            kernel=kernel,
            stride=given["stride"],
            patch=given.get("patch"),
            group=given.get("group"),
            read="_within_" in name or "_from_" in name,
            written="_within_" in name or "_to_" in name,
            add=name.endswith("_add"),
            relu="_linear_" not in name,
        ),
    )
