"""Tells TensorRT of every operator: its outputs, the layouts of its tensors, its kernel as PTX.

TensorRT asks while it builds a plan; what is raised then ends up in its log, with our message.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, cast

import numpy as np

from engines.errors import EngineError, InvalidInput
from engines.tensorrt.plugins.operators import NAMESPACE, OPERATORS, Kind, Operator
from engines.tensorrt.spec import Dtype, KernelSpec

OLDEST = (10, 10)
"""TensorRT that takes kernels ahead of time and finds a plugin by the domain of its node."""

# An attribute is an array of one number: TensorRT 10.16 cannot make an int of what its parser
# hands over where NumPy is 2.4 or newer, and an array works everywhere.
_ATTRIBUTE = np.ndarray[Any, np.dtype[np.int32]]

_NAMES: Mapping[Dtype, str] = {"fp16": "FP16", "fp32": "FP32"}
# Channels of a pixel side by side, as the kernels have them.
_LAYOUTS: Mapping[Dtype, str] = {"fp16": "HWC8", "fp32": "HWC"}

# The capability of this process's plugins, if any: TensorRT takes a name once.
_REGISTERED: list[int] = []


def register(sm: int) -> None:
    """Register all plugins in this process, with kernels for compute capability `sm`, such as 86.

    The same again is nothing. Raises InvalidInput for a capability that kernels are not compiled
    for; EngineError where TensorRT or Triton is missing, too old or interprets, or where plugins
    were registered for another capability.
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


def _tensorrt() -> tuple[ModuleType, ModuleType]:
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
            f"TensorRT {trt.__version__} is too old for plugins ahead of time: "
            f"{'.'.join(map(str, OLDEST))} or newer is needed"
        )
    import tensorrt.plugin as trtp

    return trt, trtp


def _compiling() -> ModuleType:
    try:
        import triton
    except ImportError as error:
        raise EngineError(
            f"the kernels need Triton to be compiled ({error}): pip install '.[tensorrt]'"
        ) from None
    if triton.knobs.runtime.interpret:
        raise EngineError(
            "Triton interprets kernels here and compiles none: unset TRITON_INTERPRET"
        )
    from engines.tensorrt import compiling

    return compiling


@cache
def _compiled(spec: KernelSpec, sm: int) -> Any:
    """A kernel that fits; EngineError for one that does not."""
    from engines.tensorrt.compile_matrix import Row

    made = _compiling().compile_kernel(spec, sm)
    faults = Row.of(str(spec), sm, made).faults
    if faults:
        raise EngineError("; ".join(faults))
    return made


@dataclass(frozen=True)
class _Plugin:
    """The three functions that TensorRT calls for an operator, with signatures that it reads."""

    name: str
    operator: Operator
    sm: int
    trt: ModuleType
    trtp: ModuleType

    def description(self) -> Callable[..., Any]:
        """Outputs. Called with sizes that are not known yet, too."""

        def describe(given: Mapping[str, Any]) -> Any:
            shapes = self.operator.output_shapes(
                _shapes(self.operator, given), self._numbers(given)
            )
            types = [self._type(kind, given) for kind in self.operator.outputs.values()]
            found = tuple(map(self.trtp.from_shape_expr, shapes, types))
            return found[0] if len(found) == 1 else found

        descriptions = (self.trtp.TensorDesc,) * len(self.operator.outputs)
        returned = descriptions[0] if len(descriptions) == 1 else tuple[descriptions]
        return self._with_signature(describe, {}, returned)

    def layouts(self) -> Callable[..., Any]:
        """Types and layouts; there is one of each."""

        def choose(given: Mapping[str, Any]) -> Any:
            dtype = self._dtype(given)
            types: Mapping[Kind, str] = {
                "map": _NAMES[dtype], "weight": _NAMES[dtype], "list": "INT32", "number": "FP32"
            }  # fmt: skip
            kinds = [*self.operator.inputs.values(), *self.operator.outputs.values()]
            return [
                self.trtp.AutoTuneCombination(
                    ", ".join(types[kind] for kind in kinds),
                    ", ".join(_LAYOUTS[dtype] if kind == "map" else "LINEAR" for kind in kinds),
                )
            ]

        return self._with_signature(
            choose, {"outputs": self._outputs()}, list[self.trtp.AutoTuneCombination]
        )

    def kernel(self) -> Callable[..., Any]:
        """Entry, PTX, launch, and the numbers between inputs and outputs."""

        def implement(given: Mapping[str, Any]) -> Any:
            shapes = _shapes(self.operator, given)
            launch = self.operator.launch(self._dtype(given), shapes, self._numbers(given), self.sm)
            made = _compiled(launch.spec, self.sm)
            trtp = self.trtp
            program = trtp.KernelLaunchParams(
                *launch.grid, block_x=made.threads, shared_mem=made.shared_bytes
            )
            numbers = trtp.SymIntExprs.from_tuple([trtp.SymInt32(each) for each in launch.numbers])
            return made.entry, made.ptx, program, numbers

        trtp = self.trtp
        code = str | bytes
        returned = tuple[code, code, trtp.KernelLaunchParams, trtp.SymIntExprs]
        return self._with_signature(
            implement, {"outputs": self._outputs(), "tactic": int}, returned
        )

    def _outputs(self) -> Any:
        return tuple[(self.trtp.TensorDesc,) * len(self.operator.outputs)]

    def _with_signature(
        self, body: Callable[[Mapping[str, Any]], Any], more: Mapping[str, Any], returned: Any
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

    def _numbers(self, given: Mapping[str, Any]) -> dict[str, int]:
        """Attributes as ints."""
        return {name: int(np.ravel(given[name])[0]) for name in self.operator.attributes}

    def _dtype(self, given: Mapping[str, Any]) -> Dtype:
        """Of the operator's maps; where it has none, any."""
        for name, kind in self.operator.inputs.items():
            if kind == "map":
                found = given[name].dtype
                for dtype, known in (("fp16", self.trt.float16), ("fp32", self.trt.float32)):
                    if found == known:
                        return cast(Dtype, dtype)
                raise EngineError(f"'{self.name}' takes maps of fp16 and fp32, not of {found}")
        return "fp32"

    def _type(self, kind: Kind, given: Mapping[str, Any]) -> Any:
        if kind == "list":
            return self.trt.int32
        return self.trt.float16 if self._dtype(given) == "fp16" else self.trt.float32


def _shapes(operator: Operator, given: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Of the inputs: ints where they are known."""
    return {
        name: [
            size if size.is_fake or not size.is_constant else size.constant_value()
            for size in given[name].shape_expr
        ]
        for name in operator.inputs
    }
