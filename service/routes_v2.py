"""The Open Inference Protocol v2 routes. Bodies are read raw: clients send odd content types."""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import orjson
from fastapi import APIRouter
from fastapi.responses import Response
from starlette.requests import Request as HttpRequest

from service.errors import BadRequest, ClientGone, UnknownModel
from service.executor import Model
from service.images import POINT_HEADER, Picture, read_body
from service.request import Exchange, Reply, until_disconnect
from service.schemas import oip
from service.schemas.v1 import milliseconds
from service.service import service_of

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol v2"])

MODEL_VERSION = "1"


def _json(content: Mapping[str, Any]) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")


@router.get("")
async def server() -> Response:
    """Name, version and extensions of the server."""
    return _json(
        {
            "name": "laudserve",
            "version": version("laudserve"),
            "extensions": ["binary_tensor_data", "classification", "model_configuration"],
        }
    )


@router.get("/health/live")
async def live() -> Response:
    """200 while the process answers, whatever its load."""
    return _json({"live": True})


@router.get("/health/ready")
async def ready(request: HttpRequest) -> Response:
    """200 once every point of every model is warmed up; 503 while starting, draining or broken."""
    service_of(request).require_ready()
    return _json({"ready": True})


@router.get("/models/{name}/ready")
@router.get("/models/{name}/versions/{model_version}/ready")
async def model_ready(request: HttpRequest, name: str, model_version: str = "1") -> Response:
    """200 when the model takes requests."""
    model = _model(request, name, model_version)
    service_of(request).require_ready()
    return _json({"name": model.name, "ready": True})


@router.get("/models/{name}")
@router.get("/models/{name}/versions/{model_version}")
async def metadata(request: HttpRequest, name: str, model_version: str = "1") -> Response:
    """Inputs and outputs of a model; a request has one of the two inputs."""
    model = _model(request, name, model_version)
    size, classes = model.image_size, len(model.manifest.labels)
    return _json(
        {
            "name": model.name,
            "versions": [MODEL_VERSION],
            "platform": f"laudserve_{model.engine.name}",
            "inputs": [
                {"name": oip.IMAGE, "datatype": "UINT8", "shape": [-1, size, size, 3]},
                {"name": oip.IMAGE_BYTES, "datatype": "BYTES", "shape": [-1]},
            ],
            "outputs": [
                {"name": oip.PROBABILITIES, "datatype": "FP32", "shape": [-1, classes]},
                {"name": oip.LABEL, "datatype": "BYTES", "shape": [-1]},
            ],
        }
    )


@router.get("/models/{name}/config")
@router.get("/models/{name}/versions/{model_version}/config")
async def config(request: HttpRequest, name: str, model_version: str = "1") -> Response:
    """The part of Triton's model configuration that load generators ask for."""
    model = _model(request, name, model_version)
    return _json({"name": model.name, "max_batch_size": service_of(request).max_images})


@router.post("/models/{name}/infer")
@router.post("/models/{name}/versions/{model_version}/infer")
async def infer(request: HttpRequest, name: str, model_version: str = "1") -> Response:
    """Run images given as pixels or as encoded files; JSON, or binary data behind JSON."""
    service = service_of(request)
    exchange: Exchange = request.state.exchange
    model = _model(request, name, model_version)
    service.require_ready()
    body = await read_body(request, service.settings.max_body_bytes)
    exchange.num_bytes = len(body)
    exchange.phases_s["receive"] = time.monotonic() - exchange.arrived_s
    form = oip.Form(model.image_size, service.max_images)
    parsed = oip.parse_infer(body, request.headers.get(oip.LENGTH_HEADER), form)
    limit = service.settings.max_pixels
    pictures = [
        Picture.encoded(image, max_pixels=limit)
        if isinstance(image, bytes)
        else Picture.of_pixels(image)
        for image in parsed.images
    ]
    replies = await until_disconnect(
        request.receive,
        service.answer(model, pictures, _pinned(request, parsed.parameters), exchange),
        ClientGone("the client left before the answer"),
    )
    exchange.phases_s |= _longest(replies)
    probabilities = np.stack([reply.probabilities for reply in replies])
    content, length = oip.infer_answer(
        _head(model, parsed, replies, exchange),
        parsed.outputs,
        probabilities,
        model.manifest.labels,
    )
    headers = {} if length is None else {oip.LENGTH_HEADER: str(length)}
    kind = "application/json" if length is None else "application/octet-stream"
    return Response(content, headers=headers, media_type=kind)


def _model(request: HttpRequest, name: str, model_version: str) -> Model:
    model = service_of(request).executor.model(name)
    request.state.exchange.model = model.name
    if model_version != MODEL_VERSION:
        raise UnknownModel(f"'{name}' has version {MODEL_VERSION} only, got '{model_version:.32}'")
    return model


def _pinned(request: HttpRequest, parameters: Mapping[str, Any]) -> str | None:
    """The parameter outranks the header, which is for clients that cannot set parameters."""
    point = parameters.get("operating_point", request.headers.get(POINT_HEADER))
    if point is not None and not isinstance(point, str):
        raise BadRequest("parameter 'operating_point' must be the name of a point")
    return point


def _head(
    model: Model, parsed: oip.InferRequest, replies: list[Reply], exchange: Exchange
) -> dict[str, Any]:
    total_s = time.monotonic() - exchange.arrived_s
    times = milliseconds({**exchange.phases_s, "total": total_s})
    return {
        "model_name": model.name,
        "model_version": MODEL_VERSION,
        "id": parsed.id,
        "parameters": {
            "operating_point": replies[0].point.name,
            "reason": replies[0].reason,
            "bundle": model.hash,
            "engine": model.engine.name,
            "precision": model.engine.precision,
            **{f"{phase}_ms": value for phase, value in times.items()},
        },
    }


def _longest(replies: list[Reply]) -> dict[str, float]:
    """Per phase, the longest time that any image of the request took."""
    phases: dict[str, float] = {}
    for reply in replies:
        for phase, seconds in reply.phases_s.items():
            phases[phase] = max(phases.get(phase, 0.0), seconds)
    return phases
