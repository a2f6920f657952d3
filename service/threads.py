"""Threads that run what they are given, first come first served."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

Work = tuple["concurrent.futures.Future[Any]", Callable[[], Any]]


class Threads(concurrent.futures.Executor):
    """As `ThreadPoolExecutor`, with less between the caller and the thread that takes the work.

    The threads begin with the first work, and end with the program if nobody ends them before. One
    runs everything in order.
    """

    def __init__(self, name: str, count: int = 1) -> None:
        """name: of the threads; of several with their number."""
        self._work: SimpleQueue[Work | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._ended = False
        names = [name] if count == 1 else [f"{name}_{number}" for number in range(count)]
        self._names = names[::-1]
        self._threads: list[threading.Thread] = []

    def submit(
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> concurrent.futures.Future[T]:
        """See `concurrent.futures.Executor`. Raises RuntimeError after the end, and where not even
        one thread can be begun."""
        found: concurrent.futures.Future[T] = concurrent.futures.Future()
        with self._lock:
            if self._ended:
                raise RuntimeError("the threads have ended")
            # Those that a machine short of threads refused are begun with what comes next; until
            # then the others do.
            while self._names:
                thread = threading.Thread(target=self._run, name=self._names[-1], daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    if not self._threads:
                        raise
                    break
                self._threads.append(thread)
                self._names.pop()
            self._work.put((found, lambda: fn(*args, **kwargs)))
        return found

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End after what was given before; cancel_futures: after what runs. Again: only waits."""
        with self._lock:
            if not self._ended:
                self._ended = True
                if cancel_futures:
                    self._drop()
                for _ in self._threads:
                    self._work.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def _drop(self) -> None:
        """Cancel what waits."""
        while True:
            try:
                # Other threads take from it too: whether it is empty is known by trying.
                work = self._work.get_nowait()
            except Empty:
                return
            if work is not None:
                work[0].cancel()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            future, call = work
            if future.set_running_or_notify_cancel():
                try:
                    result = call()
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)
                    del result
            # What was given may hold pictures, and the next may be long in coming.
            del work, future, call
