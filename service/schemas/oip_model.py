"""The Open Inference Protocol v2: what is said about the server and its models."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from service.executor import Model
from service.schemas.oip import EXPLANATION, IMAGE, LABEL, POINT, PROBABILITIES, Form

MODEL_VERSION = "1"
"""Of every model: another version of one is served under another name."""

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
)
"""Shared memory, tracing and logging answer too, but have nothing to offer."""


def server_metadata() -> dict[str, Any]:
    """Name, version and extensions."""
    return {
        "name": "laudserve",
        "version": version("laudserve"),
        "extensions": EXTENSIONS,
    }


def model_metadata(model: Model) -> dict[str, Any]:
    """Inputs and outputs, as load generators need them: they send random data for every input that
    is named here, optional or not. So `image_bytes`, which replaces `image`, is not."""
    size, classes = model.image_size, len(model.manifest.labels)
    return {
        "name": model.name,
        "versions": [MODEL_VERSION],
        "platform": _platform(model),
        "inputs": [{"name": IMAGE, "datatype": "UINT8", "shape": [-1, size, size, 3]}],
        "outputs": [
            {"name": PROBABILITIES, "datatype": "FP32", "shape": [-1, classes]},
            {"name": LABEL, "datatype": "BYTES", "shape": [-1]},
            {"name": POINT, "datatype": "BYTES", "shape": [-1]},
        ],
    }


def model_config(model: Model, max_images: int) -> dict[str, Any]:
    """The part of Triton's model configuration that clients look at.

    max_images: in one request. That batches form by themselves is `dynamic_batching`; what the
    inputs and outputs cannot say is in `parameters`.
    """
    size, classes = model.image_size, len(model.manifest.labels)
    notes = {
        "inputs": Form(size, max_images).text,
        "operating_points": ", ".join(model.point_names),
        "optional_outputs": EXPLANATION,
    }
    return {
        "name": model.name,
        "platform": _platform(model),
        "backend": "laudserve",
        "max_batch_size": max_images,
        "input": [
            {
                "name": IMAGE,
                "data_type": "TYPE_UINT8",
                "format": "FORMAT_NHWC",
                "dims": [size, size, 3],
            }
        ],
        "output": [
            {"name": PROBABILITIES, "data_type": "TYPE_FP32", "dims": [classes]},
            _text(LABEL),
            _text(POINT),
        ],
        "dynamic_batching": {},
        "parameters": {name: {"string_value": text} for name, text in notes.items()},
    }


def _platform(model: Model) -> str:
    return f"laudserve_{model.engine.name}"


def _text(name: str) -> dict[str, Any]:
    """A tensor of one string per image; shapes of Triton's configuration cannot be empty."""
    return {"name": name, "data_type": "TYPE_STRING", "dims": [1], "reshape": {"shape": []}}
