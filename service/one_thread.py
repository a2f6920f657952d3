"""A thread that runs what it is given, one after another."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

Work = tuple["concurrent.futures.Future[Any]", Callable[[], Any]]


class OneThread(concurrent.futures.Executor):
    """As `ThreadPoolExecutor(1)`, which takes twice as long to hand something over: 60 us on the
    machine of docs/benchmarks.md, here 30, and 9 instead of 40 of the caller's.

    The thread begins with the first work, and ends with the program if nobody ends it before.
    """

    def __init__(self, name: str) -> None:
        self._work: SimpleQueue[Work | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._begun = False

    def submit(
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> concurrent.futures.Future[T]:
        """See `concurrent.futures.Executor`. Raises RuntimeError after the end."""
        found: concurrent.futures.Future[T] = concurrent.futures.Future()
        with self._lock:
            if self._ended:
                raise RuntimeError("the thread has ended")
            if not self._begun:
                self._begun = True
                self._thread.start()
            self._work.put((found, lambda: fn(*args, **kwargs)))
        return found

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End after what was given before; cancel_futures: after what runs. Again: only waits."""
        with self._lock:
            if not self._ended:
                self._ended = True
                if cancel_futures:
                    while not self._work.empty():
                        work = self._work.get()
                        if work is not None:
                            work[0].cancel()
                self._work.put(None)
        if wait and self._begun:
            self._thread.join()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            future, call = work
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = call()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)
                del result
            # What was run may hold pictures, and the next may be long in coming.
            del work, future, call
