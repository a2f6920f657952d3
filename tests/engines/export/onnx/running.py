"""Exported networks in ONNX Runtime. Import after importorskip of onnx and onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from engines.bundle import Bundle
from engines.core import OperatingPoint, UInt8Array
from engines.export.onnx.feeds import feeds
from engines.export.onnx.graph import Precision
from engines.export.onnx.run import onnx_model


class Network:
    """Runs on the CPU, on one thread."""

    def __init__(self, model: onnx.ModelProto) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self.outputs = [output.name for output in self._session.get_outputs()]

    def run(self, **inputs: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        """Outputs by name."""
        return dict(zip(self.outputs, self._session.run(None, inputs), strict=True))


class BundleNetwork(Network):
    """A bundle's network as it is exported."""

    def __init__(
        self, bundle: Bundle, precision: Precision = "fp32", *, one_image: bool = False
    ) -> None:
        self._manifest = bundle.manifest
        super().__init__(onnx_model(bundle, precision, one_image=one_image))

    def answer(
        self, images: UInt8Array, points: Sequence[OperatingPoint]
    ) -> dict[str, npt.NDArray[Any]]:
        """Outputs for one point per image."""
        manifest = self._manifest
        inputs = feeds(manifest.architecture, images, points, manifest.detector)
        return self.run(**{name: np.asarray(value) for name, value in inputs.items()})
