"""The Open Inference Protocol v2: what is said about the server and its models."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

from service.model import Model
from service.schemas.oip import (
    BOXES,
    CLASS_OUTPUTS,
    COUNTS,
    EXPLANATION,
    IMAGE,
    LABEL,
    LABELS,
    MASK_OUTPUTS,
    MASKS,
    OBJECT_OUTPUTS,
    POINT,
    PROBABILITIES,
    SCORES,
    Form,
)

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

# Datatype here and in Triton's configuration.
_TYPES = {"FP32": "TYPE_FP32", "INT32": "TYPE_INT32", "BYTES": "TYPE_STRING"}
_ANY = -1
_OBJECTS: dict[str, tuple[str, list[int]]] = {
    COUNTS: ("INT32", []),
    BOXES: ("FP32", [_ANY, 4]),
    SCORES: ("FP32", [_ANY]),
    LABELS: ("INT32", [_ANY]),
    MASKS: ("BYTES", [_ANY]),
    POINT: ("BYTES", []),
}
"""Datatype, and shape of one image's part, by output."""


def server_metadata() -> dict[str, Any]:
    """Name, version and extensions."""
    return {
        "name": "laudserve",
        "version": version("laudserve"),
        "extensions": EXTENSIONS,
    }


def form_of(model: Model, max_images: int) -> Form:
    """What requests for the model may hold, `max_images` in one."""
    detector = model.manifest.detector
    if detector is None:
        return Form(model.image_size, max_images)
    outputs = MASK_OUTPUTS if detector.masks else OBJECT_OUTPUTS
    return Form(model.image_size, max_images, outputs)


def model_metadata(model: Model) -> dict[str, Any]:
    """Inputs and outputs, as load generators need them: they send random data for every input that
    is named here, optional or not. So `image_bytes`, which replaces `image`, is not."""
    size = model.image_size
    return {
        "name": model.name,
        "versions": [MODEL_VERSION],
        "platform": _platform(model),
        "inputs": [{"name": IMAGE, "datatype": "UINT8", "shape": [-1, size, size, 3]}],
        "outputs": [
            {"name": name, "datatype": datatype, "shape": [-1, *dims]}
            for name, (datatype, dims) in _outputs(model).items()
        ],
    }


def model_config(model: Model, max_images: int) -> dict[str, Any]:
    """The part of Triton's model configuration that clients look at.

    max_images: in one request. That batches form by themselves is `dynamic_batching`; what the
    inputs and outputs cannot say is in `parameters`.
    """
    size = model.image_size
    notes = {
        "inputs": form_of(model, max_images).text,
        "operating_points": ", ".join(model.point_names),
        "optional_outputs": EXPLANATION,
    }
    if model.manifest.detector is not None:
        notes[LABELS] = json.dumps(model.manifest.labels, ensure_ascii=False)
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
            {"name": name, "data_type": _TYPES[datatype], **_dims(dims)}
            for name, (datatype, dims) in _outputs(model).items()
        ],
        "dynamic_batching": {},
        "parameters": {name: {"string_value": text} for name, text in notes.items()},
    }


def _outputs(model: Model) -> dict[str, tuple[str, list[int]]]:
    names = form_of(model, 1).outputs
    if names != CLASS_OUTPUTS:
        return {name: _OBJECTS[name] for name in names}
    return {
        PROBABILITIES: ("FP32", [len(model.manifest.labels)]),
        LABEL: ("BYTES", []),
        POINT: ("BYTES", []),
    }


def _platform(model: Model) -> str:
    return f"laudserve_{model.engine.name}"


def _dims(dims: list[int]) -> dict[str, Any]:
    """Shapes of Triton's configuration cannot be empty, as those of one value per image are."""
    return {"dims": dims} if dims else {"dims": [1], "reshape": {"shape": []}}
