"""What follows the engine where objects are found: its memory, its threads, and what is learnt."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx
import orjson
import pytest

from engines.core import OperatingPoint, Output, UInt8Array
from service import routes_detection, routes_v2
from service.errors import Expired
from service.memory import Reservation
from service.objectives import Objective, OnInfeasible
from service.request import Exchange
from tests.service.conftest import Running, Serving
from tests.service.detectors import BrightEngine, detector, encoded, scene
from tests.service.manual import Manual
from tests.service.scripted import PATIENCE_S

LIMIT = 50_000_000
# Its masks take more than a megabyte, what the engine is shown of it less.
PICTURE = encoded(scene(2000, 1500))
DETECT, SEGMENT, INFER = "/v1/detect", "/v1/segment", "/v2/models/things/infer"


def inferred(*outputs: str) -> bytes:
    """A request over the Open Inference Protocol for these outputs."""
    data = [base64.b64encode(PICTURE).decode()]
    image = {"name": "image_bytes", "datatype": "BYTES", "shape": [1], "data": data}
    return orjson.dumps({"inputs": [image], "outputs": [{"name": name} for name in outputs]})


MASKS = inferred("masks")


class CountingEngine(BrightEngine):
    """calls: of `infer`."""

    calls = 0

    def infer(self, images: UInt8Array, points: Sequence[OperatingPoint]) -> Output:
        self.calls += 1
        return super().infer(images, points)


class Gate:
    """Stands before a function: who calls it waits until the test lets it go on."""

    def __init__(self) -> None:
        self.entered, self.open = threading.Event(), threading.Event()

    def before(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def gated(*args: Any, **kwargs: Any) -> Any:
            self.entered.set()
            assert self.open.wait(PATIENCE_S)
            return function(*args, **kwargs)

        return gated


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Before masks become text."""
    found = Gate()
    for module, name in ((routes_detection, "described"), (routes_v2, "mask_texts")):
        monkeypatch.setattr(module, name, found.before(getattr(module, name)))
    yield found
    found.open.set()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize(("route", "body"), [(SEGMENT, PICTURE), (INFER, MASKS)])
@pytest.mark.anyio
async def test_memory_is_held_until_the_thread_is_done_though_the_client_left(
    serving: Serving, gate: Gate, route: str, body: bytes
) -> None:
    async with serving(detector(CountingEngine())) as running:
        asked = asyncio.create_task(running.client.post(route, content=body))
        await asyncio.to_thread(gate.entered.wait, PATIENCE_S)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        assert running.service.memory.used > 1_000_000
        gate.open.set()
        await until(lambda: not running.service.memory.used)


@pytest.mark.parametrize(("route", "body"), [(SEGMENT, PICTURE), (INFER, MASKS)])
@pytest.mark.anyio
async def test_masks_are_made_by_as_many_threads_as_decode(
    serving: Serving, gate: Gate, route: str, body: bytes
) -> None:
    async with serving(detector(CountingEngine()), decode_threads=1) as running:
        asked = [asyncio.create_task(running.client.post(route, content=body)) for _ in range(3)]
        await asyncio.to_thread(gate.entered.wait, PATIENCE_S)
        # All threads of a pool begin with its first work.
        assert len([t for t in threading.enumerate() if t.name.startswith("laud-answer")]) == 1
        gate.open.set()
        assert {answer.status_code for answer in await asyncio.gather(*asked)} == {200}


@pytest.mark.parametrize(("route", "body"), [(SEGMENT, PICTURE), (INFER, MASKS)])
@pytest.mark.anyio
async def test_what_the_engine_found_waits_for_room(
    serving: Serving, route: str, body: bytes
) -> None:
    async with serving(detector(CountingEngine()), max_queue_bytes=LIMIT) as running:
        room, asked = await found_without_room(running, route, body)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(asked), 0.05)
        room.release()
        assert (await asked).status_code == 200
        assert running.service.memory.used == 0


