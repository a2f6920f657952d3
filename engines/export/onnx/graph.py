"""A graph that is built node by node, with one type for maps and float32 for what decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from engines.errors import BundleError
from engines.export.onnx.operators import DOMAIN, OPSET, VERSION, functions, plugin

Precision = Literal["fp32", "fp16"]

_MAPS: dict[Precision, np.dtype[Any]] = {"fp32": np.dtype(np.float32), "fp16": np.dtype(np.float16)}
# The oldest that has functions in a model, of those that consumers of this opset read.
_IR_VERSION = 9

Array = npt.NDArray[Any]


@dataclass
class Tensors:
    """A bundle's tensors, each to be taken once; 16-bit ones are widened.

    who: named in faults, such as a path.
    """

    given: Mapping[str, Array]
    who: str
    _left: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self._left = set(self.given)

    def take(self, name: str, *shape: int) -> npt.NDArray[np.float32]:
        """The tensor of that name. Raises BundleError when it is missing or of another shape."""
        array = self.given.get(name)
        if array is None:
            raise BundleError(f"'{self.who}': the weights do not fit the network: missing: {name}")
        if array.shape != shape or array.dtype.kind != "f":
            raise BundleError(
                f"'{self.who}': the weights do not fit the network: {name} is {array.dtype} "
                f"{array.shape} instead of floats {shape}"
            )
        self._left.discard(name)
        return np.ascontiguousarray(array, np.float32)

    def leave(self, prefix: str) -> None:
        """Tensors whose names start so are not for this graph."""
        self._left = {name for name in self._left if not name.startswith(prefix)}

    def check_all_taken(self) -> None:
        """Raises BundleError that names what no layer asked for."""
        if self._left:
            raise BundleError(
                f"'{self.who}': the weights do not fit the network: unexpected: "
                f"{', '.join(sorted(self._left))}"
            )


class Graph:
    """Nodes, constants, inputs and outputs, in order; every method returns names of values."""

    def __init__(self, precision: Precision, who: str, *, images: int | None = None) -> None:
        """precision: of maps and convolutions. who: named in faults. images: what the dimension `N`
        of inputs and outputs is; None: anything."""
        self.maps = _MAPS[precision]
        self._who = who
        self.images = images
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._operators: set[str] = set()

    def input(self, name: str, dtype: npt.DTypeLike, shape: Sequence[int | str]) -> str:
        """An input of the graph; a dimension that is a word may vary."""
        self._inputs.append(_value(name, dtype, self._sized(shape)))
        return name

    def output(
        self, name: str, value: str, dtype: npt.DTypeLike, shape: Sequence[int | str]
    ) -> None:
        """Make a value an output of the graph under that name."""
        self.add("Identity", value, out=name)
        self._outputs.append(_value(name, dtype, self._sized(shape)))

    def constant(self, name: str, array: npt.ArrayLike, dtype: npt.DTypeLike) -> str:
        """A named constant, stored once. BundleError where a number does not fit its type."""
        if name not in self._constants:
            wide = np.asarray(array)
            with np.errstate(over="ignore"):
                stored = wide.astype(dtype)
            if stored.dtype.kind == "f" and not np.isfinite(stored).all():
                raise BundleError(
                    f"'{self._who}': {name} has numbers that are not finite in {stored.dtype}"
                )
            self._constants[name] = numpy_helper.from_array(stored, name)
        return name

    def integers(self, *values: int) -> str:
        """A vector of int64, as shapes and axes are."""
        name = f"int64[{','.join(map(str, values))}]"
        return self.constant(name, values, np.int64)

    def scalar(self, value: float, dtype: npt.DTypeLike) -> str:
        """A number."""
        return self.constant(f"{np.dtype(dtype)}({value:.9g})", value, dtype)

    def add(self, operator: str, *inputs: str, out: str, **attributes: Any) -> str:
        """A node of standard ONNX whose one output is called `out`."""
        return self._node(operator, inputs, [out], "", attributes)[0]

    def several(
        self, operator: str, *inputs: str, out: Sequence[str], **attributes: Any
    ) -> tuple[str, ...]:
        """The same with as many outputs as there are names."""
        return self._node(operator, inputs, out, "", attributes)

    def laud(
        self, operator: str, *inputs: str, out: Sequence[str], **attributes: Any
    ) -> tuple[str, ...]:
        """A node of one of our operators; its outputs are called `out`."""
        self._operators.add(operator)
        return self._node(operator, inputs, out, DOMAIN, {**attributes, **plugin(operator)})

    def branch(
        self, condition: str, then: Callable[[], str], otherwise: Callable[[], str], *, out: str
    ) -> str:
        """A map (N, C, h, w): what `then` adds where the condition, a single bool, holds, else what
        `otherwise` adds. Only one of them runs."""
        return self.add(
            "If", condition, out=out,
            then_branch=self._inner(then, f"{out}/then"),
            else_branch=self._inner(otherwise, f"{out}/else"),
        )  # fmt: skip

    def has(self, name: str) -> bool:
        """Whether a node has that name, which is that of its first output."""
        return any(node.name == name for node in self._nodes)

    def cast(self, value: str, dtype: npt.DTypeLike, out: str) -> str:
        """The value in another type."""
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.add("Cast", value, out=out, to=kind)

    def wide(self, value: str) -> str:
        """A value of the maps' type in float32: itself where it is that already. Made once, however
        many look at it."""
        if self.maps == np.float32:
            return value
        name = f"{value}/wide"
        return name if self.has(name) else self.cast(value, np.float32, name)

    def model(self, name: str, metadata: Mapping[str, str]) -> onnx.ModelProto:
        """All of it, checked, with the functions of the operators that it has."""
        graph = helper.make_graph(
            self._nodes, name, self._inputs, self._outputs, list(self._constants.values())
        )
        opsets = [helper.make_opsetid("", OPSET)]
        if self._operators:
            opsets.append(helper.make_opsetid(DOMAIN, VERSION))
        model = helper.make_model(
            graph,
            opset_imports=opsets,
            functions=functions(self._operators),
            ir_version=_IR_VERSION,
            producer_name="laudserve",
        )
        helper.set_model_props(model, dict(metadata))
        onnx.checker.check_model(model, full_check=True)
        return model

    def _inner(self, add: Callable[[], str], name: str) -> onnx.GraphProto:
        """Nodes added apart, which see all values before them; constants stay the graph's."""
        outside, self._nodes = self._nodes, []
        try:
            found, nodes = add(), self._nodes
        finally:
            self._nodes = outside
        return helper.make_graph(nodes, name, [], [_value(found, self.maps, [None] * 4)])

    def _sized(self, shape: Sequence[int | str]) -> list[int | str]:
        if self.images is None:
            return list(shape)
        return [self.images if each == "N" else each for each in shape]

    def _node(
        self,
        operator: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        domain: str,
        attributes: Mapping[str, Any],
    ) -> tuple[str, ...]:
        self._nodes.append(
            helper.make_node(operator, inputs, outputs, outputs[0], domain=domain, **attributes)
        )
        return tuple(outputs)


def _value(
    name: str, dtype: npt.DTypeLike, shape: Sequence[int | str | None]
) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, kind, list(shape))
