"""Time and threads, which a test may own: then nothing happens until it says so."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable
from dataclasses import dataclass

from service.alarm import CallLater


@dataclass(frozen=True, slots=True)
class World:
    """None is the event loop's own time, and threads of ours.

    clock: monotonic seconds. process_time, thread_time: CPU seconds. call_later: as the event
    loop's. The pools stand in for threads.
    """

    clock: Callable[[], float] = time.monotonic
    process_time: Callable[[], float] = time.process_time
    thread_time: Callable[[], float] = time.thread_time
    call_later: CallLater | None = None
    engine_pool: concurrent.futures.Executor | None = None
    decode_pool: concurrent.futures.Executor | None = None
