"""The ASGI application: routes, errors, metrics, and one log line a request."""

from __future__ import annotations

import asyncio
import time

import structlog
from fastapi import FastAPI
from fastapi.responses import Response
from starlette.requests import Request as HttpRequest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import routes_v1, routes_v2
from service.errors import ClientGone, error_response, install_error_responses
from service.logs import log_exchange
from service.request import Exchange, request_id
from service.service import Service

_log = structlog.get_logger("laud")


class Observed:
    """ASGI middleware: an Exchange per request, its id on the answer, its log line and metrics.

    It also answers errors that nobody expected, and logs them with their traceback.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id")
        exchange = Exchange(
            id=request_id(given.decode("latin-1") if given else None), arrived_s=time.monotonic()
        )
        scope.setdefault("state", {})["exchange"] = exchange

        async def send_observed(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                headers = [*message.get("headers", ()), (b"x-request-id", exchange.id.encode())]
                message = {**message, "headers": headers}
            await send(message)

        try:
            await self._app(scope, receive, send_observed)
        except Exception as error:
            _log.error("unexpected error", id=exchange.id, exc_info=error)
            if exchange.status:
                raise
            response = error_response(error, exchange)
            await response(scope, receive, send_observed)
        except asyncio.CancelledError:
            # The drain limit has passed: the server gives up what still runs.
            exchange.outcome = ClientGone.code
            raise
        finally:
            self._record(exchange, scope)

    def _record(self, exchange: Exchange, scope: Scope) -> None:
        duration_s = time.monotonic() - exchange.arrived_s
        route = getattr(scope.get("route"), "path", "unknown")
        self._service.metrics.observe_exchange(exchange, route, duration_s)
        log_exchange(exchange, dict(scope), route, duration_s)


def create_app(service: Service) -> FastAPI:
    """The application over a service, which the caller starts and stops."""
    app = FastAPI(
        title="laudserve",
        description="Image inference that computes only where the image needs it.",
        summary="POST a JPEG, PNG or WebP image; get labels, and what it cost.",
        # A redirect would name the host that a proxy talks to, and make clients send bodies twice.
        redirect_slashes=False,
    )
    app.state.service = service
    install_error_responses(app)
    app.include_router(routes_v1.router)
    app.include_router(routes_v2.router)

    @app.get("/metrics", include_in_schema=False)
    async def metrics(request: HttpRequest) -> Response:
        page, content_type = service.metrics.exposition(request.headers.get("accept", ""))
        return Response(page, headers={"content-type": content_type})

    app.add_middleware(Observed, service=service)
    return app
