"""Threads beside the event loop: what waits when they are closed. `test_decoding` has the rest."""

from __future__ import annotations

import asyncio
import threading
from functools import partial

import pytest

from service.errors import NotReady
from service.work_pool import Work, WorkPool
from tests.service.scripted import PATIENCE_S

pytestmark = pytest.mark.anyio


async def test_what_waits_hears_that_the_service_stopped_and_what_runs_finishes() -> None:
    pool, begun, gate = WorkPool(1, "test"), threading.Event(), threading.Event()

    def block() -> bool:
        begun.set()
        return gate.wait(PATIENCE_S)

    runs, waits = pool.run(block), pool.run(lambda: True)
    assert begun.wait(PATIENCE_S)
    pool.close()
    with pytest.raises(NotReady, match="stopped"):
        await waits
    gate.set()
    assert await runs
    ended: list[bool] = []
    with pytest.raises(NotReady, match="stopped"):
        pool.run(lambda: True, on_end=lambda: ended.append(True))
    assert ended, "what the work would have held is given back"


async def test_works_share_a_thread_and_each_has_its_own_outcome() -> None:
    pool, told = WorkPool(2, "test"), list[str]()
    threads: list[str] = []

    def fail() -> str:
        raise ValueError("damaged")

    def succeed() -> str:
        threads.append(threading.current_thread().name)
        return "done"

    works = [Work(call, partial(told.append, call.__name__)) for call in (succeed, fail, succeed)]
    first, damaged, last = pool.run_all(works)
    assert (await first, await last) == ("done", "done")
    with pytest.raises(ValueError, match="damaged"):
        await damaged
    assert len(set(threads)) == 1
    assert told == ["succeed", "fail", "succeed"]
    pool.close()


async def test_what_nobody_waits_for_is_left_out_of_its_group() -> None:
    pool, begun, gate = WorkPool(1, "test"), threading.Event(), threading.Event()
    done: list[str] = []
    ended: list[str] = []

    def block() -> None:
        begun.set()
        assert gate.wait(PATIENCE_S)

    names = ("left", "stayed")
    works = [Work(partial(done.append, name), partial(ended.append, name)) for name in names]
    holds, (left, stayed) = pool.run(block), pool.run_all(works)
    assert begun.wait(PATIENCE_S)
    left.cancel()
    await asyncio.sleep(0)
    assert not ended, "the thread is still to see that it has left"
    gate.set()
    await asyncio.gather(holds, stayed)
    assert done == ["stayed"]
    assert ended == ["left", "stayed"]
    pool.close()


async def test_a_group_that_all_have_left_needs_no_thread() -> None:
    pool, gate, ended = WorkPool(1, "test"), threading.Event(), list[str]()
    holds = pool.run(lambda: gate.wait(PATIENCE_S))
    works = [Work(lambda: True, partial(ended.append, name)) for name in ("one", "other")]
    for future in pool.run_all(works):
        future.cancel()
    while ended != ["one", "other"]:
        await asyncio.sleep(0)
    gate.set()
    assert await holds
    pool.close()


async def test_work_that_no_thread_takes_is_given_back_at_once_and_one_thread_is_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool, start = WorkPool(2, "test"), threading.Thread.start
    ended: list[str] = []
    refused = {"test_0", "test_1"}

    def refuse(thread: threading.Thread) -> None:
        if thread.name in refused:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start"):
        pool.run(lambda: 1, on_end=lambda: ended.append("refused"))
    assert ended == ["refused"]
    refused.remove("test_0")
    assert await pool.run(lambda: 2, on_end=lambda: ended.append("done")) == 2
    assert ended == ["refused", "done"]
    pool.close()
