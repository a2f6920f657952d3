"""uvicorn's HTTP/1.1 protocol, made for strangers: how long and how large a request may be.

It also notes when the first byte of each request came, which is when a deadline's clock starts.
What it refuses never reaches the application; it answers `{"error": ...}` like everything else.
"""

from __future__ import annotations

import asyncio
import time
from asyncio import TimerHandle
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from http import HTTPStatus
from typing import Any, ClassVar, cast

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.errors import BadRequest, NotReady, RequestTimeout, ServiceError
from service.incoming import incoming_of, note_incoming

FIRST_BYTE = "laud.first_byte_s"
"""Key of an ASGI scope: when the first byte of that request's head came, `time.monotonic`."""

MAX_HEAD_BYTES = 32 * 1024
# How long a refused client may read its answer before its connection is closed.
_LINGER_S = 1.0


class HeadTooLarge(ServiceError):
    """The request line and the headers together exceed the limit."""

    status = 431
    code = "too_large"


@dataclass(frozen=True, slots=True)
class Rules:
    """What a connection may do.

    receive_s: for a request's head, and again for its body, each from its begin. A connection that
    says nothing at all, or does not take its answer, has as long. on_refusal: hears what was
    answered without the application.
    """

    receive_s: float = 10.0
    head_bytes: int = MAX_HEAD_BYTES
    on_refusal: Callable[[ServiceError], None] = lambda error: None
    clock: Callable[[], float] = time.monotonic


class _Part(Enum):
    """What the next byte of a connection belongs to."""

    NOTHING = "nothing"
    HEAD = "head"
    BODY = "body"


_NOTHING, _HEAD, _BODY = _Part


