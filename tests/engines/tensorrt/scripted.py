"""A GPU that is not there: CUDA's rules, kept strictly, and numbers from ONNX Runtime.

What goes to the stream runs when somebody waits and not before; memory holds garbage until it is
written; a graph runs what was captured, at the addresses of then. Whoever breaks a rule gets an
AssertionError, which no code here handles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from engines.detection.architecture import STRIDES
from engines.errors import EngineError
from engines.tensorrt.buckets import ALIGNMENT, TensorSpec
from engines.tensorrt.gpu import Bytes

_GARBAGE = 0xA5
_TYPES = {
    "tensor(uint8)": np.uint8,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


@cache
def session_of(onnx: bytes) -> Any:
    """Runs a file on the CPU, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])


class ScriptedGpu:
    """A device. captures: whether its driver can capture. broken: what every wait raises."""

    def __init__(
        self, name: str = "RTX 3090", capability: int = 86, *, captures: bool = True
    ) -> None:
        self.name, self.capability, self.stream = name, capability, 7
        self.captures = captures
        self.broken: str | None = None
        self.closed = False
        self.allocations = 0
        self.launches = 0
        self.captures_begun = 0
        self._memory: dict[int, Bytes] = {}
        self._host: dict[int, Bytes] = {}
        self._queue: list[Callable[[], None]] = []
        self._captured: list[Callable[[], None]] | None = None
        self._graphs: dict[int, list[Callable[[], None]]] = {}
        self._next = ALIGNMENT

    @property
    def holds_nothing(self) -> bool:
        return not (self._memory or self._host or self._graphs or self._queue)

    @property
    def capturing(self) -> bool:
        return self._captured is not None

    def use(self) -> None:
        assert not self.closed

    def allocate(self, num_bytes: int) -> int:
        assert not self.capturing, "allocates while it captures"
        address, self._next = self._next, self._next + 2 * num_bytes + ALIGNMENT
        self._next += -self._next % ALIGNMENT
        self._memory[address] = np.full(num_bytes, _GARBAGE, np.uint8)
        self.allocations += 1
        return address

    def free(self, address: int) -> None:
        del self._memory[address]

    def host(self, num_bytes: int) -> Bytes:
        memory = np.full(num_bytes, _GARBAGE, np.uint8)
        self._host[memory.ctypes.data] = memory
        return memory

    def free_host(self, memory: Bytes) -> None:
        del self._host[memory.ctypes.data]

    def at(self, address: int, num_bytes: int) -> Bytes:
        """What lies there."""
        for begin, memory in self._memory.items():
            if begin <= address and address + num_bytes <= begin + len(memory):
                return memory[address - begin :][:num_bytes]
        raise AssertionError(f"no memory at {address} for {num_bytes} bytes")

    def upload(self, address: int, memory: Bytes) -> None:
        def copy() -> None:
            assert memory.ctypes.data in self._host
            self.at(address, memory.nbytes)[:] = memory

        self.put(copy)

    def download(self, memory: Bytes, address: int) -> None:
        def copy() -> None:
            assert memory.ctypes.data in self._host
            memory[:] = self.at(address, memory.nbytes)

        self.put(copy)

    def put(self, work: Callable[[], None]) -> None:
        """On the stream, or into what is captured."""
        assert not self.closed
        (self._queue if self._captured is None else self._captured).append(work)

    def wait(self) -> None:
        assert not self.capturing, "waits while it captures"
        if self.broken is not None:
            self._queue.clear()
            raise EngineError(self.broken)
        queue, self._queue = self._queue, []
        for work in queue:
            work()

    def begin_capture(self) -> None:
        assert not self._queue, "captures with work on the stream"
        self._captured = []
        self.captures_begun += 1

    def end_capture(self) -> int:
        assert self._captured is not None
        graph, self._captured = self._captured, None
        if not self.captures:
            raise EngineError("this driver captures nothing")
        self._graphs[len(self._graphs) + 1] = graph
        return len(self._graphs)

    def launch(self, graph: int) -> None:
        self.launches += 1
        self._queue.extend(self._graphs[graph])

    def free_graph(self, graph: int) -> None:
        del self._graphs[graph]

    def close(self) -> None:
        assert not self.closed
        self.closed = True


