"""Tells TensorRT of every operator: its outputs, the layouts of its tensors, its kernel as PTX.

TensorRT asks while it builds a plan; what is raised then ends up in its log, with our message.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import GenericAlias, ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from engines.errors import EngineError, InvalidInput
from engines.tensorrt.limits import faults
from engines.tensorrt.plugins.operators import NAMESPACE, OPERATORS, Kind, Operator
from engines.tensorrt.spec import Dtype, KernelSpec

if TYPE_CHECKING:
    from engines.tensorrt.compiling import Compiled

OLDEST = (10, 13)
"""TensorRT that this is written for; since 10.10 it finds plugins by the domain of a node."""

# An attribute is an array of one number: TensorRT 10.16 cannot make an int of what its parser
# hands over where NumPy is 2.4 or newer, and an array works everywhere.
_ATTRIBUTE = np.ndarray[Any, np.dtype[np.int32]]

_NAMES: Mapping[Dtype, str] = {"fp16": "FP16", "fp32": "FP32"}
# Channels of a pixel side by side, as the kernels have them.
_LAYOUTS: Mapping[Dtype, str] = {"fp16": "HWC8", "fp32": "HWC"}

# The capability of this process's plugins, if any: TensorRT takes a name once.
_REGISTERED: list[int] = []

# What TensorRT calls with tensors, attributes and more; here they come by name.
_Given = Mapping[str, Any]


def register(sm: int) -> None:
    """Register all plugins in this process, with kernels for compute capability `sm`, such as 86.

    The same again is nothing. Raises InvalidInput for a capability that kernels are not compiled
    for; EngineError where TensorRT or Triton is missing or too old, where Triton interprets, or
    where plugins were registered for another capability.
    """
    compiling = _compiling()
    if sm not in compiling.PTX_VERSIONS:
        raise InvalidInput(
            f"there are no plugins for compute capability {sm}; there are some for: "
            f"{', '.join(map(str, compiling.PTX_VERSIONS))}"
        )
    if sm in _REGISTERED:
        return
    if _REGISTERED:
        raise EngineError(
            f"this process has plugins for compute capability {_REGISTERED[0]} and cannot have "
            f"those for {sm} too: build in another process"
        )
    trt, trtp = _tensorrt()
    for name, operator in OPERATORS.items():
        plugin = _Plugin(name, operator, sm, trt, trtp)
        identity = f"{NAMESPACE}::{name}"
        trtp.register(identity)(plugin.description())
        trtp.autotune(identity)(plugin.layouts())
        trtp.aot_impl(identity)(plugin.kernel())
    _REGISTERED.append(sm)


def _tensorrt() -> tuple[Any, Any]:
    """TensorRT and its module of plugins."""
    try:
        import tensorrt as trt
    except ImportError as error:
        raise EngineError(
            f"TensorRT cannot be loaded ({error}): install the package tensorrt that fits your "
            "driver"
        ) from None
    version = tuple(int(part) for part in re.findall(r"\d+", trt.__version__)[:2])
    if version < OLDEST:
        raise EngineError(
            f"TensorRT {trt.__version__} is too old for these plugins: "
            f"{'.'.join(map(str, OLDEST))} or newer is needed"
        )
    try:
        import tensorrt.plugin as trtp
    except ImportError as error:
        raise EngineError(
            f"TensorRT {trt.__version__} came without its Python plugins ({error}); pip's packages "
            "have them from 10.14 on"
        ) from None
    return trt, trtp


def _compiling() -> ModuleType:
    try:
        import triton
    except ImportError as error:
        raise EngineError(
            f"the kernels need Triton to be compiled ({error}): pip install '.[tensorrt]'"
        ) from None
    if triton.knobs.runtime.interpret:
        raise EngineError("Triton interprets here and compiles nothing: unset TRITON_INTERPRET")
    from engines.tensorrt import compiling

    return compiling


@cache
def _compiled(spec: KernelSpec, sm: int) -> Compiled:
    """A kernel that fits; EngineError for one that does not."""
    made: Compiled = _compiling().compile_kernel(spec, sm)
    found = faults(str(spec), sm, made)
    if found:
        raise EngineError("; ".join(found))
    return made


@dataclass(frozen=True)
class _Plugin:
    """The three functions that TensorRT calls for an operator, with signatures that it reads."""

    name: str
    operator: Operator
    sm: int
    trt: Any
    trtp: Any

    def description(self) -> Callable[..., Any]:
        """Outputs. Called with sizes that are not known yet, too."""

        def describe(given: _Given) -> Any:
            shapes = self.operator.output_shapes(self._shapes(given), self._attributes(given))
            types = [self._type(kind, given) for kind in self.operator.outputs.values()]
            found = tuple(map(self.trtp.from_shape_expr, shapes, types))
            return found[0] if len(found) == 1 else found

        return self._with_signature(describe, {}, self._outputs())

    def layouts(self) -> Callable[..., Any]:
        """Types and layouts: one combination, since the network's types are fixed."""

        def choose(given: _Given) -> Any:
            dtype = self._dtype(given)
            types: Mapping[Kind, str] = {
                "map": _NAMES[dtype], "weight": _NAMES[dtype], "list": "INT32", "number": "FP32"
            }  # fmt: skip
            kinds = [*self.operator.inputs.values(), *self.operator.outputs.values()]
            layouts = [_LAYOUTS[dtype] if kind == "map" else "LINEAR" for kind in kinds]
            return [
                self.trtp.AutoTuneCombination(
                    ", ".join(types[kind] for kind in kinds), ", ".join(layouts)
                )
            ]

        returned = GenericAlias(list, (self.trtp.AutoTuneCombination,))
        return self._with_signature(choose, {"outputs": self._outputs()}, returned)

    def kernel(self) -> Callable[..., Any]:
        """Entry, PTX, launch, and the numbers between inputs and outputs."""

        def implement(given: _Given) -> Any:
            shapes, attributes = self._shapes(given), self._attributes(given)
            launch = self.operator.launch(self._dtype(given), shapes, attributes, self.sm)
            made = _compiled(launch.spec, self.sm)
            program = self.trtp.KernelLaunchParams(
                *launch.grid, block_x=made.threads, shared_mem=made.shared_bytes
            )
            numbers = [self.trtp.SymInt32(each) for each in launch.numbers]
            return made.entry, made.ptx, program, self.trtp.SymIntExprs.from_tuple(numbers)

        returned = str, str, self.trtp.KernelLaunchParams, self.trtp.SymIntExprs
        more = {"outputs": self._outputs(), "tactic": int}
        return self._with_signature(implement, more, GenericAlias(tuple, returned))

    def _outputs(self) -> Any:
        """The type of all outputs; TensorRT wants a tuple even of one."""
        return GenericAlias(tuple, (self.trtp.TensorDesc,) * len(self.operator.outputs))

    def _with_signature(
        self, body: Callable[[_Given], Any], more: Mapping[str, Any], returned: Any
    ) -> Callable[..., Any]:
        """A function of inputs, attributes and `more`; `body` gets all of them by name."""
        annotations = {
            **dict.fromkeys(self.operator.inputs, self.trtp.TensorDesc),
            **dict.fromkeys(self.operator.attributes, _ATTRIBUTE),
            **more,
        }
        signature = inspect.Signature(
            [
                inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=kind)
                for name, kind in annotations.items()
            ],
            return_annotation=returned,
        )

        def function(*positional: Any, **named: Any) -> Any:
            try:
                given = signature.bind(*positional, **named).arguments
            except TypeError as error:
                raise EngineError(
                    f"a node '{self.name}' does not fit its plugin: {error}"
                ) from None
            return body(given)

        function.__signature__ = signature  # type: ignore[attr-defined]
        return function

    def _attributes(self, given: _Given) -> dict[str, int]:
        return {name: int(np.ravel(given[name])[0]) for name in self.operator.attributes}

    def _shapes(self, given: _Given) -> dict[str, list[Any]]:
        """Of the inputs: ints where sizes are known."""
        return {
            name: [
                size if size.is_fake or not size.is_constant else size.constant_value()
                for size in given[name].shape_expr
            ]
            for name in self.operator.inputs
        }

    def _dtype(self, given: _Given) -> Dtype:
        """Of the operator's maps; where it has none, any."""
        known: dict[Any, Dtype] = {self.trt.float16: "fp16", self.trt.float32: "fp32"}
        for name, kind in self.operator.inputs.items():
            if kind == "map":
                found = given[name].dtype
                if found not in known:
                    raise EngineError(f"'{self.name}' takes maps of fp16 and fp32, not of {found}")
                return known[found]
        return "fp32"

    def _type(self, kind: Kind, given: _Given) -> Any:
        """TensorRT's, of an output."""
        if kind == "list":
            return self.trt.int32
        return {"fp16": self.trt.float16, "fp32": self.trt.float32}[self._dtype(given)]
