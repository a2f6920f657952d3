"""The nouns of the online side, one per stage: Exchange, Request, Batch, Reply.

Durations are seconds of the monotonic clock. A request carries everything about itself, so there
are no side tables to keep in step.
"""

from __future__ import annotations

import asyncio
import math
import re
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from engines.core import Float32Array, OperatingPoint, UInt8Array
from service.images import Picture
from service.incoming import Incoming
from service.memory import Reservation
from service.objectives import Objective
from service.results import Objects

T = TypeVar("T")

_REQUEST_ID = re.compile(r"[!-~]{1,128}")


@dataclass(slots=True)
class Exchange:
    """One HTTP request and its answer: what its log line and its metrics will say.

    Filled in as it proceeds. `model` stays empty until it names a model that is served, so that
    it can be a metric label; `objective` is there once the request is known to be an inference and
    its objective was understood. replies: to its images, in order. outcome: "ok", or the code of
    the error; `met` or `late` for an answered inference. engine_end_s: when its last image was
    done. has_choice: whether its images could be answered at more than one point. unusual: its
    answer takes longer than answers do. key: id of the API key that was used.
    """

    id: str
    arrived_s: float
    model: str = ""
    objective: Objective | None = None
    points: tuple[str, ...] = ()
    replies: Sequence[Reply] = ()
    reason: str | None = None
    phases_s: dict[str, float] = field(default_factory=dict)
    predicted: Prediction | None = None
    engine_end_s: float | None = None
    has_choice: bool = False
    unusual: bool = False
    num_bytes: int = 0
    status: int = 0
    outcome: str = "ok"
    error: str | None = None
    key: str | None = None

    @property
    def deadline_s(self) -> float:
        """When the answer is due, on the clock of `arrived_s`; infinite without an objective."""
        return math.inf if self.objective is None else self.arrived_s + self.objective.slo_s


@dataclass(frozen=True, slots=True)
class Prediction:
    """What was predicted when an image's point was chosen; seconds.

    service_*: dispatch to engine done, of its batch. completion_*: first byte to last byte out.
    """

    service_p50_s: float
    service_p95_s: float
    completion_p50_s: float
    completion_p95_s: float


@dataclass(frozen=True, slots=True)
class Reply:
    """What one image gets: `probabilities` (classes,) and how they came about.

    activation: rate per masker, (maskers,). mean_activation: None without maskers. accuracy:
    expected at that point, None where it was not measured. service_s: dispatch to engine done,
    measured. batch_size: images that ran together. phases_s: seconds in `decode`, `queue`, and the
    engine's own stages (of the batch).
    decisions: what every masker decided, side by side, bool (units,); only where asked for.
    looked_again: whether it was computed at its point's own size too; None where that does not
    glance. objects: what was found, where the model finds objects; it has no probabilities then.
    macs: multiply-accumulates that the engine executed for it; None where it does not tell.
    """

    probabilities: Float32Array
    activation: Float32Array
    point: OperatingPoint
    reason: str
    accuracy: float | None
    batch_size: int
    service_s: float
    predicted: Prediction
    phases_s: Mapping[str, float]
    decisions: npt.NDArray[np.bool_] | None = None
    looked_again: bool | None = None
    objects: Objects | None = None
    macs: float | None = None
    mean_activation: float | None = None


@dataclass(eq=False, slots=True)
class Request:
    """One image that waits for the engine; see `service.policy.core.Waiting` for the first fields.

    deadline_s: when the engine has to be done, for its answer to be sent in time. allowed: places
    in the model's dial, the fastest first. room: memory that is accounted for its picture. explain:
    whether mask decisions are wanted. answer_s: from the engine's end to the last byte out, as
    predicted: median and planning quantile. point, reason, pixels (size, size, 3) and predicted are
    there once it was chosen for a batch and decoded, ended_s once that ran. Its reply is resolved
    once, and only while somebody still waits for it.
    """

    model: str
    picture: Picture
    arrived_s: float
    deadline_s: float
    allowed: tuple[int, ...]
    degrade: bool
    prepare_s: float
    reply: asyncio.Future[Reply]
    room: Reservation | None = None
    pinned: bool = False
    explain: bool = False
    answer_s: tuple[float, float] = (0.0, 0.0)
    queued_s: float = 0.0
    point: OperatingPoint | None = None
    reason: str = ""
    pixels: UInt8Array | None = None
    decode_s: float = 0.0
    predicted: Prediction | None = None
    ended_s: float = 0.0

    @property
    def num_bytes(self) -> int:
        """Memory that it holds as it was sent."""
        return self.picture.num_bytes

    @property
    def is_wanted(self) -> bool:
        """Whether somebody still waits for its reply."""
        return not self.reply.done()

    def resolve(self, outcome: Reply | Exception) -> None:
        """Hand over the reply, or the error; without effect when the caller has left."""
        if self.reply.done():
            return
        if isinstance(outcome, StopIteration):
            # Futures cannot carry one.
            self.reply.set_exception(RuntimeError(repr(outcome)))
        elif isinstance(outcome, Exception):
            self.reply.set_exception(outcome)
        else:
            self.reply.set_result(outcome)


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests of one model and one image size that run together.

    points: one operating point per request. images: (N, size, size, 3); None where the picture of
    its only request is decoded first, on the executor's thread. dispatched_s: when it was handed to
    the executor.
    """

    model: str
    requests: tuple[Request, ...]
    points: tuple[OperatingPoint, ...]
    images: UInt8Array | None
    dispatched_s: float


def request_id(given: str | None) -> str:
    """The client's `x-request-id` where it is 1 to 128 printable characters, else a new one."""
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return uuid.uuid4().hex


async def until_disconnect(
    receive: Callable[[], Awaitable[Mapping[str, Any]]],
    work: Coroutine[Any, Any, T],
    gone: Exception,
    incoming: Incoming | None = None,
) -> T:
    """The result of `work`, or `gone` raised after cancelling it when the client leaves first.

    `receive` is the ASGI callable of a request whose body has been read. incoming: tells the same
    where it is known, for less than a task that waits for it.
    """
    task = asyncio.current_task()
    if task is None:
        raise TypeError("a task has to wait for it")
    if incoming is not None and incoming.has_left:
        work.close()
        raise gone
    asked_to_end, left = task.cancelling(), False

    def leave() -> None:
        nonlocal left
        left = True
        task.cancel()

    if incoming is None:
        stop_watching = _watch(receive, leave)
    else:
        incoming.on_leaving(leave)
        stop_watching = partial(incoming.on_leaving, None)
    try:
        return await work
    except asyncio.CancelledError:
        # As asyncio.timeout tells its own cancellation from somebody else's.
        if left and task.uncancel() <= asked_to_end:
            raise gone from None
        raise
    finally:
        stop_watching()


def _watch(
    receive: Callable[[], Awaitable[Mapping[str, Any]]], leave: Callable[[], None]
) -> Callable[[], None]:
    watch = asyncio.ensure_future(_disconnected(receive))

    def told(watch: asyncio.Task[None]) -> None:
        leave()

    def stop() -> None:
        watch.remove_done_callback(told)
        watch.cancel()

    watch.add_done_callback(told)
    return stop


async def _disconnected(receive: Callable[[], Awaitable[Mapping[str, Any]]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