@pytest.mark.parametrize(
    ("agreed", "late_s", "is_wanted"),
    [("reject", 0.001, False), ("degrade", 0.001, True), ("degrade", 20.0, False)],
)
def test_it_waits_no_longer_than_an_answer_is_wanted(
    manual: Manual, agreed: OnInfeasible, late_s: float, is_wanted: bool
) -> None:
    laud = manual(max_queue_bytes=LIMIT, late_limit_s=10.0)
    asked = Objective(0.5, "custom", on_infeasible=agreed)
    exchange = Exchange("test", laud.time(), objective=asked)
    with laud.service.memory.reserve(LIMIT):
        laud.advance(asked.slo_s + late_s)
        made = laud.spawn(laud.service.beside(exchange, lambda: "made", 1000))
        laud.settle()
        if not is_wanted:
            with pytest.raises(Expired, match="no room for the 1,000 bytes"):
                made.result()
            return
        assert not made.done()
    assert laud.loop.run_until_complete(made) == "made"


async def found_without_room(
    running: Running, route: str, body: bytes
) -> tuple[Reservation, asyncio.Task[httpx.Response]]:
    """What holds nearly all memory, and a request whose objects are found."""
    before = calls(running)
    # What a picture takes until it is answered fits in beside it.
    room = running.service.memory.reserve(LIMIT - 1_000_000)
    asked = asyncio.create_task(running.client.post(route, content=body))
    await until(lambda: calls(running) > before)
    return room, asked


def calls(running: Running) -> int:
    assert isinstance(running.engine, CountingEngine)
    return running.engine.calls


@pytest.mark.anyio
async def test_a_picture_without_room_to_be_drawn_costs_no_engine_time(serving: Serving) -> None:
    async with serving(detector(CountingEngine()), max_queue_bytes=LIMIT) as running:
        before = calls(running)
        with running.service.memory.reserve(LIMIT - 10_000_000):
            refused = await running.client.post(f"{DETECT}?overlay=1", content=PICTURE)
            assert refused.status_code == 429
            assert calls(running) == before
            assert (await running.client.post(DETECT, content=PICTURE)).status_code == 200
        drawn = await running.client.post(f"{DETECT}?overlay=1", content=PICTURE)
        assert drawn.status_code == 200
        assert running.service.memory.used == 0


@pytest.mark.anyio
async def test_masks_that_would_take_seconds_are_refused(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.whole_pictures.MOST_MASK_PIXELS", 100_000)
    async with serving(detector(CountingEngine())) as running:
        for route, body in ((SEGMENT, PICTURE), (f"{SEGMENT}?overlay=1", PICTURE), (INFER, MASKS)):
            answer = await running.client.post(route, content=body)
            assert answer.status_code == 400
            assert "the limit is 100,000: ask for fewer by" in answer.json()["error"]
        assert (await running.client.post(DETECT, content=PICTURE)).status_code == 200


@pytest.mark.parametrize(
    ("route", "body", "is_usual"),
    [
        (DETECT, PICTURE, True),
        (INFER, inferred("boxes"), True),
        (f"{SEGMENT}?min_score=0.99", PICTURE, True),
        (f"{DETECT}?overlay=1", PICTURE, False),
        (f"{DETECT}?explain=1", PICTURE, False),
        (SEGMENT, PICTURE, True),
        (f"{SEGMENT}?masks=polygon", PICTURE, True),
        (f"{SEGMENT}?overlay=1", PICTURE, False),
        (INFER, MASKS, True),
    ],
)
@pytest.mark.anyio
async def test_what_a_model_usually_answers_is_planned_for_and_nothing_else(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, route: str, body: bytes, is_usual: bool
) -> None:
    learnt: list[float] = []
    async with serving(detector(CountingEngine())) as running:
        (name,) = running.service.executor.models
        monkeypatch.setattr(running.service.answer_costs[name], "observe", learnt.append)
        answer = await running.client.post(route, content=body)
        assert answer.status_code == 200
        await asyncio.sleep(0)
        assert bool(learnt) == is_usual
