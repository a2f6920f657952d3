"""An application on a real socket, in a thread of this process, and clients that misbehave."""

from __future__ import annotations

import asyncio
import itertools
import json
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

import uvicorn
import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import ServiceError
from service.protocol import Rules, limited
from tests.service.scripted import PATIENCE_S


@dataclass(frozen=True)
class Answer:
    """What a client read: status, headers (names in lower case) and body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> str:
        """The message of an error; every error has one."""
        content = json.loads(self.body)
        assert content.keys() == {"error"}
        return str(content["error"])


class Client:
    """A connection: a socket, and whole answers read from it."""

    def __init__(self, taken: socket.socket) -> None:
        self.socket = taken
        self._stream = taken.makefile("rb")

    def send(self, data: bytes) -> None:
        """All of it."""
        self.socket.sendall(data)

    def answer(self) -> Answer:
        """The next answer. Raises ConnectionError when the server closes first."""
        status = self._line()
        headers: dict[str, str] = {}
        while line := self._line(may_be_empty=True):
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        code = int(status.split()[1])
        length = 0 if code == 100 else int(headers["content-length"])
        return Answer(code, headers, self._stream.read(length))

    def is_closed_by_peer(self) -> bool:
        """Whether the server ends the connection; waits until it does or says something."""
        try:
            return self._stream.read(1) == b""
        except ConnectionError:
            return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stream.close()
        self.socket.close()

    def _line(self, *, may_be_empty: bool = False) -> str:
        line = self._stream.readline().decode()
        if not line or (line == "\r\n" and not may_be_empty):
            raise ConnectionError(f"the server closed the connection; last line: {line!r}")
        return line.removesuffix("\r\n")


def connect(port: int, context: ssl.SSLContext | None = None) -> Client:
    """A client of that port of this machine."""
    taken = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    if context is not None:
        taken = context.wrap_socket(taken, server_hostname="localhost")
    return Client(taken)


def head(method: str = "POST", path: str = "/", **headers: object) -> bytes:
    """A request's head; underscores in names of headers are dashes."""
    lines = [f"{method} {path} HTTP/1.1", "host: laud"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


@dataclass
class Exchanges:
    """An application that answers with the body it got, and says what happens to it.

    starts: scopes as requests come; ends: "answered", "left", or the error's name. hold: requests
    wait for `gate` before they answer.
    """

    starts: queue.Queue[Scope] = field(default_factory=queue.Queue)
    ends: queue.Queue[str] = field(default_factory=queue.Queue)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    answer: bytes | None = None
    reads: bool = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        self.starts.put(scope)
        body, more = b"", self.reads
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.ends.put("left")
                return
            body += message["body"]
            more = message["more_body"]
        await self.gate.wait()
        content = body if self.answer is None else self.answer
        headers = [(b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})
        self.ends.put("answered")


@dataclass(frozen=True)
class Listening:
    """A server that runs: its port, and ways to reach into its thread."""

    port: int
    server: uvicorn.Server
    loop: asyncio.AbstractEventLoop

    def do(self, work: Callable[[], object]) -> None:
        """Run it on the server's loop, and wait for it."""
        done = threading.Event()
        self.loop.call_soon_threadsafe(work)
        self.loop.call_soon_threadsafe(done.set)
        assert done.wait(PATIENCE_S)

    def until_no_connections(self) -> None:
        """Wait until the last connection is forgotten."""
        until_s = time.monotonic() + PATIENCE_S
        while self.server.server_state.connections:
            assert time.monotonic() < until_s
            self.do(lambda: None)


@contextmanager
def listening(app: ASGIApp, rules: Rules, keep_alive_s: int = 5) -> Iterator[Listening]:
    """The application behind the protocol under test, until the block ends."""
    port = socket.create_server(("127.0.0.1", 0), backlog=1024)
    started: queue.Queue[Listening] = queue.Queue()

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            number = port.getsockname()[1]
            started.put(Listening(number, self, asyncio.get_running_loop()))

    server = Server(
        uvicorn.Config(
            app, http=limited(rules), ws="none", lifespan="off", log_config=None,
            timeout_keep_alive=keep_alive_s, timeout_graceful_shutdown=1,
        )
    )  # fmt: skip

    def serve() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(server.serve(sockets=[port]))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield started.get(timeout=PATIENCE_S)
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
        port.close()
    assert not thread.is_alive()


def rules(refused: queue.Queue[ServiceError], receive_s: float = PATIENCE_S) -> Rules:
    """Time comes in whole steps: every look at the clock is one second later."""
    steps = itertools.count(1)
    return Rules(receive_s, on_refusal=refused.put, clock=lambda: float(next(steps)))


def trickle(server: Listening, client: Client, endless: Iterable[int]) -> None:
    """Send byte by byte until the server ends the connection."""
    for byte in endless:
        try:
            client.send(bytes((byte,)))
        except ConnectionError:
            return
        server.do(lambda: None)


@contextmanager
def held(app: Exchanges, server: Listening) -> Iterator[None]:
    """Answers wait until the block ends."""
    server.do(app.gate.clear)
    yield
    server.do(app.gate.set)
