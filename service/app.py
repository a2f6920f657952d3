"""The ASGI application: routes, errors, and for every request one log line and one outcome."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog
from fastapi import FastAPI
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import routes_detection, routes_v1, routes_v2
from service.access import install_access
from service.admin import add_metrics, admin_routes, documentation
from service.errors import ClientGone, NotReady, error_response, install_error_responses
from service.logs import log_exchange
from service.metrics import Metrics
from service.protocol import FIRST_BYTE
from service.request import Exchange, request_id
from service.routing import DirectRoute, DirectRoutes
from service.service import Service

_log = structlog.get_logger("laud")

_TELEMETRY = "opentelemetry.sdk"

# By path and not by route: what is refused before it is routed was an inference request too.
_INFERENCE = re.compile(r"/v1/(classify|detect|segment)|/v2/models/[^/]+(/versions/[^/]+)?/infer")


class Observed:
    """ASGI middleware: an Exchange per request, its id on the answer, its log line and metrics.

    Whatever happens, a request is counted once, when the last byte of its answer was handed over
    or nothing more will be. An answered inference is `met` or `late` by that moment. It also
    answers errors that nobody expected, and logs them with their traceback.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        on_inference: Callable[[Exchange, float], None] = lambda exchange, duration_s: None,
    ) -> None:
        """on_inference: told of every inference request at its end, and how long it took."""
        self._app, self._metrics, self._clock = app, metrics, clock
        self._on_inference = on_inference

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id")
        exchange = Exchange(
            id=request_id(given.decode("latin-1") if given else None),
            arrived_s=scope.get(FIRST_BYTE) or self._clock(),
        )
        scope.setdefault("state", {})["exchange"] = exchange
        answered_s: float | None = None

        async def send_observed(message: Message) -> None:
            nonlocal answered_s
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                headers = [*message.get("headers", ()), (b"x-request-id", exchange.id.encode())]
                message = {**message, "headers": headers}
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                answered_s = self._clock()

        try:
            await self._app(scope, receive, send_observed)
        except ClientDisconnect:
            _leave(exchange)
        except Exception as error:
            # Servers raise OSError from `send` where nobody listens any more.
            if isinstance(error, OSError) and exchange.status:
                _leave(exchange)
            else:
                _log.error("unexpected error", id=exchange.id, exc_info=error)
                if answered_s is not None:
                    raise
                response = error_response(error, exchange)
                if exchange.status:
                    exchange.status = response.status_code
                    raise
                await response(scope, receive, send_observed)
        except asyncio.CancelledError:
            # The drain limit has passed: the server gives up what still runs.
            if answered_s is None:
                response = error_response(
                    NotReady("the server stopped before the answer"), exchange
                )
                if not exchange.status:
                    await response(scope, receive, send_observed)
                exchange.status = response.status_code
            raise
        finally:
            self._record(exchange, scope, answered_s)

    def _record(self, exchange: Exchange, scope: Scope, answered_s: float | None) -> None:
        end_s = self._clock() if answered_s is None else answered_s
        duration_s = end_s - exchange.arrived_s
        if answered_s is None:
            _leave(exchange)
        if scope["method"] == "POST" and _INFERENCE.fullmatch(scope["path"]):
            if exchange.status < 400:
                exchange.outcome = "met" if end_s <= exchange.deadline_s else "late"
            self._metrics.observe_completion(exchange, duration_s)
            self._on_inference(exchange, duration_s)
        route = getattr(scope.get("route"), "path", "unknown")
        self._metrics.observe_exchange(exchange, route, duration_s)
        log_exchange(exchange, scope, route, duration_s)


def _leave(exchange: Exchange) -> None:
    """The client did not take its answer to the end; what was refused stays refused."""
    if exchange.status < 400:
        exchange.status, exchange.outcome = ClientGone.status, ClientGone.code
        exchange.error = "the client left before the end of its answer"


class _Application(FastAPI):
    """FastAPI without what it puts before our own middleware for every request.

    That catches errors, which `Observed` has caught by then, and asks for OpenTelemetry, whose
    programming interface reads the environment each time. Where its own SDK is loaded it is asked
    as ever; providers that are not of that SDK hear of no HTTP request.
    """

    _entrance: ASGIApp | None = None
    _is_closed = False

    def enter_by(self, middleware: Callable[[ASGIApp], ASGIApp]) -> None:
        """Add the outermost middleware, and the last; HTTP requests go there at once."""

        def made(app: ASGIApp) -> ASGIApp:
            self._entrance = middleware(app)
            return self._entrance

        self.add_middleware(made)
        self._is_closed = True

    def add_middleware(self, middleware_class: Any, *args: Any, **kwargs: Any) -> None:
        """See Starlette. Raises RuntimeError after `enter_by`."""
        if self._is_closed:
            raise RuntimeError("middleware is added before `enter_by`, or no request passes it")
        super().add_middleware(middleware_class, *args, **kwargs)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or _TELEMETRY in sys.modules:
            await super().__call__(scope, receive, send)
            return
        if self.middleware_stack is None:
            self.middleware_stack = self.build_middleware_stack()
        scope["app"] = self
        await (self._entrance or self.middleware_stack)(scope, receive, send)


def create_app(service: Service) -> FastAPI:
    """The application over a service, which the caller starts and stops.

    Raises SettingsError for API keys that cannot be read.
    """
    app = _Application(
        title="laudserve",
        description="Image inference that computes only where the image needs it.",
        summary="POST a JPEG, PNG or WebP image; get labels, and what it cost.",
        # A redirect would name the host that a proxy talks to, and make clients send bodies twice.
        redirect_slashes=False,
        **documentation(service),
    )
    app.state.service = service
    install_error_responses(app)
    app.include_router(routes_v1.router)
    app.include_router(routes_detection.router)
    app.include_router(routes_v2.taking)
    app.include_router(routes_v2.router)
    if service.settings.admin_port is None:
        add_metrics(app, service)
    # The last that is added is asked first.
    app.add_middleware(
        DirectRoutes,
        routes=[
            route
            for router in (routes_v1.router, routes_detection.router, routes_v2.taking)
            for route in router.routes
            if isinstance(route, DirectRoute)
        ],
    )
    install_access(app, service.settings)
    app.enter_by(partial(Observed, metrics=service.metrics, on_inference=service.observe_inference))
    return app


def create_admin_app(service: Service, public: FastAPI) -> FastAPI:
    """Metrics, and the description of the public application, for a port of their own."""
    app = admin_routes(service, public)
    app.add_middleware(Observed, metrics=service.metrics)
    return app
