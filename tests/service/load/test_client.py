"""The client keeps connections, measures each exchange, and tells what it did not get."""

from __future__ import annotations

import asyncio

import pytest

from service.load.client import (
    Client,
    LoadError,
    Server,
    Unanswered,
    parse_url,
)
from tests.service.load.socket_server import Asked, answer, listening

pytestmark = pytest.mark.anyio

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


async def polite(asked: Asked) -> bytes:
    return answer({"line": asked.line})


async def test_one_connection_serves_requests_in_a_row() -> None:
    async with listening(polite) as told, Client(told.server) as client:
        for _ in range(3):
            assert (await client.send(GET)).status == 200
        assert (told.connections, len(told.asked)) == (1, 3)


async def test_an_exchange_is_timed_by_the_client_s_clock() -> None:
    ticks = iter([10.0, 10.5])
    async with (
        listening(polite) as told,
        Client(told.server, clock=lambda: next(ticks)) as client,
    ):
        response = await client.send(GET)
    assert (response.sent_s, response.done_s) == (10.0, 10.5)
    assert response.body == b'{"line":"GET / HTTP/1.1"}'
    assert response.headers[b"content-length"] == b"25"


async def test_chunks_are_one_body() -> None:
    async def chunked(asked: Asked) -> bytes:
        return (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
        )

    async with listening(chunked) as told, Client(told.server) as client:
        assert (await client.send(GET)).body == b"abc"


async def test_requests_at_once_open_connections_up_to_the_limit() -> None:
    opened = asyncio.Event()

    async def waits(asked: Asked) -> bytes:
        await opened.wait()
        return answer({})

    async with listening(waits) as told, Client(told.server, connections=2) as client:
        tasks = [asyncio.create_task(client.send(GET)) for _ in range(5)]
        while len(told.asked) < 2:
            await asyncio.sleep(0)
        assert told.connections == 2
        opened.set()
        assert [one.status for one in await asyncio.gather(*tasks)] == [200] * 5
        assert told.connections == 2


async def test_a_connection_that_the_server_ends_is_not_used_again() -> None:
    async def last(asked: Asked) -> bytes:
        return answer({}, close=True)

    async with listening(last) as told, Client(told.server, connections=1) as client:
        await client.send(GET)
        await client.send(GET)
        assert told.connections == 2


async def test_a_kept_connection_that_was_closed_meanwhile_is_no_failure() -> None:
    async def closes_on_the_second(asked: Asked) -> bytes | None:
        return None if len(told.asked) == 2 else answer({})

    async with listening(closes_on_the_second) as told, Client(told.server) as client:
        await client.send(GET)
        assert (await client.send(GET)).status == 200
        assert (told.connections, len(told.asked)) == (2, 3)


async def test_a_fresh_connection_closed_without_an_answer_is_a_failure() -> None:
    async def silent(asked: Asked) -> None:
        return None

    async with listening(silent) as told, Client(told.server, connections=1) as client:
        for _ in range(2):
            with pytest.raises(Unanswered, match="closed before the answer"):
                await client.send(GET)
        assert len(told.asked) == 2


async def test_what_is_not_http_is_a_failure() -> None:
    async def other(asked: Asked) -> bytes:
        return b"220 mail.example ESMTP\r\n"

    async with listening(other) as told, Client(told.server) as client:
        with pytest.raises(Unanswered, match="not HTTP"):
            await client.send(GET)


async def test_a_cancelled_request_gives_its_place_to_another() -> None:
    first = asyncio.Event()

    async def waits_once(asked: Asked) -> bytes:
        if len(told.asked) == 1:
            await first.wait()
        return answer({})

    async with listening(waits_once) as told, Client(told.server, connections=1) as client:
        stuck = asyncio.create_task(client.send(GET))
        while not told.asked:
            await asyncio.sleep(0)
        other = asyncio.create_task(client.send(GET))
        await asyncio.sleep(0)
        stuck.cancel()
        assert (await other).status == 200
        first.set()


async def test_nobody_listening_is_told_with_the_url() -> None:
    async with listening(polite) as told:
        pass
    async with Client(told.server) as client:
        with pytest.raises(Unanswered, match=f"cannot connect to {told.server.url}: Connection re"):
            await client.send(GET)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8000", Server("127.0.0.1", 8000)),
        ("localhost:8000", Server("localhost", 8000)),
        ("http://host/", Server("host", 80)),
        ("https://host/images/", Server("host", 443, "/images", tls=True)),
        ("http://[::1]:9", Server("::1", 9)),
    ],
)
def test_urls_are_read(url: str, expected: Server) -> None:
    assert parse_url(url) == expected
    assert parse_url(expected.url) == expected


@pytest.mark.parametrize("url", ["", "ftp://host", "http://", "http://host:99999", "http://h/?a=b"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(LoadError, match="write it as http"):
        parse_url(url)


def test_more_connections_than_select_can_watch_are_refused() -> None:
    with pytest.raises(LoadError, match="1 to 900, got 1000"):
        Client(Server("x", 1), connections=1000)
