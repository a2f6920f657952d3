"""What a client and the server say to each other, over real sockets, and when it was said."""

from __future__ import annotations

import asyncio
import queue
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from service.errors import ServiceError
from service.protocol import FIRST_BYTE, Rules, limited
from tests.service.listening import Exchanges, connect, head, held, listening, rules
from tests.service.scripted import PATIENCE_S

SOON_S = 0.2
"""A limit that passes quickly where a test waits for it."""


@pytest.fixture
def app() -> Exchanges:
    """Answers at once, unless a test closes the gate."""
    application = Exchanges()
    application.gate.set()
    return application


@pytest.fixture
def refused() -> queue.Queue[ServiceError]:
    """What was answered without the application."""
    return queue.Queue()


def test_the_clock_of_a_request_starts_at_its_first_byte(
    app: Exchanges, refused: queue.Queue[ServiceError]
) -> None:
    with listening(app, rules(refused)) as server, connect(server.port) as client:
        client.send(b"P")
        first = head(content_length=4)
        client.send(first[1:])
        scope = app.starts.get(timeout=PATIENCE_S)
        client.send(b"bo")
        client.send(b"dy")
        assert client.answer().body == b"body"
        begun_s = scope[FIRST_BYTE]
        # Kept alive: the next request has a first byte of its own, which comes later.
        client.send(head("GET"))
        assert client.answer().status == 200
        assert app.starts.get(timeout=PATIENCE_S)[FIRST_BYTE] > begun_s


def test_the_first_byte_counts_and_not_the_one_that_completes_the_head(
    app: Exchanges, refused: queue.Queue[ServiceError]
) -> None:
    times = iter([10.0, 20.0, 30.0])
    counted = Rules(on_refusal=refused.put, clock=lambda: next(times))
    with listening(app, counted) as server, connect(server.port) as client:
        request = head("GET")
        for piece in (request[:1], request[1:9], request[9:]):
            client.send(piece)
            # The kernel may join pieces that follow each other; a look from the loop separates
            # them, because it reads what is there before it runs what was scheduled.
            server.do(lambda: None)
            server.do(lambda: None)
        assert client.answer().status == 200
        assert app.starts.get(timeout=PATIENCE_S)[FIRST_BYTE] == 10.0


def test_pipelined_requests_are_answered_in_order_with_clocks_of_their_own(
    app: Exchanges, refused: queue.Queue[ServiceError]
) -> None:
    with listening(app, rules(refused)) as server, connect(server.port) as client:
        with held(app, server):
            client.send(head(content_length=1) + b"a")
            first = app.starts.get(timeout=PATIENCE_S)
            client.send(head(content_length=1) + b"b" + head("GET", "/c"))
        assert [client.answer().body for _ in range(3)] == [b"a", b"b", b""]
        second, third = (app.starts.get(timeout=PATIENCE_S) for _ in range(2))
        assert first[FIRST_BYTE] < second[FIRST_BYTE] <= third[FIRST_BYTE]


def test_a_body_that_is_read_to_its_end_after_the_answer_keeps_the_connection(
    app: Exchanges, refused: queue.Queue[ServiceError]
) -> None:
    app.reads = False
    with listening(app, rules(refused)) as server, connect(server.port) as client:
        client.send(head(content_length=4) + b"ab")
        assert client.answer().status == 200
        client.send(b"cd" + head("GET"))
        assert client.answer().status == 200


def test_what_follows_a_request_and_is_none_costs_it_nothing(
    app: Exchanges, refused: queue.Queue[ServiceError]
) -> None:
    """As from a client whose content-length is too small: the connection ends after the answer."""
    with listening(app, rules(refused)) as server, connect(server.port) as client:
        client.send(head(content_length=2) + b"ok and more than was announced\r\n\r\n")
        answer = client.answer()
        assert (answer.status, answer.body) == (200, b"ok")
        assert answer.headers["connection"] == "close"
        assert client.is_closed_by_peer()


def test_a_client_that_waits_for_100_continue_hears_it_and_keeps_its_connection(
    app: Exchanges, refused: queue.Queue[ServiceError]
) -> None:
    with listening(app, rules(refused)) as server, connect(server.port) as client:
        for _ in range(2):
            client.send(head(content_length=4, expect="100-continue"))
            assert client.answer().status == 100
            client.send(b"body")
            answer = client.answer()
            assert answer.body == b"body"
            assert "connection" not in answer.headers


