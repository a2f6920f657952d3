"""What `/docs` says of our routes beyond their code: bodies, headers, error answers (OpenAPI)."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from service.images import FORM_FIELD, FORM_TYPE, IMAGE_TYPES
from service.objectives import (
    ACCURACY_HEADER,
    CLASS_HEADER,
    INFEASIBLE_HEADER,
    LEAST_SLO_MS,
    MOST_SLO_MS,
    POINT_HEADER,
    SLO_HEADER,
)
from service.schemas.v1 import Fault

Described = dict[int | str, dict[str, Any]]

_FILE = {"type": "string", "format": "binary"}

BODY: dict[str, Any] = {
    "required": True,
    "description": "One image: its bytes as they are, or the field `image` of a form.",
    "content": {
        **{kind: {"schema": _FILE} for kind in IMAGE_TYPES},
        FORM_TYPE: {
            "schema": {
                "type": "object",
                "required": [FORM_FIELD],
                "properties": {FORM_FIELD: _FILE},
            }
        },
    },
}


def _header(name: str, text: str, **schema: Any) -> dict[str, Any]:
    return {
        "name": name,
        "in": "header",
        "required": False,
        "schema": schema,
        "description": text,
    }


def query_parameters(query: type[BaseModel]) -> list[dict[str, Any]]:
    """The fields of a model as what a query may hold; none of them is required."""
    return [
        {
            "name": name,
            "in": "query",
            "required": False,
            "schema": schema,
            "description": schema["description"],
        }
        for name, schema in query.model_json_schema()["properties"].items()
    ]


MODEL_NAME: dict[str, Any] = {
    "name": "name",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "title": "Name"},
}
"""The path of a model's routes, of those that FastAPI does not describe by themselves."""

OBJECTIVE_HEADERS: list[dict[str, Any]] = [
    _header(
        SLO_HEADER,
        "How long the answer may take, in milliseconds from the first byte of the request to the "
        "last byte of the answer. Outranks the time of a class.",
        type="number",
        minimum=LEAST_SLO_MS,
        maximum=MOST_SLO_MS,
        examples=[50],
    ),
    _header(
        CLASS_HEADER,
        "A named objective of the server's configuration; GET /v1/models lists them. Without "
        "either header the default class holds.",
        type="string",
    ),
    _header(
        ACCURACY_HEADER,
        "Use no operating point whose expected accuracy is lower (0 to 1).",
        type="number",
        minimum=0,
        maximum=1,
    ),
    _header(POINT_HEADER, "Pin an operating point; GET /v1/models lists them.", type="string"),
    _header(
        INFEASIBLE_HEADER,
        "Where no allowed point can be in time: `degrade` answers late, at the fastest of them; "
        "`reject` refuses at once, with 429.",
        type="string",
        enum=["degrade", "reject"],
        default="degrade",
    ),
]

SUCCESS: dict[str, Any] = {
    "description": "The labels, and how they came about.",
    "headers": {
        "Server-Timing": {
            "description": "Phases, prediction and slack in milliseconds (`dur`); point, reason "
            "and outcome as text (`desc`).",
            "schema": {"type": "string"},
        },
        "X-Request-Id": {
            "description": "That of the request, or a new one; every answer has it.",
            "schema": {"type": "string"},
        },
    },
}

_RETRY = {
    "Retry-After": {
        "description": "Whole seconds after which the same request may succeed.",
        "schema": {"type": "integer", "minimum": 1},
    }
}


def _error(text: str, *, retry: bool = False) -> dict[str, Any]:
    described: dict[str, Any] = {"description": text, "model": Fault}
    return {**described, "headers": _RETRY} if retry else described


EXCHANGE_ERRORS: Described = {
    401: _error("The server asks for an API key, and none was sent or it is not known."),
}
"""What any of our routes may answer."""

TAKING_ERRORS: Described = {
    400: _error(
        "What was sent is wrong: a damaged picture, an unknown point or class, a time that is no "
        "number, an accuracy that no point has."
    ),
    404: _error("No model of that name is served."),
    408: _error("Headers or body did not arrive in time."),
    413: _error("The body has too many bytes, or the picture too many pixels."),
    415: _error("The body is no JPEG, PNG or WebP image, or compressed in a way not accepted."),
    422: _error("A query parameter is wrong."),
    429: _error(
        "Not taken: no allowed point could answer in time and `reject` was wished, or as much "
        "waits as is allowed.",
        retry=True,
    ),
    500: _error("A fault of the server; the message has the id that its log knows it by."),
    503: _error("Not ready: starting, draining or broken.", retry=True),
    504: _error("Taken, and then overtaken by its deadline while it waited."),
}
"""What a route that takes images may answer besides."""
