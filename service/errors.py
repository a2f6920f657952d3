"""Every error that the service raises on purpose, and the one place where errors become HTTP.

LaudError                        (engines.errors)
└── ServiceError                 500
    ├── SettingsError            the configuration cannot be used; the process does not start
    ├── StartError               the server cannot start here, for example a port in use
    ├── BadRequest               400  what was sent is wrong
    ├── UnknownModel             404
    ├── BodyTooLarge             413
    ├── UnsupportedMedia         415  a content type or encoding that is not accepted
    ├── Unauthorized             401  no API key, or an unknown one
    ├── RequestTimeout           408  headers or body did not come in time
    ├── ClientGone               499  the client left; nobody reads the answer
    ├── Expired                  504  taken, then overtaken by its deadline
    └── Unavailable              try again later: has `retry_after_s`
        ├── Infeasible           429  no allowed point is fast enough, and a refusal was wanted
        ├── QueueFull            429
        └── NotReady             503  starting, draining or broken
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from engines.errors import ImageTooLarge, InvalidInput, LaudError, UnsupportedImage

if TYPE_CHECKING:
    # A request holds pictures, whose module raises these errors.
    from service.request import Exchange


class ServiceError(LaudError):
    """Base. `status` is the HTTP status; `code` is the outcome in logs and metrics."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "error"


class SettingsError(ServiceError):
    """The configuration cannot be used; the process does not start."""


class StartError(ServiceError):
    """The server cannot start here, for example because its port is in use."""


class BadRequest(ServiceError):
    """The request contradicts the interface; the message says what was wrong and what is right."""

    status = 400
    code = "invalid"


class UnknownModel(ServiceError):
    """No model or version of that name; the message lists what there is."""

    status = 404
    code = "not_found"


class BodyTooLarge(ServiceError):
    """More bytes than the limit, announced or sent."""

    status = 413
    code = "too_large"


class UnsupportedMedia(ServiceError):
    """A content type or content encoding that is not accepted."""

    status = 415
    code = "unsupported"


class ClientGone(ServiceError):
    """The client closed its connection before the answer."""

    status = 499
    code = "cancelled"


class Unauthorized(ServiceError):
    """No API key was sent, or one that is not in the file."""

    status = 401
    code = "unauthorized"


class RequestTimeout(ServiceError):
    """The client sent its headers or its body too slowly."""

    status = 408
    code = "timeout"


class Expired(ServiceError):
    """It was taken, but its deadline passed before it could run."""

    status = 504
    code = "expired"


class Unavailable(ServiceError):
    """Nothing is wrong with the request; the same one may succeed after `retry_after_s`."""

    status = 503
    code = "unavailable"

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Infeasible(Unavailable):
    """No allowed point can answer before the deadline, and the client prefers a refusal."""

    status = 429
    code = "rejected_infeasible"


class QueueFull(Unavailable):
    """As much work as is allowed waits already."""

    status = 429
    code = "rejected_queue"


class NotReady(Unavailable):
    """The service is starting, draining or broken."""

    status = 503
    code = "not_ready"


# The errors of `engines` that a request can cause; the first match counts.
_ENGINE_ERRORS: tuple[tuple[type[LaudError], type[ServiceError]], ...] = (
    (UnsupportedImage, UnsupportedMedia),
    (ImageTooLarge, BodyTooLarge),
    (InvalidInput, BadRequest),
)
_HTTP_CODES = {404: "not_found", 405: "not_found", 413: "too_large", 415: "unsupported"}


def error_response(error: Exception, exchange: Exchange) -> Response:
    """The answer to a request that ended with `error`; notes the outcome in `exchange`.

    Messages of errors that nobody raised on purpose stay inside: they may hold anything.
    """
    headers: dict[str, str] = {}
    match error:
        case HTTPException():
            status, message = error.status_code, error.detail
            headers.update(error.headers or {})
            code = _HTTP_CODES.get(status, "invalid" if status < 500 else "error")
        case RequestValidationError():
            status, code, message = 422, "invalid", _faults(error)
        case _:
            kind = _kind(error)
            status, code = kind.status, kind.code
            if kind is ServiceError:
                message = f"internal error (request id {exchange.id})"
            else:
                message = str(error)
    if isinstance(error, Unavailable):
        headers["retry-after"] = str(max(math.ceil(error.retry_after_s), 1))
    exchange.outcome = code
    exchange.error = message
    return JSONResponse({"error": message}, status_code=status, headers=headers)


ANSWERED = (HTTPException, RequestValidationError, ServiceError, InvalidInput)
"""What a route or the framework raises to have it answered with `{"error": "..."}`."""


def install_error_responses(app: FastAPI) -> None:
    """Make every error of `ANSWERED` answer `{"error": "..."}`.

    Unknown exceptions pass through, to be logged with their traceback by the outermost middleware.
    """

    async def respond(request: HttpRequest, error: Exception) -> Response:
        return error_response(error, request.state.exchange)

    for kind in ANSWERED:
        app.add_exception_handler(kind, respond)


def known_names(names: Iterable[str]) -> str:
    """Names as error messages list them: sorted, comma-separated."""
    return ", ".join(sorted(names)) or "none"


def _kind(error: Exception) -> type[ServiceError]:
    if isinstance(error, ServiceError):
        return type(error)
    for known, kind in _ENGINE_ERRORS:
        if isinstance(error, known):
            return kind
    return ServiceError


def _faults(error: RequestValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()
    )
