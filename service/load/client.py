"""A lean HTTP/1.1 client: kept-alive connections of one server, as little work as Python allows.

It shares the machine with the server that it measures, so it must cost little; and it must be on
time, so its event loop waits with `select`, which counts microseconds where epoll counts
milliseconds.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import httptools

from engines.errors import LaudError

T = TypeVar("T")

MOST_CONNECTIONS = 900
"""`select` has room for 1024 files."""


class LoadError(LaudError):
    """The server cannot be reached, is not ours, or refuses what is asked for."""


class Unanswered(LoadError):
    """A request that got no answer: the connection failed or was closed."""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer. sent_s: when the request was written; done_s: when its last byte was here."""

    status: int
    headers: Mapping[bytes, bytes]
    body: bytes
    sent_s: float
    done_s: float


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server is. prefix: path before its routes, without a closing slash."""

    host: str
    port: int
    prefix: str = ""
    tls: bool = False

    @property
    def url(self) -> str:
        """As people write it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' if self.tls else ''}://{host}:{self.port}{self.prefix}"


def parse_url(url: str) -> Server:
    """`http://HOST[:PORT][/PREFIX]`; LoadError says what is wrong."""
    example = "write it as http://127.0.0.1:8000"
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise LoadError(f"'{url}' is no URL: {error}; {example}") from None
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise LoadError(f"'{url}' is not the URL of a server; {example}")
    tls = parts.scheme == "https"
    return Server(host, port or (443 if tls else 80), parts.path.rstrip("/"), tls)


def run(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, on an event loop that is on time to the microsecond."""
    with asyncio.Runner(
        loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())
    ) as runner:
        return runner.run(work)


class Client:
    """At most `connections` connections to one server, opened when needed, the hottest first."""

    def __init__(
        self,
        server: Server,
        *,
        connections: int = 256,
        context: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 1 <= connections <= MOST_CONNECTIONS:
            raise LoadError(f"connections must be 1 to {MOST_CONNECTIONS}, got {connections}")
        self.server = server
        self.clock = clock
        self._context = (context or ssl.create_default_context()) if server.tls else None
        self._most = connections
        self._open = 0
        self._idle: list[_Connection] = []
        self._waiting: deque[asyncio.Future[_Connection | None]] = deque()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    async def send(self, *parts: bytes) -> Response:
        """Send a whole request, head and body, and wait for its answer. Raises Unanswered.

        A kept-alive connection that the server closed at the same moment is no failure: the
        request goes out once more, on another.
        """
        while True:
            connection = await self._take()
            reused = connection.used
            answer = connection.exchange(parts)
            try:
                response = await answer
            except Unanswered:
                self._gone()
                if reused and not connection.heard:
                    continue
                raise
            except asyncio.CancelledError:
                # Half an exchange is on it.
                connection.close()
                self._gone()
                raise
            if connection.reusable:
                self._give(connection)
            else:
                connection.close()
                self._gone()
            return response

    async def open(self, number: int) -> None:
        """Have `number` connections ready before anything is measured."""
        taken = [await self._take() for _ in range(min(number, self._most))]
        for connection in taken:
            self._give(connection)

    async def _take(self) -> _Connection:
        while True:
            while self._idle:
                connection = self._idle.pop()
                if connection.alive:
                    return connection
                self._open -= 1
            if self._open < self._most:
                self._open += 1
                try:
                    return await self._connect()
                except BaseException:
                    self._gone()
                    raise
            waiter: asyncio.Future[_Connection | None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            handed = await waiter
            if handed is not None and handed.alive:
                return handed
            if handed is not None:
                self._open -= 1

    async def _connect(self) -> _Connection:
        server = self.server
        try:
            connection = _Connection(self.clock)
            await asyncio.get_running_loop().create_connection(
                lambda: connection, server.host, server.port, ssl=self._context
            )
        except OSError as error:
            raise Unanswered(f"cannot connect to {server.url}: {_reason(error)}") from None
        return connection

    def _give(self, connection: _Connection) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        self._idle.append(connection)

    def _gone(self) -> None:
        """A connection is no more; whoever waits for one may open another."""
        self._open -= 1
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return


def _reason(error: OSError) -> str:
    """asyncio words its own errors for programmers, and puts several into one."""
    known = error.errno is not None and error.errno > 0 and not isinstance(error, socket.gaierror)
    return os.strerror(error.errno) if known and error.errno else error.strerror or str(error)


class _Connection(asyncio.Protocol):
    """One exchange at a time. heard: bytes of the answer have come."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[Response] | None = None
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._sent_s = self._read_s = 0.0
        self.used = self.heard = False
        self.reusable = True

    @property
    def alive(self) -> bool:
        """Whether both sides keep it open."""
        return self._transport is not None and not self._transport.is_closing()

    def exchange(self, parts: tuple[bytes, ...]) -> asyncio.Future[Response]:
        """Write a request; the future has its answer, or Unanswered."""
        self.used, self.heard = True, False
        self._headers, self._body = {}, []
        self._answer = asyncio.get_running_loop().create_future()
        self._sent_s = self._clock()
        if self._transport is not None:
            self._transport.write(b"".join(parts))
        return self._answer

    def close(self) -> None:
        """Close it now."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._read_s = self._clock()
        self.heard = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"not HTTP: {error}")
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._fail(f"the connection was closed before the answer{f': {error}' if error else ''}")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        self.reusable = self._parser.should_keep_alive()
        if self._answer is not None and not self._answer.done():
            body = b"".join(self._body)
            self._answer.set_result(
                Response(status, self._headers, body, self._sent_s, self._read_s)
            )
        self._answer = None

    def _fail(self, reason: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Unanswered(reason))
        self._answer = None
