"""Requests that bring images reach their endpoints at once, answered as by the framework."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request as HttpRequest
from starlette.responses import PlainTextResponse, Response
from starlette.types import Message, Receive, Scope, Send

from service.app import create_app
from service.errors import UnknownModel
from service.request import Exchange
from service.routing import DirectRoute, DirectRoutes
from tests.service.conftest import Running
from tests.service.oip_requests import INFER, MODEL, binary_request
from tests.service.scripted import jpeg

pytestmark = pytest.mark.anyio

router = APIRouter(route_class=DirectRoute)


@router.post("/plain")
async def plain(request: HttpRequest) -> Response:
    """Says which route it was."""
    return PlainTextResponse(str(request.scope["route"].path))


@router.post("/of/{name}/ask")
async def named(request: HttpRequest) -> Response:
    """Says what the path holds."""
    return PlainTextResponse(str(request.path_params["name"]))


@router.post("/unknown")
async def unknown(request: HttpRequest) -> Response:
    """Is refused."""
    raise UnknownModel("there is none")


@router.post("/broken")
async def broken(request: HttpRequest) -> Response:
    """Fails."""
    raise RuntimeError("a bug")


@router.get("/plain")
async def other(request: HttpRequest) -> Response:
    """Not what brings images."""
    return PlainTextResponse("other")


class Asked:
    """The routes in front of an application that only says that it was asked."""

    def __init__(self) -> None:
        routes = [route for route in router.routes if isinstance(route, DirectRoute)]
        self.app = DirectRoutes(self._beyond, routes)
        self.beyond = 0
        self.sent: list[Message] = []

    async def __call__(self, path: str, method: str = "POST", **more: Any) -> tuple[int, bytes]:
        """Status and body; 0 where the request went on."""

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def keep(message: Message) -> None:
            self.sent.append(message)

        self.exchange = Exchange("mine", 0.0)
        scope: Scope = {"type": "http", "method": method, "path": path, "headers": [], **more}
        scope["state"] = {"exchange": self.exchange}
        await self.app(scope, receive, keep)
        if not self.sent:
            return 0, b""
        start, body = self.sent
        self.sent.clear()
        return start["status"], body["body"]

    async def _beyond(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.beyond += 1


@pytest.fixture
def asked() -> Asked:
    return Asked()


async def test_an_endpoint_gets_its_request_and_what_its_path_holds(asked: Asked) -> None:
    assert await asked("/plain") == (200, b"/plain")
    assert await asked("/of/colours/ask") == (200, b"colours")
    assert asked.beyond == 0


@pytest.mark.parametrize(
    ("path", "method", "more"),
    [
        ("/plain", "GET", {}),
        ("/plain", "OPTIONS", {}),
        ("/plain/", "POST", {}),
        ("/of/a/b/ask", "POST", {}),
        ("/prefix/plain", "POST", {"root_path": "/prefix"}),
        ("/plain", "POST", {"type": "websocket"}),
    ],
)
async def test_everything_else_goes_on(
    asked: Asked, path: str, method: str, more: dict[str, Any]
) -> None:
    assert await asked(path, method, **more) == (0, b"")
    assert asked.beyond == 1


async def test_errors_that_are_meant_are_answered_and_noted(asked: Asked) -> None:
    assert await asked("/unknown") == (404, b'{"error":"there is none"}')
    assert (asked.exchange.outcome, asked.exchange.error) == ("not_found", "there is none")


async def test_other_errors_are_for_who_stands_before(asked: Asked) -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        await asked("/broken")


async def test_what_takes_images_does_not_pass_through_the_framework(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed: list[str] = []
    through = FastAPI.__call__

    async def call(self: FastAPI, scope: Scope, receive: Receive, send: Send) -> None:
        passed.append(scope["path"])
        await through(self, scope, receive, send)

    behind: list[str] = []
    handle = ExceptionMiddleware.__call__

    async def handled(
        self: ExceptionMiddleware, scope: Scope, receive: Receive, send: Send
    ) -> None:
        behind.append(scope["path"])
        await handle(self, scope, receive, send)

    monkeypatch.setattr(FastAPI, "__call__", call)
    monkeypatch.setattr(ExceptionMiddleware, "__call__", handled)
    for path, status in (
        ("/v1/classify", 200),
        ("/v1/detect", 400),
        ("/v1/segment", 400),
    ):
        assert (await running.client.post(path, content=jpeg())).status_code == status, path
    body, headers = binary_request(jpeg())
    for path in (INFER, f"{MODEL}/versions/1/infer"):
        answer = await running.client.post(path, content=body, headers=headers)
        assert answer.status_code == 200, path
    assert (await running.client.get("/v1/models")).status_code == 200
    assert behind == ["/v1/models"]
    assert (await running.client.post("/v1/classify", content=jpeg())).status_code == 200
    assert passed == []
    # Who instruments FastAPI loads this; then it has to see every request.
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk", ModuleType("opentelemetry.sdk"))
    assert (await running.client.post("/v1/classify", content=jpeg())).status_code == 200
    assert passed == ["/v1/classify"]


async def test_nothing_can_be_put_before_the_finished_application(running: Running) -> None:
    """Requests go to its outermost middleware at once, and would pass by what comes before that."""
    app = create_app(running.service)
    with pytest.raises(RuntimeError, match="before `enter_by`"):
        app.add_middleware(DirectRoutes, routes=[])


@pytest.mark.parametrize("path", ["/v1/classify", "/v1/detect", "/v2/models/colours/infer"])
async def test_another_method_is_refused_by_name(running: Running, path: str) -> None:
    refused = await running.client.get(path)
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
