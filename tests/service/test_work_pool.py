"""Threads beside the event loop: what waits when they are closed. `test_decoding` has the rest."""

from __future__ import annotations

import threading

import pytest

from service.errors import NotReady
from service.work_pool import WorkPool
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
