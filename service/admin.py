"""What operators look at: metrics and the description of the interface.

On the port of the service, or on one of their own: then nothing of it is reachable from the first.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.requests import Request as HttpRequest

from service.errors import install_error_responses
from service.service import Service

_DESCRIPTION = "/openapi.json"


def documentation(service: Service) -> dict[str, Any]:
    """Arguments of the public FastAPI application: with an admin port it describes itself there."""
    if service.settings.admin_port is None:
        return {}
    return {"docs_url": None, "redoc_url": None, "openapi_url": None}


def add_metrics(app: FastAPI, service: Service) -> None:
    """The route `GET /metrics`."""

    @app.get("/metrics", include_in_schema=False)
    async def metrics(request: HttpRequest) -> Response:
        page, content_type = await service.metrics.exposition(request.headers.get("accept", ""))
        return Response(page, headers={"content-type": content_type})


def admin_routes(service: Service, public: FastAPI) -> FastAPI:
    """An application of metrics and documentation, for a port of its own.

    It asks for no API key: who can reach the port may look.
    """
    app = FastAPI(docs_url=None, openapi_url=None, redoc_url=None, redirect_slashes=False)
    app.state.service = service
    install_error_responses(app)
    add_metrics(app, service)

    @app.get(_DESCRIPTION)
    async def description() -> Response:
        return JSONResponse(public.openapi())

    @app.get("/docs")
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(openapi_url=_DESCRIPTION, title=public.title)

    return app
