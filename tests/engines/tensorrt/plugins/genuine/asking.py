"""Asks a plugin what TensorRT asks, in its order, through its own Python classes."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import tensorrt as trt

from engines.tensorrt.plugins.operators import NAMESPACE, OPERATORS
from tests.engines.tensorrt.plugins.genuine.expressions import Builder, Expression, Expressions
from tests.engines.tensorrt.plugins.questions import SIZES, Question

_FLOATS = {"fp16": trt.float16, "fp32": trt.float32}


class Numbers(dict[int, Any]):
    """What stands between inputs and outputs; a plugin sets it."""

    nbSymExprs = 0  # noqa: N815


def created(operator: str, attributes: Mapping[str, int]) -> Any:
    """A plugin as the parser has TensorRT create it: by the registry, attributes int32.

    The parser takes the creator's fields in order and leaves out those that a node lacks.
    """
    creator = trt.get_plugin_registry().get_creator(operator, "1", NAMESPACE)
    fields = [
        trt.PluginField(each.name, np.array([attributes[each.name]], np.int32), each.type)
        for each in creator.field_names
        if each.name in attributes
    ]
    return creator.create_plugin(
        operator,
        NAMESPACE,
        trt.PluginFieldCollection(fields),
        trt.TensorRTPhase.BUILD,
        trt.QuickPluginCreationRequest.STRICT_AOT,
    )


def answers(question: Question) -> dict[str, Any]:
    """Everything that TensorRT learns of a plugin, its launches for all SIZES."""
    plugin, builder = created(question.operator, question.attributes), Builder()
    shapes = [
        Expressions(
            Expression.named(size) if isinstance(size, str) else Expression.constant(size)
            for size in shape
        )
        for shape in question.input_shapes().values()
    ]
    kinds = OPERATORS[question.operator].inputs.values()
    types = [trt.int32 if kind == "list" else _FLOATS[question.dtype] for kind in kinds]
    output_types = plugin.get_output_data_types(types, [len(shape) for shape in shapes])
    output_shapes = plugin.get_output_shapes(shapes, [], builder)
    sizes = question.sizes(*SIZES[0])
    tensors = [
        _description(shape, kind, sizes)
        for shape, kind in zip([*shapes, *output_shapes], [*types, *output_types], strict=True)
    ]
    combinations = plugin.get_supported_format_combinations(tensors, len(shapes))
    assert len(combinations) == len(tensors), "one combination is offered"
    for tensor, chosen in zip(tensors, combinations, strict=True):
        assert chosen.type == tensor.desc.type, "types are those of the network"
        inner = tensor.desc
        inner.format = chosen.format
        tensor.desc = inner
    inputs, outputs = tensors[: len(shapes)], tensors[len(shapes) :]
    plugin.configure_plugin(inputs, outputs)
    assert plugin.get_valid_tactics() == [], "there is one kernel"
    plugin.set_tactic(0)
    program, numbers = SimpleNamespace(), Numbers()
    plugin.get_launch_params(shapes, tensors, len(shapes), program, numbers, builder)
    entry, ptx = plugin.get_kernel([each.desc for each in inputs], [each.desc for each in outputs])
    launches = []
    for images, size in SIZES:
        known = question.sizes(images, size)
        arguments = {
            "grid": (program.grid_x, program.grid_y, program.grid_z),
            "block": (program.block_x, program.block_y, program.block_z),
            "shared_bytes": (program.shared_mem,),
            "numbers": [numbers[place] for place in range(numbers.nbSymExprs)],
        }
        launches.append(
            {
                name: [each.expression.evaluated(known) for each in given]
                for name, given in arguments.items()
            }
            | {"outputs": [[each.evaluated(known) for each in shape] for shape in output_shapes]}
        )
    return {
        "types": [each.desc.type.name for each in tensors],
        "layouts": [each.desc.format.name for each in tensors],
        "entry": entry,
        "ptx": ptx.decode(),
        "launches": launches,
    }


def _description(shape: Expressions, kind: Any, sizes: Mapping[str, int]) -> Any:
    """Of a tensor before its layout is chosen; for the builder its open sizes are these."""
    found = trt.DynamicPluginTensorDesc()
    known = [each for each in shape if each is not None]
    inner = found.desc
    inner.dims = trt.Dims(
        [each.get_constant_value() if each.is_constant() else -1 for each in known]
    )
    inner.type, inner.format, inner.scale = kind, trt.TensorFormat.LINEAR, 1.0
    found.desc = inner
    found.min = found.opt = found.max = trt.Dims([each.evaluated(sizes) for each in known])
    return found
