"""Routes of the hot path: described like any other of FastAPI's, and served without its machinery.

FastAPI solves dependencies, validates and serialises between a request and its endpoint, and before
that asks one router after another: longer than all that we do before an image is queued. What takes
images needs none of it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import ANSWERED, error_response
from service.request import Exchange

Endpoint = Callable[[HttpRequest], Coroutine[Any, Any, Response]]


class DirectRoute(APIRoute):
    """A route whose endpoint takes the request alone and makes the whole response.

    Its parameters have to be described in `openapi_extra`, and its bodies too.
    """

    def get_route_handler(self) -> Endpoint:
        """See fastapi.routing.APIRoute."""
        handler: Endpoint = self.endpoint
        return handler


class DirectRoutes:
    """ASGI middleware: POST requests for direct routes go to their endpoints, all others on.

    Innermost, behind what notes the Exchange. Errors are answered as elsewhere: the expected ones
    here, the others by whoever stands before it.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[DirectRoute]) -> None:
        self._app = app
        posts = [route for route in routes if route.methods == {"POST"}]
        self._plain = {route.path: route for route in posts if not route.param_convertors}
        self._patterns = tuple(route for route in posts if route.param_convertors)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        route = self._find(scope)
        if route is None:
            await self._app(scope, receive, send)
            return
        endpoint: Endpoint = route.endpoint
        scope["route"], scope["endpoint"] = route, endpoint
        try:
            response = await endpoint(HttpRequest(scope, receive, send))
        except ANSWERED as error:
            exchange: Exchange = scope["state"]["exchange"]
            response = error_response(error, exchange)
        await response(scope, receive, send)

    def _find(self, scope: Scope) -> DirectRoute | None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope.get("root_path"):
            return None
        path: str = scope["path"]
        route = self._plain.get(path)
        if route is not None:
            scope["path_params"] = {}
            return route
        for route in self._patterns:
            found = route.path_regex.match(path)
            if found:
                scope["path_params"] = {
                    name: route.param_convertors[name].convert(value)
                    for name, value in found.groupdict().items()
                }
                return route
        return None
