"""Threads for what takes too long for the event loop, and when they no longer hold its memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import TypeVar

from service.errors import NotReady
from service.threads import Threads

T = TypeVar("T")

_STOPPED = "the service stopped before this request was answered"


class WorkPool:
    """A bounded number of threads. Used from the event loop only."""

    def __init__(self, threads: int, name: str, *, pool: Executor | None = None) -> None:
        """name: of the threads. pool: instead of them, where a test decides what is done when."""
        self._is_closed = False
        if pool is None:
            pool = Threads(name, threads)
        self._pool = pool

    def run(
        self, work: Callable[[], T], *, on_end: Callable[[], None] = lambda: None
    ) -> asyncio.Future[T]:
        """`work()` on one of the threads.

        Cancelling the future drops the work while it waits for a thread. on_end: called on the loop
        once no thread holds the work, which may be after the future was cancelled, and before this
        raises: NotReady once closed, as the future of what waits then does, and what the pool
        raises that has no thread.
        """
        try:
            if self._is_closed:
                raise NotReady(_STOPPED)
            working = self._pool.submit(_carried, work)
        except Exception:
            on_end()
            raise
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[T] = loop.create_future()

        def dropped(future: asyncio.Future[T]) -> None:
            if future.cancelled():
                working.cancel()

        def ended(work: Future[T]) -> None:
            on_end()
            if waiting.done():
                return
            if work.cancelled():
                waiting.set_exception(NotReady(_STOPPED))
            elif (error := work.exception()) is None:
                waiting.set_result(work.result())
            else:
                waiting.set_exception(error)

        def report(work: Future[T]) -> None:
            # A loop that was closed meanwhile has nobody who waits.
            if not loop.is_closed():
                loop.call_soon_threadsafe(ended, work)

        waiting.add_done_callback(dropped)
        working.add_done_callback(report)
        return waiting

    def close(self) -> None:
        """Start nothing more; what runs finishes, unless the program ends."""
        self._is_closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)


def _carried(work: Callable[[], T]) -> T:
    try:
        return work()
    except StopIteration as error:
        # Futures cannot carry one.
        raise RuntimeError(f"the work stopped: {error!r}") from error
