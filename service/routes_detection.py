"""Routes that find objects in a picture: `POST /v1/detect` and `POST /v1/segment`."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from fastapi import APIRouter
from fastapi.responses import Response
from starlette.requests import Request as HttpRequest

from service.contract import SERVER_TIMING, server_timing, terms_of
from service.describe import (
    BODY,
    EXCHANGE_ERRORS,
    OBJECTIVE_HEADERS,
    SUCCESS,
    TAKING_ERRORS,
    query_parameters,
)
from service.explain_detection import explain_objects, kept_in
from service.model import Model
from service.request import Exchange, Reply
from service.routes_v1 import validated_query
from service.routing import DirectRoute
from service.schemas.detection import (
    DetectQuery,
    Object,
    Objects,
    ObjectsExplanation,
    SegmentQuery,
    described,
    objects_answer,
)
from service.service import service_of
from service.taking import require_task, take_picture, while_awaited
from service.whole_pictures import (
    InPicture,
    WholePicture,
    drawn,
    in_picture,
    mask_bytes,
    overlay_bytes,
)

Masks = Literal["rle", "polygon"] | None
"""How masks are answered; None: not at all."""

router = APIRouter(prefix="/v1", tags=["laudserve"], route_class=DirectRoute)


def _described(query: type[DetectQuery]) -> dict[str, Any]:
    return {
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
            "parameters": [*query_parameters(query), *OBJECTIVE_HEADERS],
        },
    }


@router.post("/detect", **_described(DetectQuery))
async def detect(request: HttpRequest) -> Response:
    """Find objects in one JPEG, PNG or WebP image of any shape: a box, a label and a score each.

    Bodies, objectives and terms are those of `/v1/classify`. Boxes are in pixels of the picture,
    turned upright as its EXIF data say.
    """
    query = validated_query(DetectQuery, request)
    return await _answer(request, ("detection", "segmentation"), query, masks=None)


@router.post("/segment", **_described(SegmentQuery))
async def segment(request: HttpRequest) -> Response:
    """As `/v1/detect`, and for each object which pixels are its own: as COCO's run lengths, or as
    polygons with `masks=polygon`."""
    query = validated_query(SegmentQuery, request)
    return await _answer(request, ("segmentation",), query, masks=query.masks)


@dataclass(frozen=True, slots=True, eq=False)
class _Answered:
    """What became of a picture. result: its objects, or the drawn picture."""

    reply: Reply
    there: InPicture
    result: list[Object] | bytes
    explanation: ObjectsExplanation | None


async def _answer(
    request: HttpRequest, tasks: Collection[str], query: DetectQuery, *, masks: Masks
) -> Response:
    service = service_of(request)
    exchange: Exchange = request.state.exchange
    model = service.find_model(query.model)
    exchange.model = model.name
    require_task(model, tasks)
    picture, objective = await take_picture(request, service, model, exchange, WholePicture)

    num_bytes = overlay_bytes(picture) if query.overlay else 0

    async def answered() -> _Answered:
        (reply,) = await service.answer(
            model,
            [picture],
            objective,
            exchange,
            explain=query.explain,
            answer_bytes=num_bytes,
        )
        exchange.unusual = exchange.unusual or query.overlay

        of_masks = 0
        if masks:
            of_masks = await service.aside(lambda: mask_bytes([(picture, reply)], query))
        return await service.beside(
            exchange, _making(model, picture, reply, query, masks), num_bytes + of_masks
        )

    done = await while_awaited(request, answered())
    terms = terms_of((done.reply,), exchange, time.monotonic() - exchange.arrived_s)
    headers = {SERVER_TIMING: server_timing(terms)}
    if isinstance(done.result, bytes):
        return Response(done.result, media_type="image/jpeg", headers=headers)
    size = done.there.width, done.there.height
    answer = objects_answer(
        model, done.reply, terms, size, done.result, exchange.id, done.explanation
    )
    content = orjson.dumps(answer, default=ObjectsExplanation.model_dump)
    return Response(content, media_type="application/json", headers=headers)


def _making(
    model: Model,
    picture: WholePicture,
    reply: Reply,
    query: DetectQuery,
    masks: Masks,
) -> Callable[[], _Answered]:
    """What makes the result of a reply. Not for the event loop: hundreds of masks, and decoding
    again, take their time."""
    labels = model.manifest.labels

    def listed() -> _Answered:
        there = in_picture(picture, reply, query, masks=masks is not None)
        width, height = there.width, there.height
        objects = described(there.found, labels, width, height, polygons=masks == "polygon")
        explanation = explain_objects(model, reply, width, height) if query.explain else None
        return _Answered(reply, there, objects, explanation)

    def painted() -> _Answered:
        there = in_picture(picture, reply, query, masks=masks is not None)
        kept = kept_in(model, reply) if query.explain else None
        shown = drawn(picture, there.found, labels, kept, reply.point.image_size)
        return _Answered(reply, there, shown, None)

    return painted if query.overlay else listed