def test_an_upgrade_is_answered_in_http_and_ends_the_connection(
    app: Exchanges, refused: queue.Queue[ServiceError]
) -> None:
    with listening(app, rules(refused)) as server, connect(server.port) as client:
        client.send(head("GET", connection="Upgrade", upgrade="h2c"))
        answer = client.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert client.is_closed_by_peer()


def test_a_stopping_server_tells_who_has_begun_to_send(
    app: Exchanges, refused: queue.Queue[ServiceError]
) -> None:
    with (
        listening(app, rules(refused)) as server,
        connect(server.port) as begun,
        connect(server.port) as idle,
        connect(server.port) as running,
    ):
        with held(app, server):
            running.send(head(content_length=2) + b"ok")
            app.starts.get(timeout=PATIENCE_S)
            begun.send(b"POST / HT")
            idle.send(b"")
            server.do(lambda: None)
            server.do(lambda: None)
            server.server.should_exit = True
            answer = begun.answer()
            assert (answer.status, answer.error) == (503, "the service is stopping")
            assert answer.headers["retry-after"] == "1"
            assert idle.is_closed_by_peer()
        answer = running.answer()
        assert (answer.body, answer.headers["connection"]) == (b"ok", "close")


def test_a_stopping_server_does_not_refuse_twice(
    app: Exchanges, refused: queue.Queue[ServiceError]
) -> None:
    """A refused client may still be reading why when the server stops."""
    with listening(app, rules(refused)) as server, connect(server.port) as client:
        client.send(b"nonsense\r\n\r\n")
        assert refused.get(timeout=PATIENCE_S).status == 400
        server.server.should_exit = True
        assert client.answer().status == 400
        assert client.is_closed_by_peer()
    assert refused.empty()


def test_a_stopping_server_does_not_refuse_a_head_twice(
    app: Exchanges, refused: queue.Queue[ServiceError]
) -> None:
    with listening(app, rules(refused, SOON_S)) as server, connect(server.port) as client:
        client.send(b"GET / HT")
        assert refused.get(timeout=PATIENCE_S).status == 408
        server.server.should_exit = True
        assert client.answer().status == 408
        assert client.is_closed_by_peer()
    assert refused.empty()


class Written(asyncio.Transport):
    """A connection that keeps what is written to it, write by write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def written(app: Exchanges, *requests: bytes) -> Written:
    """What is written to a connection that asks for these, one after another."""
    config = uvicorn.Config(app, lifespan="off", log_config=None)
    connection = limited(Rules())(config, ServerState(), {})
    transport = Written()
    connection.connection_made(transport)
    connection.data_received(b"".join(requests))
    async with asyncio.timeout(PATIENCE_S):
        while app.ends.qsize() < len(requests):
            await asyncio.sleep(0)
    connection.connection_lost(None)
    return transport


@pytest.mark.anyio
async def test_an_answer_is_one_write(app: Exchanges) -> None:
    request = head(content_length=4) + b"body"
    transport = await written(app, request, request)
    assert [write.startswith(b"HTTP/1.1 200 ") for write in transport.writes] == [True, True]
    assert [write.endswith(b"\r\n\r\nbody") for write in transport.writes] == [True, True]


@pytest.mark.anyio
async def test_an_answer_without_a_body_is_written_too(app: Exchanges) -> None:
    app.answer = b"of GET"
    transport = await written(app, head("HEAD"), head("HEAD", connection="close"))
    assert len(transport.writes) == 2
    assert all(write.startswith(b"HTTP/1.1 200 ") for write in transport.writes)
    assert all(write.endswith(b"\r\n\r\n") for write in transport.writes)
    assert transport.closed


@pytest.mark.anyio
async def test_who_is_to_continue_hears_so_at_once(app: Exchanges) -> None:
    request = head(content_length=4, expect="100-continue")
    transport = await written(app, request + b"body")
    assert transport.writes[0] == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert b"".join(transport.writes[1:]).endswith(b"\r\n\r\nbody")
