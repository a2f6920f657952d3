"""Requests of the Open Inference Protocol to a service of the model `colours`."""

from __future__ import annotations

import struct
from typing import Any

import httpx
import numpy as np
import orjson

from tests.service.conftest import Running
from tests.service.scripted import pixels

MODEL = "/v2/models/colours"
INFER = f"{MODEL}/infer"
LENGTH = "inference-header-content-length"


def image_input(*colours: str, **changes: Any) -> dict[str, Any]:
    """Pixels in JSON."""
    data = np.stack([pixels(colour) for colour in colours])
    return {
        "name": "image",
        "datatype": "UINT8",
        "shape": list(data.shape),
        "data": data.ravel().tolist(),
        **changes,
    }


def binary_request(*files: bytes, **rest: Any) -> tuple[bytes, dict[str, str]]:
    """Files behind JSON, as tritonclient sends them: without a content type."""
    blob = b"".join(struct.pack("<I", len(file)) + file for file in files)
    entry = {
        "name": "image_bytes",
        "datatype": "BYTES",
        "shape": [len(files)],
        "parameters": {"binary_data_size": len(blob)},
    }
    head = orjson.dumps({"inputs": [entry], **rest})
    return head + blob, {LENGTH: str(len(head))}


async def infer(client: httpx.AsyncClient, *inputs: dict[str, Any], **rest: Any) -> httpx.Response:
    return await client.post(INFER, content=orjson.dumps({"inputs": list(inputs), **rest}))


def output(answer: httpx.Response, name: str) -> Any:
    assert answer.status_code == 200, answer.text
    (found,) = [each for each in answer.json()["outputs"] if each["name"] == name]
    return found["data"]


async def assert_refused(running: Running, answer: httpx.Response, status: int) -> str:
    """Refused with a reason, which is returned; the next request is answered."""
    assert answer.status_code == status, answer.text
    assert answer.json().keys() == {"error"}
    after = await infer(running.client, image_input("blue"))
    assert output(after, "label") == ["blue"]
    return str(answer.json()["error"])
