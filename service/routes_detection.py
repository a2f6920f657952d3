"""Routes that find objects in a picture: `POST /v1/detect` and `POST /v1/segment`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from typing import Any

import orjson
from fastapi import APIRouter
from fastapi.responses import Response
from starlette.requests import Request as HttpRequest

from engines.detection.scenes import Detections
from service.contract import SERVER_TIMING, server_timing, terms_of
from service.describe import (
    BODY,
    EXCHANGE_ERRORS,
    OBJECTIVE_HEADERS,
    SUCCESS,
    TAKING_ERRORS,
    query_parameters,
)
from service.errors import ClientGone
from service.executor import Model
from service.request import Exchange, Reply, until_disconnect
from service.routes_v1 import validated_query
from service.routing import DirectRoute
from service.schemas.detection import DetectQuery, Object, Objects, described, objects_answer
from service.service import Service, service_of
from service.taking import require_task, take_picture
from service.whole_pictures import MAX_DRAWN, WholePicture, drawn

router = APIRouter(prefix="/v1", tags=["laudserve"], route_class=DirectRoute)

_ANSWER: dict[str, Any] = {
    "response_model": Objects,
    "responses": {
        200: {
            **SUCCESS,
            "description": "The objects, and how they came about; or the picture with them.",
            "content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}},
        },
        **EXCHANGE_ERRORS,
        **TAKING_ERRORS,
    },
    "openapi_extra": {
        "requestBody": BODY,
        "parameters": [*query_parameters(DetectQuery), *OBJECTIVE_HEADERS],
    },
}


@router.post("/detect", **_ANSWER)
async def detect(request: HttpRequest) -> Response:
    """Find objects in one JPEG, PNG or WebP image of any shape: a box, a label and a score each.

    Bodies, objectives and terms are those of `/v1/classify`. Boxes are in pixels of the picture,
    turned upright as its EXIF data say.
    """
    return await _answer(request, ("detection", "segmentation"), masks=False)


@router.post("/segment", **_ANSWER)
async def segment(request: HttpRequest) -> Response:
    """As `/v1/detect`, and for each object which pixels are its own, as COCO's run lengths."""
    return await _answer(request, ("segmentation",), masks=True)


async def _answer(request: HttpRequest, tasks: Collection[str], *, masks: bool) -> Response:
    service = service_of(request)
    exchange: Exchange = request.state.exchange
    query = validated_query(DetectQuery, request)
    model = service.find_model(query.model)
    exchange.model = model.name
    require_task(model, tasks)
    picture, objective = await take_picture(request, service, model, exchange, WholePicture)
    if not isinstance(picture, WholePicture):
        raise TypeError("pictures of detection are whole")

    async def answered() -> tuple[Reply, tuple[int, int], list[Object] | bytes]:
        (reply,) = await service.answer(model, [picture], objective, exchange)
        size, result = await _result(service, model, picture, reply, query, masks)
        return reply, size, result

    reply, size, result = await until_disconnect(
        request.receive, answered(), ClientGone("the client left before the answer")
    )
    terms = terms_of((reply,), exchange, time.monotonic() - exchange.arrived_s)
    headers = {SERVER_TIMING: server_timing(terms)}
    if isinstance(result, bytes):
        return Response(result, media_type="image/jpeg", headers=headers)
    answer = objects_answer(model, reply, terms, size, result, exchange.id)
    return Response(orjson.dumps(answer), media_type="application/json", headers=headers)


async def _result(
    service: Service,
    model: Model,
    picture: WholePicture,
    reply: Reply,
    query: DetectQuery,
    masks: bool,
) -> tuple[tuple[int, int], list[Object] | bytes]:
    """Size of the upright picture, and its objects or the drawn picture. Beside the event loop:
    hundreds of masks, and decoding again, take longer than others should wait."""
    labels = model.manifest.labels
    objects = reply.objects
    if objects is None:
        raise TypeError("a detector's reply has objects")

    def in_picture() -> tuple[tuple[int, int], Detections]:
        size = picture.upright_size()
        found = objects.in_picture(
            size=reply.point.image_size,
            width=size[0],
            height=size[1],
            least_score=query.min_score,
            most=query.top,
            masks=masks,
        )
        return size, found

    def listed() -> tuple[tuple[int, int], list[Object] | bytes]:
        size, found = in_picture()
        return size, described(found, labels, *size)

    def painted() -> tuple[tuple[int, int], list[Object] | bytes]:
        size, found = in_picture()
        return size, drawn(picture, found, labels)

    if not query.overlay:
        return await asyncio.to_thread(listed)
    header = picture.header
    pixels = MAX_DRAWN**2 if header is None else header.width * header.height
    # Decoded, scaled and encoded: three times three bytes a pixel.
    with service.memory.reserve(9 * pixels):
        return await asyncio.to_thread(painted)
