"""Parts of `laud bench serve` from end to end, on a server that answers whatever it is asked.

What they find about it is of no interest; that every request is accounted for is.
"""

from __future__ import annotations

import itertools
import os

import pytest

from service.load import bench_agreement, bench_lag
from service.load.bench_agreement import agreement
from service.load.bench_lag import LEVEL, SHARE, lag
from service.load.bench_plan import BenchPlan
from service.load.bench_steady import Bench
from service.load.client import Client
from service.load.own_server import Process
from service.load.pictures import read_pictures
from service.load.target import Ask, find_model
from tests.service.load.socket_server import Asked, Told, answer, listening

MODELS = {
    "models": [
        {
            "name": "colours",
            "points": [
                {
                    "name": "full",
                    "image_size": 32,
                    "accuracy": {"value": 0.9},
                    "service_p50_ms": 4.0,
                }
            ],
        }
    ]
}
_numbers = itertools.count()


@pytest.fixture(autouse=True)
def nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a server has nothing to finish between two runs; and small pictures do."""
    monkeypatch.setattr(bench_lag, "_PAUSE_S", 0.0)
    monkeypatch.setattr(bench_lag, "_HD", (64, 48, 2_000))
    monkeypatch.setattr(bench_agreement, "_PAUSE_S", 0.0)


async def answers(asked: Asked) -> bytes:
    """As the real server would, of calls that are never alike."""
    if "GET /v1/models" in asked.line:
        return answer(MODELS)
    if "GET /metrics" in asked.line:
        return b"HTTP/1.1 200 X\r\ncontent-length: 0\r\n\r\n"
    service_ms = 0.1 + 1e-3 * (next(_numbers) % 100)
    return answer(
        {
            "point": "full",
            "accuracy": 0.9,
            "outcome": "met",
            "objective": {"slo_ms": 100.0},
            "measured": {"service_ms": service_ms},
            "milliseconds": {"receive": 0.01, "decode": 0.01, "queue": 0.01},
        }
    )


async def bench_of(told: Told, client: Client, plan: BenchPlan) -> Bench:
    process = Process(told.server, os.getpid())
    model = await find_model(client, Ask())
    return Bench(plan, process, client, model, read_pictures(()), "samples", lambda text: None)


@pytest.mark.anyio
async def test_agreement_sends_every_cell_to_both() -> None:
    plan = BenchPlan(seconds=1.0, loads=(0.02, 0.05), cv2s=(1.0,), slo_ms=60_000.0)
    async with listening(answers) as told, Client(told.server) as client:
        table, cells = await agreement(await bench_of(told, client, plan), "fixed:full")
        pinned = [asked for asked in told.asked if "x-operating-point" in asked.headers]
    assert table.policy == "fixed:full"
    assert [(cell.load, cell.cv2) for cell in cells] == [(0.02, 1.0), (0.05, 1.0)]
    assert [cell.server.accuracy for cell in cells] == pytest.approx([0.9, 0.9])
    assert all(cell.requests > 0 and cell.replayed is not None for cell in cells)
    # A fixed point is asked for by the requests, as in the simulator.
    assert {asked.headers["x-operating-point"] for asked in pinned} == {"full"}
    assert len(pinned) >= sum(cell.requests for cell in cells)


@pytest.mark.anyio
async def test_lag_is_measured_below_what_an_open_loop_bears() -> None:
    plan = BenchPlan(seconds=1.0, steps=4)
    async with listening(answers) as told, Client(told.server) as client:
        found = await lag(await bench_of(told, client, plan))
        bodies = {asked.body for asked in told.asked if asked.body}
    assert (found.share, found.level) == (SHARE, LEVEL)
    assert found.rate_hz == pytest.approx(SHARE * found.sustained_hz)
    assert (found.loop_lag_p99_ms, found.decision_p99_ms) == (None, None)
    assert len(bodies) == 4
    assert found.server_cores >= 0.0
