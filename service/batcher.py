"""The batcher owns the queue of all models and forms batches whenever the executor is free."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

import structlog

from service.errors import NotReady
from service.request import Batch, Reply, Request

_log = structlog.get_logger("laud")


class Runner(Protocol):
    """What runs a batch: the executor."""

    async def run(self, batch: Batch) -> list[Reply | Exception]:
        """One outcome per request, in order."""


class Batcher:
    """First come, first served, in batches of one model and one image size.

    There is no timer: while a batch runs the next one gathers, and an idle service adds no delay.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        max_batch: int,
        on_dispatch: Callable[[Batch], None] = lambda batch: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runner = runner
        self._max_batch = max_batch
        self._on_dispatch = on_dispatch
        self._clock = clock
        self._waiting: dict[Request, None] = {}
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_alive(self) -> bool:
        """Whether requests are being dispatched; false before the start and after a failure."""
        return self._task is not None and not self._task.done()

    def depth(self, model: str) -> int:
        """Requests of a model that wait for the executor."""
        return sum(request.model == model for request in self._waiting)

    def start(self) -> None:
        """Dispatch from now on, in a task of the running loop."""
        self._task = asyncio.get_running_loop().create_task(self._dispatch(), name="batcher")
        self._task.add_done_callback(self._ended)

    async def stop(self) -> None:
        """Stop dispatching; whoever still waits gets NotReady."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    def submit(self, request: Request) -> None:
        """Queue a request, whose `reply` will be resolved. Raises NotReady when it never would."""
        if not self.is_alive:
            raise NotReady("the batcher is not running")
        request.queued_s = self._clock()
        self._waiting[request] = None
        self._arrived.set()

    def discard(self, request: Request) -> None:
        """Forget a request whose caller has left; one that is running finishes unheard."""
        self._waiting.pop(request, None)
        request.reply.cancel()

    async def _dispatch(self) -> None:
        while True:
            await self._arrived.wait()
            batch = self._next_batch()
            if batch is None:
                self._arrived.clear()
                continue
            try:
                self._on_dispatch(batch)
                outcomes = await self._runner.run(batch)
                for request, outcome in zip(batch.requests, outcomes, strict=True):
                    request.resolve(outcome)
            except BaseException:
                for request in batch.requests:
                    request.resolve(NotReady("the service stopped while this request was running"))
                raise

    def _next_batch(self) -> Batch | None:
        """The oldest request and those behind it that can run with it; drops the cancelled."""
        chosen: list[Request] = []
        for request in list(self._waiting):
            if request.reply.done():
                del self._waiting[request]
            elif len(chosen) < self._max_batch and _fits(request, chosen):
                del self._waiting[request]
                chosen.append(request)
        if not chosen:
            return None
        return Batch(chosen[0].model, tuple(chosen), self._clock())

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            _log.critical(
                "the batcher died, the service is no longer ready", exc_info=task.exception()
            )
        while self._waiting:
            request, _ = self._waiting.popitem()
            request.resolve(NotReady("the service stopped before this request could run"))


def _fits(request: Request, chosen: list[Request]) -> bool:
    return not chosen or (
        request.model == chosen[0].model and request.point.image_size == chosen[0].point.image_size
    )
