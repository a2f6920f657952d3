"""Routes of the hot path: described like any other of FastAPI's, and served without its machinery.

FastAPI solves dependencies, validates and serialises between a request and its endpoint, which
takes as long as all that we do before an image is queued. What takes images needs none of it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request as HttpRequest
from starlette.responses import Response


class DirectRoute(APIRoute):
    """A route whose endpoint takes the request alone and makes the whole response.

    Its parameters have to be described in `openapi_extra`, and its bodies too.
    """

    def get_route_handler(self) -> Callable[[HttpRequest], Coroutine[Any, Any, Response]]:
        """See fastapi.routing.APIRoute."""
        handler: Callable[[HttpRequest], Coroutine[Any, Any, Response]] = self.endpoint
        return handler
