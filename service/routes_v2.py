"""The Open Inference Protocol v2 routes. Bodies are read raw: clients send odd content types."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from fastapi import APIRouter
from fastapi.responses import Response
from starlette.requests import Request as HttpRequest

from service.contract import SERVER_TIMING, answer_terms, server_timing, terms_of
from service.describe import EXCHANGE_ERRORS, MODEL_NAME, OBJECTIVE_HEADERS, TAKING_ERRORS
from service.errors import UnknownModel
from service.explain import explain
from service.explain_detection import explain_objects
from service.images import Picture, read_body
from service.model import Model
from service.objectives import Objective, merge_objective
from service.request import Exchange, Reply
from service.routes_control import router as control
from service.routing import DirectRoute
from service.schemas import oip
from service.schemas.oip_answer import Answers, Results, infer_answer
from service.schemas.oip_model import (
    MODEL_VERSION,
    form_of,
    model_config,
    model_metadata,
    server_metadata,
)
from service.schemas.oip_objects import FoundObjects, limits_of, mask_texts
from service.service import Service, service_of
from service.taking import P, while_awaited
from service.whole_pictures import WholePicture, in_picture, mask_bytes

_BODY: dict[str, Any] = {
    "required": True,
    "description": "JSON; with binary tensors behind it where the header "
    "`Inference-Header-Content-Length` gives its length. One input: `image` (UINT8, pixels of the "
    "model's size) or `image_bytes` (BYTES, files; base64 in JSON).",
    "content": {
        "application/json": {
            "schema": {"type": "object"},
            "example": {
                "inputs": [
                    {
                        "name": oip.IMAGE_BYTES,
                        "datatype": "BYTES",
                        "shape": [1],
                        "data": ["/9j/..."],
                    }
                ],
                "parameters": {"slo_ms": 50},
            },
        },
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    },
}

_TAG = "Open Inference Protocol v2"

taking = APIRouter(
    prefix="/v2", tags=[_TAG], responses=dict(EXCHANGE_ERRORS), route_class=DirectRoute
)
"""What takes images, to be asked first: routes are tried one after another."""

router = APIRouter(prefix="/v2", tags=[_TAG], responses=dict(EXCHANGE_ERRORS))
router.include_router(control)


@taking.post(
    "/models/{name}/infer",
    responses=dict(TAKING_ERRORS),
    openapi_extra={"parameters": [MODEL_NAME, *OBJECTIVE_HEADERS], "requestBody": _BODY},
)
@taking.post("/models/{name}/versions/{model_version}/infer", include_in_schema=False)
async def infer(request: HttpRequest) -> Response:
    """Run images given as pixels or as encoded files; JSON, or binary data behind JSON.

    Objectives are parameters of the request (`slo_ms`, `timeout` in microseconds, `slo_class`,
    `min_accuracy`, `operating_point`, `on_infeasible`), or headers where a client cannot set those.
    The answer's parameters say what was chosen, predicted and measured; `explain: true` adds the
    output `explanation`, JSON for each image. Models that find objects take `min_score` and `top`
    too.
    """
    service = service_of(request)
    exchange: Exchange = request.state.exchange
    model = _model(request, request.path_params["name"])
    service.require_ready()
    settings = service.settings
    body = await read_body(
        request,
        settings.max_body_bytes,
        limit_s=settings.receive_limit_s,
        memory=service.memory,
    )
    exchange.num_bytes = len(body)
    exchange.phases_s["receive"] = time.monotonic() - exchange.arrived_s
    form = form_of(model, service.max_images)
    length_header = request.headers.get(oip.LENGTH_HEADER)
    if oip.is_slow(body, length_header):
        with service.memory.reserve(len(body)):
            parsed = await asyncio.to_thread(oip.parse_infer, body, length_header, form)
    else:
        parsed = oip.parse_infer(body, length_header, form)
    class_name, default = service.default_objective(model)
    objective = merge_objective(
        request.headers, parsed.parameters, settings.slo_classes, default, class_name
    )
    exchange.objective = objective
    answering = _objects if model.manifest.detector else _labels
    replies, results = await while_awaited(
        request, answering(service, model, parsed, objective, exchange)
    )
    terms = terms_of(replies, exchange, time.monotonic() - exchange.arrived_s)
    head = {
        "model_name": model.name,
        "model_version": MODEL_VERSION,
        "id": parsed.id,
        "parameters": answer_terms(model, terms),
    }
    content, length = infer_answer(head, parsed.outputs, results)
    headers = {SERVER_TIMING: server_timing(terms)}
    if length is None:
        return Response(content, headers=headers, media_type="application/json")
    headers[oip.LENGTH_HEADER] = str(length)
    return Response(content, headers=headers, media_type="application/octet-stream")


async def _labels(
    service: Service,
    model: Model,
    parsed: oip.InferRequest,
    objective: Objective,
    exchange: Exchange,
) -> tuple[list[Reply], Answers]:
    pictures = _pictures(Picture, parsed, service)
    replies = await service.answer(model, pictures, objective, exchange, explain=parsed.explain)
    return replies, Results(
        probabilities=np.stack([reply.probabilities for reply in replies]),
        labels=model.manifest.labels,
        points=[reply.point.name for reply in replies],
        explanations=await _explanations(model, replies) if parsed.explain else (),
    )


async def _objects(
    service: Service,
    model: Model,
    parsed: oip.InferRequest,
    objective: Objective,
    exchange: Exchange,
) -> tuple[list[Reply], Answers]:
    limits = limits_of(parsed.parameters)
    pictures = _pictures(WholePicture, parsed, service)
    replies = await service.answer(model, pictures, objective, exchange, explain=parsed.explain)
    masks = any(output.name == oip.MASKS for output in parsed.outputs)

    def found() -> FoundObjects:
        there = [
            in_picture(picture, reply, limits, masks=masks)
            for picture, reply in zip(pictures, replies, strict=True)
        ]
        explained = zip(replies, there, strict=True) if parsed.explain else ()
        return FoundObjects(
            found=[each.found for each in there],
            masks=[mask_texts(each.found, each.width, each.height) for each in there],
            points=[reply.point.name for reply in replies],
            explanations=[
                explain_objects(model, reply, each.width, each.height).model_dump_json()
                for reply, each in explained
            ],
        )

    num_bytes = 0
    if masks:
        pairs = list(zip(pictures, replies, strict=True))
        num_bytes = await service.aside(lambda: mask_bytes(pairs, limits))
    return replies, await service.beside(exchange, found, num_bytes)


def _pictures(kind: type[P], parsed: oip.InferRequest, service: Service) -> list[P]:
    max_pixels = service.settings.max_pixels
    return [
        kind.encoded(image, max_pixels=max_pixels)
        if isinstance(image, bytes)
        else kind.of_pixels(image)
        for image in parsed.images
    ]


def _json(content: Mapping[str, Any]) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")


@router.get("")
async def server() -> Response:
    """Name, version and extensions of the server."""
    return _json(server_metadata())


@router.get("/health/live")
async def live() -> Response:
    """200 while the process answers, whatever its load."""
    return _json({"live": True})


@router.get("/health/ready")
async def ready(request: HttpRequest) -> Response:
    """200 once every point of every model is warmed up; 503 while starting, draining or broken."""
    service_of(request).require_ready()
    return _json({"ready": True})


@router.get("/models/stats")
async def all_statistics(request: HttpRequest) -> Response:
    """What every model did since the start: counts and nanoseconds, as Triton tells them."""
    return _statistics(service_of(request), list(service_of(request).executor.models))


@router.get("/models/{name}/stats")
@router.get("/models/{name}/versions/{model_version}/stats", include_in_schema=False)
async def statistics(request: HttpRequest, name: str) -> Response:
    """The same of one model."""
    model = _model(request, name)
    return _statistics(service_of(request), [model.name])


@router.get("/models/{name}/ready")
@router.get("/models/{name}/versions/{model_version}/ready", include_in_schema=False)
async def model_ready(request: HttpRequest, name: str) -> Response:
    """200 when the model takes requests."""
    model = _model(request, name)
    service_of(request).require_ready()
    return _json({"name": model.name, "ready": True})


@router.get("/models/{name}/config")
@router.get("/models/{name}/versions/{model_version}/config", include_in_schema=False)
async def config(request: HttpRequest, name: str) -> Response:
    """The part of Triton's model configuration that load generators ask for."""
    model = _model(request, name)
    return _json(model_config(model, service_of(request).max_images))


@router.get("/models/{name}")
@router.get("/models/{name}/versions/{model_version}", include_in_schema=False)
async def metadata(request: HttpRequest, name: str) -> Response:
    """Inputs and outputs of a model; a request has one of the two inputs."""
    model = _model(request, name)
    return _json(model_metadata(model))


def _model(request: HttpRequest, name: str) -> Model:
    model = service_of(request).executor.model(name)
    request.state.exchange.model = model.name
    version: str = request.path_params.get("model_version", MODEL_VERSION)
    if version != MODEL_VERSION:
        raise UnknownModel(f"'{name}' has version {MODEL_VERSION} only, got '{version:.32}'")
    return model


async def _explanations(model: Model, replies: Sequence[Reply]) -> list[str]:
    texts: list[str] = []
    for reply in replies:
        texts.append(explain(model, reply).model_dump_json())
        # Each takes a millisecond or two, and others wait for the event loop.
        await asyncio.sleep(0)
    return texts


def _statistics(service: Service, models: Sequence[str]) -> Response:
    entries = [service.statistics.as_triton(name, MODEL_VERSION) for name in models]
    return _json({"model_stats": entries})
