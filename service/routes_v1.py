"""Our own routes: `POST /v1/classify` and `GET /v1/models`."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import Request as HttpRequest

from service.errors import ClientGone
from service.images import (
    FORM_FIELD,
    FORM_TYPE,
    IMAGE_TYPES,
    POINT_HEADER,
    Picture,
    image_of_body,
    read_body,
)
from service.request import Exchange, until_disconnect
from service.schemas.v1 import Classification, Models, classification, served_model
from service.service import service_of

router = APIRouter(prefix="/v1", tags=["laudserve"])

_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            **{kind: {"schema": {"type": "string", "format": "binary"}} for kind in IMAGE_TYPES},
            FORM_TYPE: {
                "schema": {
                    "type": "object",
                    "required": [FORM_FIELD],
                    "properties": {FORM_FIELD: {"type": "string", "format": "binary"}},
                }
            },
        },
    },
    "parameters": [
        {
            "name": POINT_HEADER,
            "in": "header",
            "required": False,
            "schema": {"type": "string"},
            "description": "Pin an operating point; GET /v1/models lists them.",
        }
    ],
}


@router.post("/classify", openapi_extra=_BODY)
async def classify(
    request: HttpRequest,
    model: Annotated[str | None, Query(description="May be left out when one is served.")] = None,
    top: Annotated[int, Query(ge=1, le=1000, description="How many labels to answer.")] = 5,
) -> Classification:
    """Classify one JPEG, PNG or WebP image: the raw body, or the form field `image`."""
    service = service_of(request)
    exchange: Exchange = request.state.exchange
    found = service.find_model(model)
    exchange.model = found.name
    service.require_ready()
    body = await read_body(request, service.settings.max_body_bytes)
    exchange.num_bytes = len(body)
    exchange.phases_s["receive"] = time.monotonic() - exchange.arrived_s
    data = image_of_body(body, request.headers.get("content-type"))
    picture = Picture.encoded(data, max_pixels=service.settings.max_pixels)
    pinned = request.headers.get(POINT_HEADER)
    (reply,) = await until_disconnect(
        request.receive,
        service.answer(found, [picture], pinned, exchange),
        ClientGone("the client left before the answer"),
    )
    exchange.phases_s |= reply.phases_s
    return classification(found, reply, exchange, top, time.monotonic() - exchange.arrived_s)


@router.get("/models")
async def models(request: HttpRequest) -> Models:
    """What is served: labels, operating points with their accuracy, bundle hashes."""
    service = service_of(request)
    return Models(
        models=[served_model(model, service.is_ready) for model in service.executor.models.values()]
    )
