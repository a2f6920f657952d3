"""The benchmark of the front has a connection that takes whatever a client may send."""

from __future__ import annotations

import asyncio

import pytest
import uvicorn
from uvicorn.server import ServerState

from service.protocol import Rules, limited
from tests.benchmarks.front import Sink, request_of
from tests.service.listening import Exchanges
from tests.service.scripted import PATIENCE_S

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("request_bytes", "answer"),
    [
        (request_of("colours", None, bytes(100_000)), b"HTTP/1.1 200 OK"),
        (b"nonsense\r\n\r\n", b"HTTP/1.1 400 Bad Request"),
    ],
    ids=["large", "refused"],
)
async def test_it_is_answered(request_bytes: bytes, answer: bytes) -> None:
    app, sink = Exchanges(answer=b"seen"), Sink()
    app.gate.set()
    connection = limited(Rules())(
        uvicorn.Config(app, lifespan="off", log_config=None), ServerState(), {}
    )
    connection.connection_made(sink)
    connection.data_received(request_bytes)
    await asyncio.wait_for(sink.answered.wait(), PATIENCE_S)
    assert sink.answer.startswith(answer)
    connection.connection_lost(None)
