"""How late the event loop runs what is due: the time that every request waits besides."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

INTERVAL_S = 0.05
"""Twenty samples a second cost nothing and make a 99 % quantile within a minute."""


async def watch_loop(
    observe: Callable[[float], None],
    *,
    interval_s: float = INTERVAL_S,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> None:
    """Tell `observe`, for ever, how many seconds after its time a timer of the running loop went.

    The clock is not the loop's: uvloop's counts milliseconds, and stands while callbacks run.
    """
    while True:
        due_s = clock() + interval_s
        await sleep(interval_s)
        observe(max(0.0, clock() - due_s))
