"""A GPU as builds and engines use it: its name, memory, one stream, and graphs of what ran on it.

`Gpu` is what is asked for; `CudaGpu` does it through NVIDIA's binding of the CUDA runtime. No more
happens here than one call each, since none of it runs without a GPU.
"""

from __future__ import annotations

import ctypes
from importlib import import_module
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from engines.errors import EngineError, InvalidInput

Bytes = npt.NDArray[np.uint8]

_INSTALL = "pip install -c constraints.txt '.[gpu]'"
_CUDA = 13000
"""What drivers have to be for, as CUDA writes 13.0: that of the binding in constraints.txt."""


class Gpu(Protocol):
    """A device with one stream. Addresses are of its memory; what goes to the stream runs in order,
    and later than the call returns. Every method raises EngineError where the device refuses."""

    @property
    def name(self) -> str:
        """As NVIDIA calls it."""

    @property
    def capability(self) -> int:
        """Compute capability: 86 for 8.6."""

    @property
    def stream(self) -> int:
        """The stream's handle, for libraries that put work on it."""

    def use(self) -> None:
        """Make it the calling thread's device."""

    def allocate(self, num_bytes: int) -> int:
        """Memory of the device."""

    def free(self, address: int) -> None:
        """Give it back."""

    def host(self, num_bytes: int) -> Bytes:
        """Memory of this machine that does not move, so that copies need not wait."""

    def free_host(self, memory: Bytes) -> None:
        """Give it back; nobody may look at it any more."""

    def upload(self, address: int, memory: Bytes) -> None:
        """Put a copy to the device on the stream."""

    def download(self, memory: Bytes, address: int) -> None:
        """Put a copy from the device on the stream."""

    def wait(self) -> None:
        """Until all that is on the stream is done."""

    def begin_capture(self) -> None:
        """What goes to the stream from now on is remembered, and not run."""

    def end_capture(self) -> int:
        """A graph of what was remembered. After a fault the stream is as usual."""

    def launch(self, graph: int) -> None:
        """Put all of a graph on the stream."""

    def free_graph(self, graph: int) -> None:
        """Forget it."""

    def close(self) -> None:
        """Give the stream back, which is the last thing."""


class CudaGpu:
    """A `Gpu` of this machine, by its number among those that CUDA shows."""

    def __init__(self, device: int = 0) -> None:
        """Raises EngineError where there is no CUDA driver or binding, InvalidInput for a number
        that no device has."""
        try:
            self._cuda: Any = import_module("cuda.bindings.runtime")
        except ImportError as error:
            raise EngineError(
                f"CUDA's Python binding cannot be loaded ({error}); install it with: {_INSTALL}"
            ) from None
        count = self._count()
        if not 0 <= device < count:
            raise InvalidInput(f"there is no device {device}: CUDA shows {count}, from 0")
        self._device = device
        self.use()
        kind = self._cuda.cudaDeviceAttr
        major, minor = (
            self._call("cudaDeviceGetAttribute", each, device)
            for each in (
                kind.cudaDevAttrComputeCapabilityMajor,
                kind.cudaDevAttrComputeCapabilityMinor,
            )
        )
        self._capability = 10 * int(major) + int(minor)
        name = self._call("cudaGetDeviceProperties", device).name
        self._name = name.decode() if isinstance(name, bytes) else str(name)
        flag = self._cuda.cudaStreamNonBlocking
        self._stream = self._call("cudaStreamCreateWithFlags", flag)
        self._graphs: dict[int, Any] = {}

    @property
    def name(self) -> str:
        return self._name

    @property
    def capability(self) -> int:
        return self._capability

    @property
    def stream(self) -> int:
        return int(self._stream)

    def use(self) -> None:
        self._call("cudaSetDevice", self._device)

    def allocate(self, num_bytes: int) -> int:
        return int(self._call("cudaMalloc", num_bytes))

    def free(self, address: int) -> None:
        self._call("cudaFree", address)

    def host(self, num_bytes: int) -> Bytes:
        address = int(self._call("cudaMallocHost", num_bytes))
        return np.ctypeslib.as_array((ctypes.c_uint8 * num_bytes).from_address(address))

    def free_host(self, memory: Bytes) -> None:
        self._call("cudaFreeHost", memory.ctypes.data)

    def upload(self, address: int, memory: Bytes) -> None:
        self._copy(address, memory.ctypes.data, memory.nbytes, "cudaMemcpyHostToDevice")

    def download(self, memory: Bytes, address: int) -> None:
        self._copy(memory.ctypes.data, address, memory.nbytes, "cudaMemcpyDeviceToHost")

    def wait(self) -> None:
        self._call("cudaStreamSynchronize", self._stream)

    def begin_capture(self) -> None:
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self._stream, mode)

    def end_capture(self) -> int:
        graph = self._call("cudaStreamEndCapture", self._stream)
        try:
            made = self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)
        self._graphs[int(made)] = made
        return int(made)

    def launch(self, graph: int) -> None:
        self._call("cudaGraphLaunch", self._graphs[graph], self._stream)

    def free_graph(self, graph: int) -> None:
        self._call("cudaGraphExecDestroy", self._graphs.pop(graph))

    def close(self) -> None:
        self._call("cudaStreamDestroy", self._stream)

    def _copy(self, to: int, source: int, num_bytes: int, kind: str) -> None:
        direction = getattr(self._cuda.cudaMemcpyKind, kind)
        self._call("cudaMemcpyAsync", to, source, num_bytes, direction, self._stream)

    def _count(self) -> int:
        status, count = self._cuda.cudaGetDeviceCount()
        if status != self._cuda.cudaError_t.cudaSuccess:
            self._check_driver()
            raise EngineError(
                f"there is no CUDA driver with a GPU on this machine ({self._said(status)}); plans "
                "run, and those without --rtx are built, where there is one"
            )
        return int(count)

    def _check_driver(self) -> None:
        """Raise EngineError for a driver that is older than the binding. One that is missing has
        version 0, and the same status as an old one."""
        status, version = self._cuda.cudaDriverGetVersion()
        if status == self._cuda.cudaError_t.cudaSuccess and 0 < version < _CUDA:
            raise EngineError(
                f"the driver of this machine is for CUDA {version // 1000}.{version % 1000 // 10}, "
                f"too old for CUDA {_CUDA // 1000}: install driver 580 or newer"
            )

    def _call(self, name: str, *given: Any) -> Any:
        """What a function of CUDA returns besides its status."""
        status, *found = getattr(self._cuda, name)(*given)
        if status != self._cuda.cudaError_t.cudaSuccess:
            raise EngineError(f"{self._name_or_number()}: {name}: {self._said(status)}")
        return found[0] if found else None

    def _said(self, status: Any) -> str:
        text = self._cuda.cudaGetErrorString(status)[1]
        return text.decode() if isinstance(text, bytes) else str(text)

    def _name_or_number(self) -> str:
        return getattr(self, "_name", f"device {self._device}")
