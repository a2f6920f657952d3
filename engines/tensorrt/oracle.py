"""The ONNX file of a plan in ONNX Runtime on the CPU: what the plan has to answer."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.architecture import RegNet, ResNet
from engines.core import OperatingPoint, UInt8Array
from engines.errors import EngineError
from engines.tensorrt.engine import DECISIONS, PROBABILITIES

_INSTALL = "pip install -c constraints.txt '.[gpu]'"


class OnnxRuntime:
    """Answers what a file means, slowly: everything is computed and then masked."""

    def __init__(self, path: Path, net: ResNet | RegNet, threads: int = 0) -> None:
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
        self._net = net

    def answer(
        self, images: UInt8Array, points: Sequence[OperatingPoint]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Probabilities (N, classes) and decisions (N, units) of points that do not glance."""
        from engines.export.onnx.feeds import feeds

        names = [PROBABILITIES, DECISIONS] if self._net.maskers else [PROBABILITIES]
        given = {name: np.asarray(each) for name, each in feeds(self._net, images, points).items()}
        found = self._session.run(names, given)
        decisions = found[1] if self._net.maskers else np.ones((len(images), 0), np.bool_)
        return np.asarray(found[0], np.float32), np.asarray(decisions, np.bool_)
