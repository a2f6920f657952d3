"""A plan's program on a device: its tensors, and execution contexts with shapes and addresses.

`Network` and `Context` are what an engine asks for; the classes below them do it with TensorRT or
TensorRT-RTX. No more happens here than their calls, since none of it runs without a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, Protocol

import numpy as np

from engines.errors import EngineError
from engines.tensorrt.buckets import TensorSpec
from engines.tensorrt.gpu import Gpu
from engines.tensorrt.libraries import Library


class Context(Protocol):
    """An execution context of one optimisation profile; its shapes never change once they are
    set, because TensorRT leaks a plugin's module at every change (NVIDIA/TensorRT#4849)."""

    def shape(self, inputs: Mapping[str, tuple[int, ...]]) -> Mapping[str, TensorSpec]:
        """Set the inputs' shapes; all tensors, inputs first. Raises EngineError."""

    def place(self, addresses: Mapping[str, int]) -> None:
        """Say where all tensors lie on the device. Raises EngineError."""

    def enqueue(self) -> None:
        """Put the network on the device's stream. Raises EngineError."""

    def close(self) -> None:
        """Give back what it holds on the device."""


class Network(Protocol):
    """A program that was loaded."""

    @property
    def inputs(self) -> Sequence[str]:
        """Their names."""

    def context(self, profile: int) -> Context:
        """A context of that optimisation profile. Raises EngineError."""

    def close(self) -> None:
        """After its contexts."""


class TensorRtNetwork:
    """A `Network` of a library that is installed."""

    def __init__(self, library: Library, program: bytes, gpu: Gpu) -> None:
        """Raises EngineError where the library refuses the program."""
        self._library, self._gpu = library, gpu
        library.said.faults.clear()
        try:
            self._runtime: Any = library.module.Runtime(library.logger)
        except (RuntimeError, TypeError) as error:
            raise EngineError(f"{library.title} does not start: {error}") from None
        self._engine: Any = self._runtime.deserialize_cuda_engine(program)
        if self._engine is None:
            raise EngineError(
                f"{library.title} {library.version} refuses the plan: {library.said.taken()}"
            )
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        kind = library.module.TensorIOMode.INPUT
        self.inputs = [name for name in names if self._engine.get_tensor_mode(name) == kind]
        self._outputs = [name for name in names if name not in self.inputs]

    def context(self, profile: int) -> TensorRtContext:
        return TensorRtContext(
            self._library, self._engine, self._gpu, profile, [*self.inputs, *self._outputs]
        )

    def close(self) -> None:
        self._engine = self._runtime = None


class TensorRtContext:
    """A `Context` of a library that is installed."""

    def __init__(
        self, library: Library, engine: Any, gpu: Gpu, profile: int, names: Sequence[str]
    ) -> None:
        self._library, self._gpu, self._names = library, gpu, names
        # Else every context has memory for the largest of all profiles.
        strategy = library.module.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE
        self._context: Any = engine.create_execution_context(strategy)
        if self._context is None:
            self._refused("makes no execution context")
        if not self._context.set_optimization_profile_async(profile, gpu.stream):
            self._refused(f"has no optimisation profile {profile}")
        gpu.wait()

    def shape(self, inputs: Mapping[str, tuple[int, ...]]) -> Mapping[str, TensorSpec]:
        context = self._context
        for name, shape in inputs.items():
            if not context.set_input_shape(name, shape):
                self._refused(f"refuses {name} of shape {shape}")
        try:
            left = context.infer_shapes()
        except RuntimeError:
            self._refused(f"cannot infer shapes from {dict(inputs)}")
        if left:
            self._refused(f"does not know the shapes of {', '.join(left)}")
        nptype = self._library.module.nptype
        return {
            name: TensorSpec(
                np.dtype(nptype(context.engine.get_tensor_dtype(name))),
                tuple(context.get_tensor_shape(name)),
            )
            for name in self._names
        }

    def place(self, addresses: Mapping[str, int]) -> None:
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                self._refused(f"refuses an address for {name}")

    def enqueue(self) -> None:
        if not self._context.execute_async_v3(self._gpu.stream):
            self._refused("does not run")

    def close(self) -> None:
        self._context = None

    def _refused(self, what: str) -> NoReturn:
        raise EngineError(f"{self._library.title} {what}: {self._library.said.taken()}")
