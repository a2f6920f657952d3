"""Threads beside the event loop: what waits when they are closed. `test_decoding` has the rest."""

from __future__ import annotations

import threading

import pytest

from service.errors import NotReady
from service.work_pool import WorkPool
from tests.service.scripted import PATIENCE_S

pytestmark = pytest.mark.anyio


async def test_what_waits_hears_that_the_service_stopped_and_what_runs_finishes() -> None:
    pool, gate = WorkPool(1, "test"), threading.Event()
    runs, waits = pool.run(lambda: gate.wait(PATIENCE_S)), pool.run(lambda: True)
    pool.close()
    with pytest.raises(NotReady, match="stopped"):
        await waits
    gate.set()
    assert await runs
    ended: list[bool] = []
    with pytest.raises(NotReady, match="stopped"):
        pool.run(lambda: True, on_end=lambda: ended.append(True))
    assert ended, "what the work would have held is given back"
