"""What `laud bench serve` concludes from what it measured, and how it takes turns."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from engines.errors import InvalidInput
from service.load.bare import bare_app
from service.load.bench_load import contention_of, goodput_of
from service.load.bench_plan import BenchPlan, bound_of, check_plan, fastest, of_full, recovery_s
from service.load.bench_report import Capacity, PointCapacity, ServeBench
from service.load.bench_steady import overhead_of
from service.load.client import Client, LoadError, Response
from service.load.closed_loop import in_turns, saturate, search_rates
from service.load.made_up import made_up_jpeg
from service.load.own_server import gained, own_server, thread_cpu_s
from service.load.records import Ledger
from service.load.target import Call
from tests.service.load.socket_server import Asked, answer, listening

RESULTS = sorted((Path(__file__).parents[3] / "docs" / "results" / "serving").glob("*.json"))
CALL = Call("a.jpg", "/v1/classify", b"GET / HTTP/1.1\r\nhost: x\r\n", b"")


def point(name: str = "full", **changes: Any) -> PointCapacity:
    usual = {
        "accuracy": 0.9,
        "throughput_hz": 100.0,
        "front_ms": 1.0,
        "decode_ms": 1.0,
        "engine_ms": 8.0,
        "client_ms": 0.0,
    }
    return PointCapacity(point=name, **{**usual, **changes})


@pytest.mark.parametrize(
    ("changes", "engine_threads", "limiting", "rate"),
    [
        ({}, 1, "the engine's threads", 125.0),
        ({}, 2, "all cores", 200.0),
        ({"client_ms": 10.0}, 2, "all cores", 100.0),
        ({"front_ms": 9.0, "engine_ms": 2.0, "client_ms": 0.0}, 1, "the event loop", 1000 / 9),
        ({"decode_ms": 30.0, "engine_ms": 0.1, "front_ms": 0.1}, 1, "all cores", 2000 / 30.2),
    ],
)
def test_the_bound_is_what_the_busiest_thread_or_all_cores_allow(
    changes: dict[str, Any], engine_threads: int, limiting: str, rate: float
) -> None:
    found = bound_of(point(**changes), cores=2, engine_threads=engine_threads, decode_threads=2)
    assert found.limiting == limiting
    assert found.throughput_hz == pytest.approx(rate)


def test_no_cpu_time_is_no_bound() -> None:
    idle = point(front_ms=0.0, decode_ms=0.0, engine_ms=0.0)
    with pytest.raises(InvalidInput, match="no CPU time was counted at point 'full'"):
        bound_of(idle, cores=2, engine_threads=1, decode_threads=1)


def capacity() -> Capacity:
    points = (point(), point("small", engine_ms=2.0, decode_ms=3.0, throughput_hz=300.0))
    return Capacity(
        points=points,
        bounds=tuple(bound_of(one, cores=2, engine_threads=1, decode_threads=2) for one in points),
        pictures="two",
        cores=2,
        engine_threads=1,
        decode_threads=2,
        throughput_spread=0.01,
    )


def test_goodput_stands_beside_its_bound() -> None:
    found = goodput_of(capacity(), 40.0, [300.0, 330.0, 310.0], [100.0, 90.0, 110.0], 0)
    assert (found.ours_hz, found.full_hz) == (310.0, 100.0)
    assert found.ratio == pytest.approx(3.1)
    # full: 8 ms of engine on its thread; small: 6 ms over two cores.
    assert found.bound_ratio == pytest.approx((2000 / 6) / 125)
    assert found.of_bound == pytest.approx(3.1 / (2000 / 6) * 125)
    assert (found.engine_ratio, found.limiting) == (4.0, "all cores")


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_what_was_published_can_be_read(path: Path) -> None:
    report = ServeBench.model_validate_json(path.read_bytes())
    if report.goodput is not None:
        assert report.capacity is not None
        quick, full = fastest(report.capacity.bounds), of_full(report.capacity.bounds)
        ratio = quick.throughput_hz / full.throughput_hz
        assert report.goodput.bound_ratio == pytest.approx(ratio)


def test_a_budget_that_full_never_keeps_is_told() -> None:
    with pytest.raises(LoadError, match="'full' was never in time with 1 ms"):
        goodput_of(capacity(), 1.0, [10.0], [0.0], 0)


@pytest.mark.parametrize(
    ("met", "expected"),
    [
        ((100,) * 7, 0.0),
        ((50, 99, 100, 100, 100, 100, 100), 1.0),
        ((0, 0, 100, 100, 100, 100, 100), 2.0),
        ((0, 0, 0, 100, 100, 100, 100), None),
        ((100, 100, 100, 100, 100, 100, 50), None),
        ((100, 100), None),
    ],
)
def test_recovered_is_when_the_rest_was_in_time_and_long_enough_to_tell(
    met: tuple[int, ...], expected: float | None
) -> None:
    begins_s = [30.0 + second for second in range(len(met))]
    assert recovery_s(begins_s, [100] * len(met), met, 0.99) == expected


def test_a_core_taken_shows_in_time_and_accuracy() -> None:
    """Ten a second; in the middle third it takes three seconds to find the cheaper point."""
    ledger = Ledger()
    for number in range(450):
        at_s = number / 10
        taken, lost = 15 <= at_s < 30, 15 <= at_s < 18
        ledger.add(
            at_s=at_s,
            sent_s=at_s,
            done_s=at_s + (0.2 if lost else 0.01),
            status=200,
            slo_s=0.05,
            point="small" if taken else "full",
            accuracy=0.8 if 15 <= at_s < 32 else 0.9,
        )
    found = contention_of(ledger.records(), 10.0, 50.0, 15.0)
    assert (found.attainment_before, found.attainment_after) == (1.0, 1.0)
    assert found.attainment_during == pytest.approx(0.8)
    assert found.recovered_s == 3.0
    assert found.accuracy_before == pytest.approx(0.9)
    assert found.accuracy_during == pytest.approx(0.8)
    assert found.accuracy_back_s == 2.0
    assert len(found.seconds) == 45
    assert found.seconds[20].points == {"small": 10}


def response(
    milliseconds: float, phases: dict[str, float] | None = None, status: int = 200
) -> Response:
    body = orjson.dumps({"error": "full"} if phases is None else {"milliseconds": phases})
    return Response(status, {}, body, 1.0, 1.0 + milliseconds / 1e3)


def test_overhead_is_what_remains_over_the_bare_handler() -> None:
    phases = {"decode": 2.0, "prepare": 0.5, "network": 3.0, "queue": 0.1, "total": 6.0}
    ours = [response(7.0, phases) for _ in range(4)]
    bare = [response(one) for one in (0.6, 0.6, 0.7, 0.7)]
    found = overhead_of("file", 50_000, ours, bare)
    assert found.own_ms == pytest.approx(1.5)
    assert found.bare_ms == pytest.approx(0.65)
    assert found.overhead_ms == pytest.approx(0.85)
    assert found.is_small
    assert found.phases_ms == phases


def test_overhead_of_refusals_is_none() -> None:
    with pytest.raises(LoadError, match="answered 429: full"):
        overhead_of("file", 1, [response(1.0, None, 429)] * 4, [response(1.0)] * 4)


@pytest.mark.anyio
async def test_contenders_take_turns_and_the_first_does_not_count() -> None:
    order: list[str] = []

    def ask(name: str) -> Callable[[], Any]:
        async def once() -> Response:
            order.append(name)
            return response(1.0)

        return once

    found = await in_turns({"a": ask("a"), "b": ask("b")}, 2)
    assert order == ["a", "b"] * 3
    assert {name: len(answers) for name, answers in found.items()} == {"a": 2, "b": 2}


@pytest.mark.anyio
async def test_searches_take_turns_and_close_in_on_the_rate() -> None:
    asked: list[str] = []

    def up_to(name: str, limit_hz: float) -> Callable[[float], Any]:
        async def attained(rate_hz: float) -> float:
            asked.append(name)
            return 1.0 if rate_hz <= limit_hz else 0.5

        return attained

    found = await search_rates(
        {"a": up_to("a", 30.0), "b": up_to("b", 5.0)},
        {"a": 64.0, "b": 64.0},
        attainment=0.99,
        steps=6,
    )
    assert found == {"a": 30.0, "b": 5.0}
    assert asked == ["a", "b"] * 6


@pytest.mark.anyio
async def test_a_closed_loop_keeps_as_many_open_as_asked() -> None:
    open_now = most = 0
    now_s = 0.0

    async def counts(asked: Asked) -> bytes:
        nonlocal open_now, most, now_s
        open_now += 1
        most = max(most, open_now)
        now_s += 0.125
        open_now -= 1
        return answer({})

    async with listening(counts) as told, Client(told.server, clock=lambda: now_s) as client:
        ran = await saturate(client, [CALL], in_flight=3, duration_s=2.0, slo_s=10.0)
        assert told.connections == 3
    # One more each may have been on its way when time was up.
    assert 16 <= ran.answered <= 18
    assert ran.throughput_hz == pytest.approx(8.0)


@pytest.mark.anyio
async def test_a_closed_loop_without_a_result_is_an_error() -> None:
    now_s = 0.0

    async def refuses(asked: Asked) -> bytes:
        nonlocal now_s
        now_s += 1.0
        return answer({"error": "draining"}, 503)

    async with listening(refuses) as told, Client(told.server, clock=lambda: now_s) as client:
        with pytest.raises(LoadError, match=r"/v1/classify got a result; .* 503: draining"):
            await saturate(client, [CALL], in_flight=2, duration_s=2.0, slo_s=10.0)


@pytest.mark.anyio
async def test_the_bare_handler_reads_what_it_is_sent() -> None:
    transport = httpx.ASGITransport(bare_app())
    async with httpx.AsyncClient(transport=transport, base_url="http://bare") as client:
        assert (await client.post("/", content=b"x" * 50_000)).json() == {"bytes": 50_000}


def test_cpu_time_is_told_by_thread() -> None:
    before = thread_cpu_s(os.getpid())
    assert threading.main_thread().native_id in before
    assert gained({1: 2.0}, {1: 2.5, 2: 0.25}) == {1: 0.5, 2: 0.25}


def test_made_up_pictures_have_the_size_that_was_asked_for() -> None:
    picture = made_up_jpeg(500, 375, 50_000)
    assert len(picture.data) == pytest.approx(50_000, rel=0.1)
    assert picture.data == made_up_jpeg(500, 375, 50_000).data
    assert picture.data != made_up_jpeg(500, 375, 50_000, seed=1).data


@pytest.mark.e2e
def test_a_server_that_does_not_start_says_why() -> None:
    with (
        pytest.raises(LoadError, match=r"did not start; the end of its log: .*nowhere\.laud"),
        own_server("nowhere.laud"),
    ):
        pytest.fail("it started")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"parts": ("speed",)}, "unknown part 'speed'; there are: overhead, capacity"),
        ({"turns": 1}, "--turns must be 20 or more, got 1"),
        ({"seconds": 0.0}, "1 to 3600 seconds"),
        ({"rounds": 0}, "1 to 100 rounds"),
        ({"share": 1.0}, "between 0 and 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_plan(BenchPlan(**changes))
    assert reason in str(refused.value)
