"""What Triton lets clients change on a running server, and this one does not: models, tracing,
logging and shared memory.

Questions are answered as Triton does. A request that would change nothing is granted, so that
clients which make it on every start work; any other is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import APIRouter
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest

from service.errors import BadRequest, known_names
from service.images import read_body
from service.schemas.oip_model import MODEL_VERSION
from service.service import service_of

router = APIRouter(include_in_schema=False)

_MAX_BODY_BYTES = 64 * 1024

_FIXED = (
    "models are fixed while the server runs: restart it with the bundles to serve "
    "(laud serve BUNDLE...)"
)
_LEVELS = ("debug", "info", "warning", "error")

_TRACING: Mapping[str, Any] = {
    "trace_level": ["OFF"],
    "trace_rate": "1000",
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_file": "",
    "trace_mode": "triton",
}
"""Triton's settings before anybody asks for traces."""


@router.post("/repository/index")
async def index(request: HttpRequest) -> Response:
    """The served models; all of them are ready, or none. With `ready`, only those that are."""
    service = service_of(request)
    content = await _content(request)
    if not service.is_ready and content.get("ready") is True:
        return _json([])
    state = {"state": "READY", "reason": ""}
    if not service.is_ready:
        state = {"state": "UNAVAILABLE", "reason": "starting, draining or broken"}
    return _json(
        [{"name": name, "version": MODEL_VERSION, **state} for name in service.executor.models]
    )


@router.post("/repository/models/{name}/load")
async def load(request: HttpRequest, name: str) -> Response:
    """200 for a model that is served already, as it is."""
    service = service_of(request)
    request.state.exchange.model = service.executor.model(name).name
    if (await _content(request)).get("parameters"):
        raise BadRequest(_FIXED)
    service.require_ready()
    return _json({})


@router.post("/repository/models/{name}/unload")
async def unload(request: HttpRequest, name: str) -> Response:
    """Refused: others may be using it."""
    request.state.exchange.model = service_of(request).executor.model(name).name
    raise BadRequest(_FIXED)


@router.get("/trace/setting")
@router.get("/models/{name}/trace/setting")
async def tracing(request: HttpRequest, name: str | None = None) -> Response:
    """Tracing is off."""
    _check_model(request, name)
    return _json(_TRACING)


@router.post("/trace/setting")
@router.post("/models/{name}/trace/setting")
async def set_tracing(request: HttpRequest, name: str | None = None) -> Response:
    """Granted where tracing stays off."""
    _check_model(request, name)
    await _refuse_changes(
        request, _TRACING, "there are no traces; the parameters of every answer, its Server-Timing "
        "header and the server's log have its times"
    )  # fmt: skip
    return _json(_TRACING)


@router.get("/logging")
async def logging(request: HttpRequest) -> Response:
    """The settings of the server's log, by Triton's names."""
    return _json(_logging(request))


@router.post("/logging")
async def set_logging(request: HttpRequest) -> Response:
    """Granted where they stay as they are."""
    known = _logging(request)
    await _refuse_changes(
        request, known, "the log is set when the server starts (laud serve --log-level)"
    )
    return _json(known)


@router.get("/{kind}sharedmemory/status")
async def regions(kind: str) -> Response:
    """None are registered."""
    _check_kind(kind)
    return _json([])


@router.get("/{kind}sharedmemory/region/{region}/status")
@router.post("/{kind}sharedmemory/region/{region}/register")
async def region(kind: str, region: str) -> Response:
    """Refused: a client of another machine, or of another user, would read this one's memory."""
    _check_kind(kind)
    raise BadRequest(
        f"{kind} shared memory is not supported, so there is no region '{region:.80}': send "
        "tensors in the body"
    )


@router.post("/{kind}sharedmemory/unregister")
@router.post("/{kind}sharedmemory/region/{region}/unregister")
async def unregister(kind: str, region: str = "") -> Response:
    """Granted: there is nothing to forget. perf_analyzer asks before it starts."""
    _check_kind(kind)
    return _json({})


def _json(content: Any) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")


async def _content(request: HttpRequest) -> dict[str, Any]:
    """The JSON object of a body, whatever type it claims to be; empty where there is none."""
    settings = service_of(request).settings
    body = await read_body(request, _MAX_BODY_BYTES, limit_s=settings.receive_limit_s)
    try:
        content = orjson.loads(body) if body else {}
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the request is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise BadRequest("the request must be a JSON object")
    return content


async def _refuse_changes(request: HttpRequest, known: Mapping[str, Any], reason: str) -> None:
    """Raise BadRequest for a setting that is not as it is already; null asks for Triton's own."""
    for name, value in (await _content(request)).items():
        if name not in known:
            raise BadRequest(f"there is no setting '{name:.80}'; there are: {known_names(known)}")
        if value is not None and value != known[name]:
            raise BadRequest(f"'{name}' cannot be changed: {reason}")


def _check_model(request: HttpRequest, name: str | None) -> None:
    if name is not None:
        request.state.exchange.model = service_of(request).executor.model(name).name


def _logging(request: HttpRequest) -> dict[str, Any]:
    level = _LEVELS.index(service_of(request).settings.log_level)
    return {
        "log_file": "",
        "log_info": level <= _LEVELS.index("info"),
        "log_warning": level <= _LEVELS.index("warning"),
        "log_error": True,
        "log_verbose_level": int(level == 0),
        "log_format": "default",
    }


def _check_kind(kind: str) -> None:
    if kind not in ("system", "cuda"):
        raise HTTPException(404)
