"""A program through TensorRT's runtime, which is scripted: what it is asked, and its refusals."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from engines.errors import EngineError
from engines.tensorrt.libraries import Library, Said
from engines.tensorrt.loaded import TensorRtNetwork
from tests.engines.tensorrt.scripted import ScriptedGpu

SHAPES = {"image": (2, 8, 8, 3), "probabilities": (2, 4), "decisions": (2, 9)}
TYPES = {"image": "UINT8", "probabilities": "FLOAT", "decisions": "BOOL"}
NUMPY = {"UINT8": np.uint8, "FLOAT": np.float32, "BOOL": np.bool_}


class Runtime:
    """TensorRT's runtime, engine and execution context in one. refuses: names of calls that fail.
    asked: all calls."""

    def __init__(self, *refuses: str) -> None:
        self.refuses, self.said = refuses, Said()
        self.asked: list[tuple[Any, ...]] = []
        self.num_io_tensors = len(SHAPES)
        self.engine = self

    @property
    def library(self) -> Library:
        names = SimpleNamespace(
            __version__="10.16.1.11",
            Runtime=self.started,
            TensorIOMode=SimpleNamespace(INPUT="in"),
            ExecutionContextAllocationStrategy=SimpleNamespace(ON_PROFILE_CHANGE="by profile"),
            nptype=NUMPY.__getitem__,
        )
        return Library("tensorrt", names, "logger", self.said)

    def started(self, logger: str) -> Runtime:
        assert logger == "logger"
        if "Runtime" in self.refuses:
            raise TypeError("factory function returned nullptr")
        return self

    def answer(self, name: str, *given: Any) -> bool:
        self.asked.append((name, *given))
        if name in self.refuses:
            self.said.faults.append(f"because of {name}")
        return name not in self.refuses

    def deserialize_cuda_engine(self, program: bytes) -> Any:
        return self if self.answer("deserialize_cuda_engine", program) else None

    def create_execution_context(self, strategy: str) -> Any:
        return self if self.answer("create_execution_context", strategy) else None

    def get_tensor_name(self, i: int) -> str:
        return list(SHAPES)[i]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name == "image" else "out"

    def get_tensor_dtype(self, name: str) -> str:
        return TYPES[name]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return SHAPES[name]

    def infer_shapes(self) -> list[str]:
        if "inference" in self.refuses:
            raise RuntimeError("shape inference failed")
        return [] if self.answer("infer_shapes") else ["image"]

    def __getattr__(self, name: str) -> Callable[..., bool]:
        return lambda *given: self.answer(name, *given)


def run(runtime: Runtime) -> None:
    """All that a lane asks for."""
    network = TensorRtNetwork(runtime.library, b"program", ScriptedGpu())
    assert list(network.inputs) == ["image"]
    context = network.context(3)
    tensors = context.shape({"image": SHAPES["image"]})
    assert {name: (each.dtype, each.shape) for name, each in tensors.items()} == {
        name: (np.dtype(NUMPY[TYPES[name]]), shape) for name, shape in SHAPES.items()
    }
    context.place({"image": 256, "probabilities": 1024})
    context.enqueue()
    context.close()
    network.close()


def test_a_program_runs_at_the_shapes_and_addresses_of_its_profile() -> None:
    runtime = Runtime()
    run(runtime)
    stream = ScriptedGpu().stream
    assert runtime.asked == [
        ("deserialize_cuda_engine", b"program"),
        ("create_execution_context", "by profile"),
        ("set_optimization_profile_async", 3, stream),
        ("set_input_shape", "image", SHAPES["image"]),
        ("infer_shapes",),
        ("set_tensor_address", "image", 256),
        ("set_tensor_address", "probabilities", 1024),
        ("execute_async_v3", stream),
    ]


@pytest.mark.parametrize(
    ("refused", "says"),
    [
        ("Runtime", "TensorRT does not start: factory function returned nullptr"),
        ("deserialize_cuda_engine", "TensorRT 10.16.1.11 refuses the plan"),
        ("create_execution_context", "makes no execution context"),
        ("set_optimization_profile_async", "has no optimisation profile 3"),
        ("set_input_shape", r"refuses image of shape \(2, 8, 8, 3\)"),
        ("infer_shapes", "does not know the shapes of image"),
        ("inference", "cannot infer shapes"),
        ("set_tensor_address", "refuses an address for image"),
        ("execute_async_v3", "does not run"),
    ],
)
def test_what_is_refused_is_told_in_its_words(refused: str, says: str) -> None:
    with pytest.raises(EngineError, match=says) as caught:
        run(Runtime(refused))
    if refused not in ("Runtime", "inference"):
        assert str(caught.value).endswith(f": because of {refused}")
