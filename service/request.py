"""The nouns of the online side, one per stage: Exchange, Request, Batch, Reply.

Durations are seconds of the monotonic clock. A request carries everything about itself, so there
are no side tables to keep in step.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from engines.core import Float32Array, OperatingPoint, UInt8Array

T = TypeVar("T")

_REQUEST_ID = re.compile(r"[!-~]{1,128}")


@dataclass(slots=True)
class Exchange:
    """One HTTP request and its answer: what its log line and its metrics will say.

    Filled in as it proceeds. `model` stays empty until it names a model that is served, so that
    it can be a metric label. outcome: "ok", or the code of the error.
    """

    id: str
    arrived_s: float
    model: str = ""
    points: tuple[str, ...] = ()
    reason: str | None = None
    phases_s: dict[str, float] = field(default_factory=dict)
    num_bytes: int = 0
    status: int = 0
    outcome: str = "ok"
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What one image gets: `probabilities` (classes,) and how they came about.

    activation: rate per masker, (maskers,). batch_size: images that ran together.
    phases_s: seconds in `decode`, `queue`, and the engine's own stages (of the whole batch).
    """

    probabilities: Float32Array
    activation: Float32Array
    point: OperatingPoint
    reason: str
    batch_size: int
    phases_s: Mapping[str, float]


@dataclass(eq=False, slots=True)
class Request:
    """One image that waits for the engine: `pixels` (size, size, 3) of its point's size.

    Its reply is resolved once, and only while somebody still waits for it.
    """

    model: str
    point: OperatingPoint
    reason: str
    pixels: UInt8Array
    reply: asyncio.Future[Reply]
    decode_s: float = 0.0
    queued_s: float = 0.0

    def resolve(self, outcome: Reply | Exception) -> None:
        """Hand over the reply, or the error; without effect when the caller has left."""
        if self.reply.done():
            return
        if isinstance(outcome, Exception):
            self.reply.set_exception(outcome)
        else:
            self.reply.set_result(outcome)


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests of one model and one image size that run together; dispatched at `dispatched_s`."""

    model: str
    requests: tuple[Request, ...]
    dispatched_s: float

    @property
    def images(self) -> UInt8Array:
        """(N, size, size, 3), in the order of the requests."""
        return np.stack([request.pixels for request in self.requests])

    @property
    def points(self) -> tuple[OperatingPoint, ...]:
        """One operating point per image."""
        return tuple(request.point for request in self.requests)


def request_id(given: str | None) -> str:
    """The client's `x-request-id` where it is 1 to 128 printable characters, else a new one."""
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return uuid.uuid4().hex


async def until_disconnect(
    receive: Callable[[], Awaitable[Mapping[str, Any]]],
    work: Coroutine[Any, Any, T],
    gone: Exception,
) -> T:
    """The result of `work`, or `gone` raised after cancelling it when the client leaves first.

    `receive` is the ASGI callable of a request whose body has been read.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise gone
    finally:
        watch.cancel()
        task.cancel()


async def _disconnected(receive: Callable[[], Awaitable[Mapping[str, Any]]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
