"""A GPU that is not there, for commands that load plans."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from engines.tensorrt import loading
from engines.tensorrt.libraries import Library, Said
from engines.tensorrt.plans import Bucket

VERSION = "10.16.1.11"


def buckets(image_size: int, most: int = 2) -> tuple[Bucket, ...]:
    return tuple(Bucket(image_size=image_size, images=i + 1, profile=i) for i in range(most))


def scripted_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scripted one, with a TensorRT that runs ONNX files of 32 px in batches of 1 and 2."""
    pytest.importorskip("onnxruntime")
    from tests.engines.tensorrt.scripted import ScriptedGpu, ScriptedNetwork

    monkeypatch.setattr(loading, "CudaGpu", lambda _device=0: ScriptedGpu("RTX 3090", 86))
    monkeypatch.setattr(
        loading,
        "TensorRtNetwork",
        lambda _library, program, gpu: ScriptedNetwork(gpu, program, [[(1, 32)], [(2, 32)]]),
    )
    monkeypatch.setattr(
        loading,
        "library",
        lambda name: Library(
            name,
            SimpleNamespace(__version__=VERSION, init_libnvinfer_plugins=lambda *_given: True),
            None,
            Said(),
        ),
    )
