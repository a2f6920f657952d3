"""CUDA through its binding, where there is no driver: what is said then. A GPU tests the rest."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engines.errors import EngineError, InvalidInput
from engines.tensorrt.gpu import CudaGpu

SUCCESS, MISSING, FAULT = 0, 35, 700


def cuda(status: int, count: int, driver: int = 0) -> Any:
    """The binding's module as far as a device is opened with it. driver: the CUDA it is for."""
    said = {MISSING: b"driver version is insufficient", FAULT: b"an illegal memory access"}
    return SimpleNamespace(
        cudaError_t=SimpleNamespace(cudaSuccess=SUCCESS),
        cudaGetDeviceCount=lambda: (status, count),
        cudaDriverGetVersion=lambda: (SUCCESS, driver),
        cudaGetErrorString=lambda which: (SUCCESS, said[which]),
        cudaSetDevice=lambda device: (FAULT,),
    )


def test_without_a_binding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(EngineError, match=r"CUDA's Python binding .*'\.\[gpu\]'"):
        CudaGpu()


def test_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda(MISSING, 0))
    with pytest.raises(EngineError, match=r"there is no CUDA driver .*version is insufficient"):
        CudaGpu()


def test_a_driver_that_is_too_old_is_told_from_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda(MISSING, 0, driver=12040))
    with pytest.raises(EngineError, match=r"is for CUDA 12\.4, too old for CUDA 13: .* 580 or"):
        CudaGpu()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda(FAULT, 0, driver=13000))
    with pytest.raises(EngineError, match=r"there is no CUDA driver .*illegal memory"):
        CudaGpu()


@pytest.mark.parametrize("device", [-1, 2])
def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch, device: int) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda(SUCCESS, 2))
    with pytest.raises(InvalidInput, match=f"no device {device}: CUDA shows 2, from 0"):
        CudaGpu(device)


def test_a_fault_names_the_call_and_what_cuda_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda(SUCCESS, 1))
    with pytest.raises(EngineError, match="device 0: cudaSetDevice: an illegal memory access"):
        CudaGpu()


CONSTANTS: dict[str, Any] = {
    "cudaError_t": SimpleNamespace(cudaSuccess=SUCCESS),
    "cudaMemcpyKind": SimpleNamespace(cudaMemcpyHostToDevice="in", cudaMemcpyDeviceToHost="out"),
    "cudaStreamCaptureMode": SimpleNamespace(cudaStreamCaptureModeThreadLocal="mine"),
    "cudaDeviceAttr": SimpleNamespace(
        cudaDevAttrComputeCapabilityMajor=8, cudaDevAttrComputeCapabilityMinor=6
    ),
    "cudaStreamNonBlocking": 1,
}


class Binding:
    """The binding of a machine with one GPU: keeps what it is asked; answers are by name."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.memory = np.zeros(8, np.uint8)
        self.answers: dict[str, Any] = {
            "cudaGetDeviceCount": 1,
            "cudaGetDeviceProperties": SimpleNamespace(name=b"RTX 3090"),
            "cudaStreamCreateWithFlags": 70,
            "cudaMalloc": 4096,
            "cudaMallocHost": self.memory.ctypes.data,
            "cudaStreamEndCapture": 90,
            "cudaGraphInstantiate": 91,
        }

    def __getattr__(self, name: str) -> Any:
        if name in CONSTANTS:
            return CONSTANTS[name]

        def call(*given: Any) -> tuple[Any, ...]:
            self.asked.append((name, *given))
            if name == "cudaDeviceGetAttribute":
                return SUCCESS, given[0]
            return (SUCCESS, self.answers[name]) if name in self.answers else (SUCCESS,)

        return call


def test_every_method_is_the_call_that_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    binding = Binding()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", binding)
    gpu = CudaGpu()
    assert (gpu.name, gpu.capability, gpu.stream) == ("RTX 3090", 86, 70)
    binding.asked.clear()
    address, memory = gpu.allocate(8), gpu.host(8)
    memory[:] = 7
    assert binding.memory.tolist() == [7] * 8, "it is that memory"
    gpu.upload(address, memory)
    gpu.download(memory[4:], address + 4)
    gpu.wait()
    gpu.begin_capture()
    graph = gpu.end_capture()
    gpu.launch(graph)
    gpu.free_graph(graph)
    gpu.free(address)
    gpu.free_host(memory)
    gpu.close()
    here = binding.memory.ctypes.data
    assert binding.asked == [
        ("cudaMalloc", 8),
        ("cudaMallocHost", 8),
        ("cudaMemcpyAsync", 4096, here, 8, "in", 70),
        ("cudaMemcpyAsync", here + 4, 4100, 4, "out", 70),
        ("cudaStreamSynchronize", 70),
        ("cudaStreamBeginCapture", 70, "mine"),
        ("cudaStreamEndCapture", 70),
        ("cudaGraphInstantiate", 90, 0),
        ("cudaGraphDestroy", 90),
        ("cudaGraphLaunch", 91, 70),
        ("cudaGraphExecDestroy", 91),
        ("cudaFree", 4096),
        ("cudaFreeHost", here),
        ("cudaStreamDestroy", 70),
    ]


def test_the_binding_has_every_name_that_is_used() -> None:
    binding = pytest.importorskip("cuda.bindings.runtime", reason="pip install cuda-bindings")
    for name in (
        *(
            "cudaGetDeviceCount",
            "cudaDriverGetVersion",
            "cudaSetDevice",
            "cudaDeviceGetAttribute",
            "cudaGetErrorString",
        ),
        *("cudaGetDeviceProperties", "cudaStreamCreateWithFlags", "cudaStreamNonBlocking"),
        *("cudaMalloc", "cudaFree", "cudaMallocHost", "cudaFreeHost", "cudaMemcpyAsync"),
        *("cudaStreamSynchronize", "cudaStreamBeginCapture", "cudaStreamEndCapture"),
        *("cudaGraphInstantiate", "cudaGraphDestroy", "cudaGraphLaunch", "cudaGraphExecDestroy"),
        "cudaStreamDestroy",
    ):
        assert hasattr(binding, name), name
    assert binding.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    assert binding.cudaMemcpyKind.cudaMemcpyHostToDevice
    assert binding.cudaMemcpyKind.cudaMemcpyDeviceToHost
    assert binding.cudaDeviceAttr.cudaDevAttrComputeCapabilityMajor
    assert binding.cudaDeviceAttr.cudaDevAttrComputeCapabilityMinor
    assert hasattr(binding.cudaDeviceProp(), "name")
