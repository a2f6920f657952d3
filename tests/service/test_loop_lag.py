"""The event loop's lag is how late a timer of it goes."""

from __future__ import annotations

import asyncio

import pytest

from service.loop_lag import watch_loop

pytestmark = pytest.mark.anyio


async def test_lag_is_what_passes_beyond_the_interval() -> None:
    now_s = 0.0
    told: list[float] = []
    late_s = iter((0.0, 0.004, -0.001))

    async def sleep(seconds: float) -> None:
        nonlocal now_s
        try:
            now_s += seconds + next(late_s)
        except StopIteration:
            raise asyncio.CancelledError from None

    with pytest.raises(asyncio.CancelledError):
        await watch_loop(told.append, interval_s=0.05, clock=lambda: now_s, sleep=sleep)
    # Timers of uvloop may go a little early.
    assert told == pytest.approx([0.0, 0.004, 0.0])


async def test_it_watches_the_running_loop_until_it_is_cancelled() -> None:
    told = asyncio.Queue[float]()
    task = asyncio.create_task(watch_loop(told.put_nowait, interval_s=0.0))
    assert await told.get() >= 0.0
    assert await told.get() >= 0.0
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
