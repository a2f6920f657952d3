"""Threads for what takes too long for the event loop, and when they no longer hold its memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import Generic, NamedTuple, TypeVar, cast

from service.errors import NotReady
from service.threads import Threads

T = TypeVar("T")

_STOPPED = "the service stopped before this request was answered"


class Work(NamedTuple, Generic[T]):
    """What a thread is to do. on_end: called on the loop once no thread holds it."""

    call: Callable[[], T]
    on_end: Callable[[], None] = lambda: None


class _Outcome(NamedTuple, Generic[T]):
    """What became of a work: nothing, where nobody waited for it any more."""

    value: T | None = None
    error: BaseException | None = None

    def tell(self, future: asyncio.Future[T]) -> None:
        if future.done():
            return
        if self.error is None:
            future.set_result(cast(T, self.value))
        else:
            future.set_exception(self.error)


class WorkPool:
    """A bounded number of threads. Used from the event loop only."""

    def __init__(self, threads: int, name: str, *, pool: Executor | None = None) -> None:
        """name: of the threads. pool: instead of them, where a test decides what is done when."""
        self._is_closed = False
        if pool is None:
            pool = Threads(name, threads)
        self._pool = pool

    def run(
        self, call: Callable[[], T], *, on_end: Callable[[], None] = lambda: None
    ) -> asyncio.Future[T]:
        """`call()` on one of the threads; see `run_all`."""
        (found,) = self.run_all([Work(call, on_end)])
        return found

    def run_all(self, works: Sequence[Work[T]]) -> list[asyncio.Future[T]]:
        """Everything on one thread, in order; all are told of at the end of the last.

        For what is short: a thread is woken once, and wakes the loop once. Cancelling a future
        drops its work if that has not begun. on_end may be called after a future was cancelled, and
        is called before this raises: NotReady once closed, as the futures of what waits then do,
        and what the pool raises that has no thread.
        """
        loop = asyncio.get_running_loop()
        waiting: list[asyncio.Future[T]] = [loop.create_future() for _ in works]
        try:
            if self._is_closed:
                raise NotReady(_STOPPED)
            working = self._pool.submit(_outcomes, works, waiting)
        except Exception:
            for work in works:
                work.on_end()
            raise

        def dropped(future: asyncio.Future[T]) -> None:
            if future.cancelled() and all(each.cancelled() for each in waiting):
                working.cancel()

        def ended(working: Future[list[_Outcome[T]]]) -> None:
            for work in works:
                work.on_end()
            # An error of his own for each: it holds what the frames hold that it passes.
            stopped = [_Outcome[T](error=NotReady(_STOPPED)) for _ in works]
            outcomes = stopped if working.cancelled() else working.result()
            for future, outcome in zip(waiting, outcomes, strict=True):
                outcome.tell(future)

        def report(working: Future[list[_Outcome[T]]]) -> None:
            # A loop that was closed meanwhile has nobody who waits.
            if not loop.is_closed():
                loop.call_soon_threadsafe(ended, working)

        for future in waiting:
            future.add_done_callback(dropped)
        working.add_done_callback(report)
        return waiting

    def close(self) -> None:
        """Start nothing more; what runs finishes, unless the program ends."""
        self._is_closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)


def _outcomes(works: Sequence[Work[T]], waiting: Sequence[asyncio.Future[T]]) -> list[_Outcome[T]]:
    """On the thread. Whether a future was cancelled may be looked at from here; nothing else."""
    return [
        _Outcome() if future.cancelled() else _outcome(work.call)
        for work, future in zip(works, waiting, strict=True)
    ]


def _outcome(call: Callable[[], T]) -> _Outcome[T]:
    try:
        return _Outcome(call())
    except StopIteration as error:
        # Futures cannot carry one.
        return _Outcome(error=RuntimeError(f"the work stopped: {error!r}"))
    except BaseException as error:
        return _Outcome(error=error)