class ScriptedNetwork:
    """A plan whose answers are those of its ONNX file. buckets: (images, size) per profile.

    seen: inputs of every call that ran. capturable: whether its context may be captured.
    """

    def __init__(
        self,
        gpu: ScriptedGpu,
        onnx: bytes,
        buckets: Sequence[Sequence[tuple[int, int]]],
        *,
        capturable: bool = True,
    ) -> None:
        self.session = session_of(onnx)
        self.gpu, self.buckets, self.capturable = gpu, buckets, capturable
        self.inputs = [each.name for each in self.session.get_inputs()]
        self.outputs = [each.name for each in self.session.get_outputs()]
        self.seen: list[dict[str, npt.NDArray[Any]]] = []
        self.contexts: list[ScriptedContext] = []
        self.closed = False

    def context(self, profile: int) -> ScriptedContext:
        self.contexts.append(ScriptedContext(self, self.buckets[profile]))
        return self.contexts[-1]

    def close(self) -> None:
        assert all(context.closed for context in self.contexts)
        self.closed = True


class ScriptedContext:
    """An execution context: shapes once, then addresses, then calls."""

    def __init__(self, network: ScriptedNetwork, allowed: Sequence[tuple[int, int]]) -> None:
        self._network, self._allowed = network, allowed
        self._tensors: dict[str, TensorSpec] = {}
        self._addresses: dict[str, int] = {}
        self._ran = False
        self.closed = False

    def shape(self, inputs: Mapping[str, tuple[int, ...]]) -> Mapping[str, TensorSpec]:
        assert not self._tensors, "shapes change in a context, which leaks a module"
        assert set(inputs) == set(self._network.inputs)
        # A mask head sees the images' number and their finest map.
        seen = inputs["image"] if "image" in inputs else inputs["features_0"][::2]
        finest = 1 if "image" in inputs else STRIDES[0]
        if (seen[0], seen[1] * finest) not in self._allowed:
            raise EngineError(f"refuses image of shape {seen}")
        session = self._network.session
        types = {each.name: np.dtype(_TYPES[each.type]) for each in session.get_inputs()}
        given = {name: np.zeros(shape, types[name]) for name, shape in inputs.items()}
        found = dict(zip(self._network.outputs, session.run(None, given), strict=True))
        self._tensors = {
            name: TensorSpec(array.dtype, array.shape) for name, array in {**given, **found}.items()
        }
        return dict(self._tensors)

    def place(self, addresses: Mapping[str, int]) -> None:
        assert set(addresses) == set(self._tensors)
        for name, address in addresses.items():
            assert address % ALIGNMENT == 0
            self._network.gpu.at(address, self._tensors[name].num_bytes)
        self._addresses = dict(addresses)

    def enqueue(self) -> None:
        assert not self.closed
        assert self._addresses
        gpu = self._network.gpu
        if gpu.capturing:
            assert self._ran, "the first call may allocate: it cannot be captured"
            if not self._network.capturable:
                raise EngineError("an operation is not permitted while a stream is captured")
        self._ran = True
        gpu.put(self._run)

    def close(self) -> None:
        self.closed = True

    def _run(self) -> None:
        network = self._network
        given = {name: self._there(name).copy() for name in network.inputs}
        network.seen.append(given)
        for name, array in zip(network.outputs, network.session.run(None, given), strict=True):
            self._there(name)[...] = array

    def _there(self, name: str) -> npt.NDArray[Any]:
        tensor = self._tensors[name]
        memory = self._network.gpu.at(self._addresses[name], tensor.num_bytes)
        return memory.view(tensor.dtype).reshape(tensor.shape)