class _Gathering(asyncio.Transport):
    """What one answer is written to: its head leaves with the first part of its body, in one
    write, so that neither the kernel nor the client is woken for the head alone."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport
        self._head: bytes | None = None
        self._began = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """See asyncio.WriteTransport."""
        if self._head is not None:
            data, self._head = self._head + data, None
        elif not self._began:
            self._began, self._head = True, bytes(data)
            return
        self._transport.write(data)

    def flush(self) -> None:
        """Write the head of an answer without a body."""
        if self._head is not None:
            self.write(b"")

    def close(self) -> None:
        """See asyncio.BaseTransport."""
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """See asyncio.BaseTransport."""
        return self._transport.is_closing()


class LimitedProtocol(HttpToolsProtocol):
    """One connection. Use `limited`, which makes the class that uvicorn's configuration takes.

    A head that is late, too large or no HTTP is refused here. A body that is late is refused where
    it is read (`service.images.read_body`); here its connection ends after that answer.
    Time in which we do not read, because an answer of ours is due first, does not count.
    Trailers of a chunked body are dropped; those that go on are refused as a head would be.
    """

    rules: ClassVar[Rules] = Rules()

    _part: _Part = _NOTHING
    _received_s = 0.0
    _since_s = 0.0
    _timer: TimerHandle | None = None
    _ending: TimerHandle | None = None
    _head_bytes = 0
    _beside_bytes = 0
    _has_body = False
    _began = False
    _keeps_alive = True
    _running: RequestResponseCycle | None = None
    _is_deaf = False
    _has_refused = False
    _is_leaving = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(
            self.rules.receive_s, self.timeout_keep_alive_handler
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        if self._running is not None and not self._running.response_complete:
            _leave(self._running)
        for timer in (self._timer, self._ending):
            if timer is not None:
                timer.cancel()
        self._timer = self._ending = None

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._is_deaf:
            return
        self._received_s = self.rules.clock()
        self._unset_keepalive_if_required()
        self._began = self._has_body = False
        try:
            self.parser.feed_data(data)
            if self._part is _HEAD and not self._began:
                # Headers are counted once all are there; until then, what piles up is.
                self._head_bytes += len(data)
                self._check_head(self._head_bytes)
            elif self._part is _BODY and not (self._began or self._has_body):
                # What is no body: sizes of chunks between parts of it, and after it trailers, of
                # which the parser tells once they are whole.
                self._beside_bytes += len(data)
                self._check_head(self._beside_bytes)
        except httptools.HttpParserUpgrade:
            # It is answered in HTTP/1.1, but what follows on this connection may be anything.
            self._is_deaf = True
            self.cycle.keep_alive = False
        except (httptools.HttpParserError, HeadTooLarge) as error:
            cause = error.__context__ if isinstance(error, httptools.HttpParserError) else error
            if not isinstance(cause, HeadTooLarge):
                cause = BadRequest("this is no valid HTTP/1.1 request")
            self._refuse(cause)
        self._watch()

    def on_message_begin(self) -> None:
        """See httptools."""
        super().on_message_begin()
        self._unset_keepalive_if_required()
        scope = cast(dict[str, Any], self.scope)
        scope[FIRST_BYTE] = self._received_s
        note_incoming(scope)
        self._part, self._since_s = _HEAD, self.loop.time()
        self._head_bytes = self._beside_bytes = 0
        self._began = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools, which calls it for trailers too."""
        if self._part is _HEAD:
            super().on_header(name, value)
        else:
            self._beside_bytes += len(name) + len(value) + len(b": \r\n")
            self._check_head(self._beside_bytes)

    def on_body(self, body: bytes) -> None:
        """See httptools."""
        self._has_body, self._beside_bytes = True, 0
        super().on_body(body)

    def on_headers_complete(self) -> None:
        """See httptools."""
        in_headers = sum(len(name) + len(value) + len(b": \r\n") for name, value in self.headers)
        self._check_head(len(self.url) + in_headers)
        super().on_headers_complete()
        self._part, self._since_s = _BODY, self.loop.time()
        if self.expect_100_continue:
            # A client that is refused instead of told to continue may send its body or not: what
            # comes next could not be told apart.
            self._keeps_alive, self.cycle.keep_alive = self.cycle.keep_alive, False
        else:
            answer = _Gathering(self.transport)
            self.cycle.transport, self.cycle.on_response = answer, partial(self._answered, answer)
        if not self.pipeline:
            self._running = self.cycle

    def on_message_complete(self) -> None:
        """See httptools."""
        self._part = _NOTHING
        super().on_message_complete()
        cycle = self.cycle
        incoming = incoming_of(cycle.scope)
        if incoming is not None:
            incoming.is_whole = True
        if not self.pipeline:
            # A large last read paused it; nobody asks for more, and only readers hear of a leave.
            self.flow.resume_reading()
        if self.expect_100_continue and not cycle.response_started and not self._is_leaving:
            cycle.keep_alive = self._keeps_alive
        if cycle.response_complete and not self.pipeline and not self.transport.is_closing():
            # The answer came first, and its timer was stopped by the rest of the body.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        """See uvicorn."""
        if self.pipeline:
            # It is begun now.
            self._running = self.pipeline[-1][0]
        super().on_response_complete()
        if self._part is not _NOTHING:
            self._unset_keepalive_if_required()
        if self.transport.is_closing() and self.transport.get_write_buffer_size():
            self._end_after(self.rules.receive_s, self.transport.abort)

    def timeout_keep_alive_handler(self) -> None:
        """See uvicorn."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        super().pause_writing()
        self._end_after(self.rules.receive_s, self.transport.abort)

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        super().resume_writing()
        if self._ending is not None and not self._is_deaf:
            self._ending.cancel()
            self._ending = None

    def shutdown(self) -> None:
        """See uvicorn: the server stops. A request that has begun to arrive is told so."""
        self._is_leaving = True
        if self._has_refused:
            self.transport.close()
        elif self._part is _HEAD and not self._is_deaf:
            self._refuse(NotReady("the service is stopping"))
        else:
            super().shutdown()

    def _answered(self, answer: _Gathering) -> None:
        answer.flush()
        self.on_response_complete()

    def _check_head(self, num_bytes: int) -> None:
        limit = self.rules.head_bytes
        if num_bytes > limit:
            raise HeadTooLarge(f"request line and headers have more than {limit:,} bytes")

    def _watch(self) -> None:
        """Have a timer run while something is being received. It is not stopped at the end of each
        request: it sees then that there is nothing to do."""
        if self._part is not _NOTHING and self._timer is None and not self._is_deaf:
            self._timer = self.loop.call_later(self.rules.receive_s, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        if self._part is _NOTHING or self._is_deaf or self.transport.is_closing():
            return
        now_s, limit_s = self.loop.time(), self.rules.receive_s
        if self.flow.read_paused:
            self._since_s = now_s
        left_s = self._since_s + limit_s - now_s
        if left_s > 0.0:
            self._timer = self.loop.call_later(left_s, self._on_time)
        elif self._part is _HEAD:
            self._refuse(RequestTimeout(f"the request's head took more than {limit_s:g} s"))
        elif self.cycle.response_complete:
            self.transport.close()
        else:
            self.cycle.keep_alive = False

    def _refuse(self, error: ServiceError) -> None:
        """Answer with an error and end the connection; after the answers that are due before it."""
        self._is_deaf = True
        if self.transport.is_closing():
            return
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            is_its_body = self._part is _BODY and not self.pipeline
            if not is_its_body or cycle.response_started:
                cycle.keep_alive = False
                return
            cycle.waiting_for_100_continue = False
            _leave(cycle)
        else:
            self.rules.on_refusal(error)
        self._has_refused = True
        body = orjson.dumps({"error": str(error)})
        head = (
            f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
            f"{'retry-after: 1' if isinstance(error, NotReady) else 'cache-control: no-store'}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        if self.transport.can_write_eof():
            # Closing while the client still sends would reset the connection, and could take the
            # answer with it.
            self.transport.write_eof()
            self._end_after(min(_LINGER_S, self.rules.receive_s), self.transport.close)
        else:
            self.transport.close()

    def _end_after(self, seconds: float, end: Callable[[], None]) -> None:
        if self._ending is not None:
            self._ending.cancel()
        self._ending = self.loop.call_later(seconds, end)


def _leave(cycle: RequestResponseCycle) -> None:
    """It hears that its client is gone, and writes nothing more."""
    cycle.disconnected = True
    cycle.message_event.set()
    incoming = incoming_of(cycle.scope)
    if incoming is not None:
        incoming.leave()


def limited(rules: Rules) -> type[LimitedProtocol]:
    """The protocol under these rules, as uvicorn's configuration takes it: a class."""
    return type("Protocol", (LimitedProtocol,), {"rules": rules})
