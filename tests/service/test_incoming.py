"""What the protocol tells of a request: whether its body is whole, and that its client left."""

from __future__ import annotations

import asyncio
import time

import pytest
from starlette.types import Receive, Scope, Send

from service.incoming import Incoming, incoming_of
from service.protocol import Rules
from service.request import until_disconnect
from tests.service.listening import Exchanges, connect, head, held, listening
from tests.service.scripted import PATIENCE_S


class Gone(Exception):
    pass


async def nobody() -> dict[str, str]:
    raise AssertionError("who has an Incoming does not ask for what the client sends")


def test_who_listens_last_is_told_once() -> None:
    incoming, told = Incoming(), []
    incoming.on_leaving(lambda: told.append("first"))
    incoming.on_leaving(lambda: told.append("second"))
    incoming.leave()
    incoming.leave()
    assert told == ["second"]
    assert incoming.has_left


def test_who_stopped_listening_is_not_told() -> None:
    incoming, told = Incoming(), []
    incoming.on_leaving(lambda: told.append(True))
    incoming.on_leaving(None)
    incoming.leave()
    assert told == []


def test_a_body_is_whole_once_its_last_byte_is_here() -> None:
    app = Exchanges()
    app.gate.set()
    with listening(app, Rules()) as server, connect(server.port) as client:
        client.send(head(content_length=4) + b"bo")
        first = incoming_of(app.starts.get(timeout=PATIENCE_S))
        assert first is not None
        seen = [first.is_whole]
        client.send(b"dy")
        assert client.answer().body == b"body"
        seen.append(first.is_whole)
        client.send(head(content_length=0))
        second = incoming_of(app.starts.get(timeout=PATIENCE_S))
        assert client.answer().status == 200
        assert second is not None
        assert second is not first
        assert [*seen, second.is_whole] == [False, True, True]


def test_a_client_that_closes_its_connection_leaves_what_is_not_answered() -> None:
    app = Exchanges()
    with listening(app, Rules()) as server:
        with held(app, server), connect(server.port) as client:
            client.send(head(content_length=2) + b"ok")
            left = incoming_of(app.starts.get(timeout=PATIENCE_S))
            assert left is not None
            told = asyncio.Event()
            server.do(lambda: left.on_leaving(told.set))
            client.socket.close()
            client.__exit__()
            server.until_no_connections()
            assert left.has_left
            assert told.is_set()
        app.ends.get(timeout=PATIENCE_S)
        app.gate.set()
        with connect(server.port) as other:
            other.send(head(content_length=0))
            answered = incoming_of(app.starts.get(timeout=PATIENCE_S))
            assert other.answer().status == 200
        server.until_no_connections()
        assert answered is not None
        assert not answered.has_left, "it had its answer"


@pytest.mark.parametrize("answered", [0, 1])
def test_of_several_requests_on_a_connection_that_ends_the_one_that_runs_is_left(
    answered: int,
) -> None:
    quick, slow = Exchanges(), Exchanges()
    quick.gate.set()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await (quick if scope["path"] == "/quick" else slow)(scope, receive, send)

    with listening(app, Rules()) as server:
        with connect(server.port) as client:
            client.send(head("GET", "/quick") * answered + head("GET") * 2)
            left = incoming_of(slow.starts.get(timeout=PATIENCE_S))
            assert left is not None
            told = asyncio.Event()
            server.do(lambda: left.on_leaving(told.set))
        server.until_no_connections()
        assert left.has_left
        assert told.is_set()
        server.do(slow.gate.set)
        assert slow.ends.get(timeout=PATIENCE_S) == "answered", "nothing is written any more"
    assert slow.starts.empty(), "what waited behind it never begins"


def test_a_client_that_leaves_after_a_large_read_is_noticed() -> None:
    """uvicorn stops reading once 64 kB wait to be asked for, and nobody asks after the body."""
    app = Exchanges()
    with listening(app, Rules()) as server, held(app, server):
        with connect(server.port) as client:
            client.send(head(content_length=100_000))
            left = incoming_of(app.starts.get(timeout=PATIENCE_S))
            assert left is not None
            server.loop.call_soon_threadsafe(time.sleep, 0.1)
            client.send(bytes(100_000))
            client.socket.close()
        server.until_no_connections()
        assert left.is_whole
        assert left.has_left


@pytest.mark.anyio
async def test_work_ends_when_the_protocol_tells_that_its_client_left() -> None:
    incoming, ended = Incoming(), asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    waiting = asyncio.ensure_future(until_disconnect(nobody, work(), Gone(), incoming))
    await asyncio.sleep(0)
    incoming.leave()
    with pytest.raises(Gone):
        await waiting
    assert ended.is_set()


@pytest.mark.anyio
async def test_work_does_not_begin_for_a_client_that_has_left() -> None:
    incoming, begun = Incoming(), []
    incoming.leave()

    async def work() -> None:
        begun.append(True)

    with pytest.raises(Gone):
        await until_disconnect(nobody, work(), Gone(), incoming)
    assert begun == []


@pytest.mark.anyio
async def test_a_client_that_leaves_after_the_work_disturbs_nobody() -> None:
    incoming = Incoming()

    async def answer() -> int:
        return 42

    assert await until_disconnect(nobody, answer(), Gone(), incoming) == 42
    incoming.leave()
    await asyncio.sleep(0)


@pytest.mark.anyio
async def test_somebody_elses_wish_to_end_is_not_taken_for_a_leave() -> None:
    incoming = Incoming()
    waiting = asyncio.ensure_future(
        until_disconnect(nobody, asyncio.Event().wait(), Gone(), incoming)
    )
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
