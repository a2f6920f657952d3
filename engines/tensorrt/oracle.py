"""The ONNX files of a plan in ONNX Runtime on the CPU: what the plan has to answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.architecture import RegNet, ResNet
from engines.core import OperatingPoint, UInt8Array
from engines.detection.architecture import Detector
from engines.errors import EngineError
from engines.tensorrt.running import DECISIONS

_INSTALL = "pip install -c constraints.txt '.[gpu]'"

Array = npt.NDArray[Any]


class OnnxFile:
    """Answers what a file means, slowly: everything is computed and then masked."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        """threads: 0 leaves the choice. Raises EngineError without ONNX Runtime, or where it does
        not take the file."""
        try:
            runtime: Any = import_module("onnxruntime")
        except ImportError as error:
            raise EngineError(
                f"ONNX Runtime cannot be loaded ({error}); install it with: {_INSTALL}"
            ) from None
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        try:
            self._session = runtime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise EngineError(f"ONNX Runtime does not take '{path}': {error}") from None
        self._outputs = [each.name for each in self._session.get_outputs()]

    def run(self, given: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name, of inputs by name."""
        return dict(zip(self._outputs, self._session.run(None, dict(given)), strict=True))


class OnnxRuntime(OnnxFile):
    """The network of a plan."""

    def __init__(
        self,
        path: Path,
        net: ResNet | RegNet,
        threads: int = 0,
        *,
        detector: Detector | None = None,
    ) -> None:
        """detector: of a network that finds objects. Raises what `OnnxFile` raises."""
        super().__init__(path, threads)
        self._net, self._detector = net, detector

    def answer(self, images: UInt8Array, points: Sequence[OperatingPoint]) -> dict[str, Array]:
        """Outputs by name, of points that do not glance; `decisions`, bool (N, units), always."""
        from engines.export.onnx.feeds import feeds

        inputs = feeds(self._net, images, points, self._detector)
        found = self.run({name: np.asarray(each) for name, each in inputs.items()})
        found.setdefault(DECISIONS, np.ones((len(images), 0), np.bool_))
        return found
