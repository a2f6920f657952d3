"""A server on a real socket whose answers a test decides, one exchange at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import orjson

from service.load.client import Server


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came: its first line, its headers, its body."""

    line: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Told:
    """What the server has seen. connections: accepted so far."""

    server: Server
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0


Answering = Callable[[Asked], Awaitable[bytes | None]]
"""The bytes to write; None closes the connection without any."""


def answer(content: object, status: int = 200, *lines: str, close: bool = False) -> bytes:
    """An HTTP answer of JSON."""
    body = orjson.dumps(content)
    head = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", *lines]
    head += ["connection: close"] if close else []
    return "\r\n".join([*head, "", ""]).encode() + body


@asynccontextmanager
async def listening(answering: Answering) -> AsyncIterator[Told]:
    """Serve until the block ends."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told.connections += 1
        writers.append(writer)
        while head := await _head(reader):
            line, *rest = head
            headers = dict(one.split(": ", 1) for one in rest)
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            told.asked.append(Asked(line, headers, body))
            written = await answering(told.asked[-1])
            if written is None:
                break
            writer.write(written)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    told = Told(Server("127.0.0.1", server.sockets[0].getsockname()[1]))
    async with server:
        yield told
        for writer in writers:
            writer.close()


async def _head(reader: asyncio.StreamReader) -> list[str]:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionResetError):
        return []
    return head.decode().split("\r\n")[:-2]
