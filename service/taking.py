"""What every route of ours that takes one picture does first: objective, body, its header."""

from __future__ import annotations

import time
from collections.abc import Collection, Coroutine
from typing import Any, TypeVar

from starlette.requests import Request as HttpRequest

from service.errors import BadRequest, ClientGone
from service.images import Picture, image_of_body, read_body
from service.incoming import incoming_of
from service.model import Model
from service.objectives import Objective, merge_objective
from service.request import Exchange, until_disconnect
from service.service import Service

P = TypeVar("P", bound=Picture)
T = TypeVar("T")

_ROUTES = {
    "classification": "POST /v1/classify",
    "detection": "POST /v1/detect",
    "segmentation": "POST /v1/segment or /v1/detect",
}


def require_task(model: Model, tasks: Collection[str]) -> None:
    """Raise BadRequest, naming the route to use instead, unless the model's task is among these."""
    task = model.manifest.task
    if task not in tasks:
        raise BadRequest(f"'{model.name}' is a model of task '{task}': {_ROUTES[task]}")


async def take_picture(
    request: HttpRequest,
    service: Service,
    model: Model,
    exchange: Exchange,
    kind: type[P],
) -> tuple[P, Objective]:
    """Read the body of a request for that model, a `kind` of picture; what is learnt is noted in
    `exchange`.

    Raises NotReady, BadRequest for objectives, and what bodies and headers of pictures raise.
    """
    exchange.model = model.name
    service.require_ready()
    settings = service.settings
    name, default = service.default_objective(model)
    objective = merge_objective(request.headers, {}, settings.slo_classes, default, name)
    exchange.objective = objective
    body = await read_body(
        request,
        settings.max_body_bytes,
        limit_s=settings.receive_limit_s,
        memory=service.memory,
    )
    exchange.num_bytes = len(body)
    exchange.phases_s["receive"] = time.monotonic() - exchange.arrived_s
    data = image_of_body(body, request.headers.get("content-type"))
    return kind.encoded(data, max_pixels=settings.max_pixels), objective


def while_awaited(request: HttpRequest, work: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
    """The result of `work` for a request whose body was read; ClientGone, and an end to the work,
    once its client leaves."""
    gone = ClientGone("the client left before the answer")
    return until_disconnect(request.receive, work, gone, incoming_of(request.scope))
