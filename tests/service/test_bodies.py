"""Reading a request's body: bounded in bytes, in time and in memory, and counted while it grows."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Awaitable, Callable

import pytest
from starlette.requests import Request as HttpRequest
from starlette.types import Message

from service.errors import (
    BadRequest,
    BodyTooLarge,
    ClientGone,
    QueueFull,
    RequestTimeout,
    UnsupportedMedia,
)
from service.images import read_body
from service.memory import Memory

LIMIT = 1000

pytestmark = pytest.mark.anyio


def chunk(body: bytes, more: bool = True) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def sends(*messages: Message) -> Callable[[], Awaitable[Message]]:
    """A client that sends these, and then nothing for ever."""
    waiting = iter(messages)

    async def receive() -> Message:
        for message in waiting:
            return message
        for_ever: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        return await for_ever

    return receive


def request_of(*messages: Message, **headers: str) -> HttpRequest:
    named = [(key.replace("_", "-").encode(), value.encode()) for key, value in headers.items()]
    return HttpRequest({"type": "http", "headers": named}, sends(*messages))


async def test_chunks_are_joined() -> None:
    request = request_of(chunk(b"a"), chunk(b""), chunk(b"bc"), chunk(b"d", more=False))
    assert await read_body(request, LIMIT) == b"abcd"


async def test_what_is_announced_too_large_is_not_read() -> None:
    request = request_of(content_length=str(LIMIT + 1))
    with pytest.raises(BodyTooLarge, match="has 1001 bytes, the limit is 1,000"):
        await read_body(request, LIMIT)


async def test_what_is_announced_small_and_becomes_too_large_is_refused() -> None:
    request = request_of(chunk(bytes(600)), chunk(bytes(401)), content_length="5")
    with pytest.raises(BodyTooLarge, match="has more than 1,000 bytes"):
        await read_body(request, LIMIT)


async def test_a_body_that_does_not_end_is_refused_in_time() -> None:
    with pytest.raises(RequestTimeout, match=r"took more than 0\.01 s"):
        await read_body(request_of(chunk(b"a")), LIMIT, limit_s=0.01)


async def test_a_client_that_leaves_is_told_from_one_that_is_slow() -> None:
    request = request_of(chunk(b"a"), {"type": "http.disconnect"})
    with pytest.raises(ClientGone):
        await read_body(request, LIMIT, limit_s=10.0)


async def test_memory_is_held_as_it_arrives_and_given_back_at_the_end() -> None:
    memory = Memory(LIMIT)
    seen: list[int] = []

    async def receive() -> Message:
        seen.append(memory.used)
        return chunk(bytes(100), more=len(seen) < 4)

    request = HttpRequest({"type": "http", "headers": [(b"content-length", b"400")]}, receive)
    await read_body(request, LIMIT, memory=memory)
    assert seen == [0, 100, 200, 300]
    assert memory.used == 0


async def test_a_body_without_room_is_refused_and_gives_its_part_back() -> None:
    memory = Memory(LIMIT)
    with memory.reserve(700):
        request = request_of(chunk(bytes(200)), chunk(bytes(200)))
        with pytest.raises(QueueFull):
            await read_body(request, LIMIT, memory=memory)
        assert memory.used == 700


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ((chunk(bytes(2000)),), BodyTooLarge),
        ((chunk(b"a"),), RequestTimeout),
        (({"type": "http.disconnect"},), ClientGone),
    ],
)
async def test_memory_is_given_back_whatever_happens(
    messages: tuple[Message, ...], error: type[Exception]
) -> None:
    memory = Memory(LIMIT)
    with pytest.raises(error):
        await read_body(request_of(*messages), LIMIT, limit_s=0.01, memory=memory)
    assert memory.used == 0


async def test_a_compressed_body_is_inflated() -> None:
    request = request_of(chunk(gzip.compress(b"text"), more=False), content_encoding="gzip")
    assert await read_body(request, LIMIT) == b"text"


async def test_a_compressed_body_counts_as_sent_and_inflated() -> None:
    memory = Memory(10 * LIMIT)
    bomb = gzip.compress(bytes(LIMIT + 1))
    request = request_of(chunk(bomb, more=False), content_encoding="gzip")
    with pytest.raises(BodyTooLarge, match="inflates to more than 1,000"):
        await read_body(request, LIMIT, memory=memory)
    assert memory.used == 0
    with memory.reserve(10 * LIMIT - 100):
        request = request_of(chunk(gzip.compress(b"x"), more=False), content_encoding="gzip")
        with pytest.raises(QueueFull):
            await read_body(request, LIMIT, memory=memory)


async def test_an_encoding_that_is_not_accepted_is_told_before_anything_is_read() -> None:
    with pytest.raises(UnsupportedMedia):
        await read_body(request_of(content_encoding="br"), LIMIT)
    request = request_of(chunk(b"text", more=False), content_encoding="deflate")
    with pytest.raises(BadRequest, match="not valid deflate"):
        await read_body(request, LIMIT)
