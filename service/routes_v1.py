"""Our own routes: `POST /v1/classify` and `GET /v1/models`."""

from __future__ import annotations

import asyncio
import time
from functools import lru_cache
from typing import TypeVar, cast
from urllib.parse import parse_qsl

import orjson
from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, ValidationError
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
from service.explain import explain as explain_reply
from service.images import Picture
from service.request import Exchange, Reply
from service.routing import DirectRoute
from service.schemas.v1 import (
    Classification,
    ClassifyQuery,
    Explanation,
    Models,
    classification,
    served_model,
)
from service.service import service_of
from service.taking import require_task, take_picture, while_awaited

_Query = TypeVar("_Query", bound=BaseModel)

_QUERIES, _MOST_REMEMBERED = 256, 256
"""Queries that are remembered, and the most bytes of one."""

router = APIRouter(prefix="/v1", tags=["laudserve"], route_class=DirectRoute)


@router.post(
    "/classify",
    response_model=Classification,
    responses={200: SUCCESS, **EXCHANGE_ERRORS, **TAKING_ERRORS},
    openapi_extra={
        "requestBody": BODY,
        "parameters": [*query_parameters(ClassifyQuery), *OBJECTIVE_HEADERS],
    },
)
async def classify(request: HttpRequest) -> Response:
    """Classify one JPEG, PNG or WebP image: the raw body, or the form field `image`.

    The answer is as accurate as the request's time allows: `x-slo-ms` or `x-slo-class` say how long
    it may take from the first byte, and the answer says which operating point that bought, why, and
    what was predicted and measured.
    """
    service = service_of(request)
    exchange: Exchange = request.state.exchange
    query = validated_query(ClassifyQuery, request)
    found = service.find_model(query.model)
    exchange.model = found.name
    require_task(found, ("classification",))
    picture, objective = await take_picture(request, service, found, exchange, Picture)

    async def answered() -> tuple[Reply, Explanation | None]:
        (reply,) = await service.answer(
            found, [picture], objective, exchange, explain=query.explain
        )
        if not query.explain:
            return reply, None
        # Milliseconds of Python: beside the loop, so that nobody else's answer waits for them.
        return reply, await asyncio.to_thread(explain_reply, found, reply)

    reply, explanation = await while_awaited(request, answered())
    terms = terms_of((reply,), exchange, time.monotonic() - exchange.arrived_s)
    answer = classification(found, reply, terms, query.top, exchange.id, explanation)
    return Response(
        orjson.dumps(answer, default=Explanation.model_dump),
        media_type="application/json",
        headers={SERVER_TIMING: server_timing(terms)},
    )


@router.get("/models", response_model=Models, responses=EXCHANGE_ERRORS)
async def models(request: HttpRequest) -> Response:
    """What is served: labels, operating points with their accuracy and what they take here, the
    classes of latency objectives, bundle hashes."""
    service = service_of(request)
    described = Models(
        models=[
            served_model(
                model,
                costs := service.costs.get(model.name),
                service.settings.slo_classes,
                service.default_objective(model) if costs else None,
                ready=service.is_ready,
            )
            for model in service.executor.models.values()
        ]
    )
    return Response(described.model_dump_json(), media_type="application/json")


def validated_query(kind: type[_Query], request: HttpRequest) -> _Query:
    """The query of a request. Raises RequestValidationError that names each faulty parameter."""
    text: bytes = request.scope["query_string"]
    read = _remembered if len(text) <= _MOST_REMEMBERED else _validated
    return cast(_Query, read(kind, text))


def _validated(kind: type[BaseModel], text: bytes) -> BaseModel:
    given = dict(parse_qsl(text.decode("latin-1"), keep_blank_values=True))
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise RequestValidationError(
            [{**fault, "loc": ("query", *fault["loc"])} for fault in error.errors()]
        ) from None


# Clients ask the same again and again. Queries are immutable; errors are not remembered.
_remembered = lru_cache(_QUERIES)(_validated)
