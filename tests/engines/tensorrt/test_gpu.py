"""CUDA through its binding, where there is no driver: what is said then. A GPU tests the rest."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from engines.errors import EngineError, InvalidInput
from engines.tensorrt.gpu import CudaGpu

SUCCESS, MISSING, FAULT = 0, 35, 700


def cuda(status: int, count: int) -> Any:
    """The binding's module as far as a device is opened with it."""
    said = {MISSING: b"driver version is insufficient", FAULT: b"an illegal memory access"}
    return SimpleNamespace(
        cudaError_t=SimpleNamespace(cudaSuccess=SUCCESS),
        cudaGetDeviceCount=lambda: (status, count),
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


@pytest.mark.parametrize("device", [-1, 2])
def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch, device: int) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda(SUCCESS, 2))
    with pytest.raises(InvalidInput, match=f"no device {device}: CUDA shows 2, from 0"):
        CudaGpu(device)


def test_a_fault_names_the_call_and_what_cuda_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda(SUCCESS, 1))
    with pytest.raises(EngineError, match="device 0: cudaSetDevice: an illegal memory access"):
        CudaGpu()


def test_the_binding_has_every_name_that_is_used() -> None:
    binding = pytest.importorskip("cuda.bindings.runtime", reason="pip install cuda-bindings")
    for name in (
        *("cudaGetDeviceCount", "cudaSetDevice", "cudaDeviceGetAttribute", "cudaGetErrorString"),
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
