"""Admission, cancelling, draining and readiness, through the whole application."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import httpx
import pytest

from service.app import create_app
from service.errors import BadRequest
from service.images import Picture
from service.objectives import Objective
from service.request import Exchange, until_disconnect
from tests.service.conftest import Running, Serving
from tests.service.scripted import PATIENCE_S, jpeg, pixels

pytestmark = pytest.mark.anyio

CLASSIFY = "/v1/classify"


def post(running: Running) -> asyncio.Task[httpx.Response]:
    return asyncio.ensure_future(running.client.post(CLASSIFY, content=jpeg()))


async def inside(running: Running) -> None:
    """Wait until a batch is in the engine."""
    assert await asyncio.to_thread(running.engine.entered.wait, PATIENCE_S)


async def depth(running: Running, expected: int) -> None:
    """Wait until that many images are queued; the client's tasks take some turns of the loop."""
    while await running.metric("laud_queue_depth", model="colours") != expected:
        await asyncio.sleep(0)


async def in_flight(running: Running) -> tuple[float, float]:
    return (
        await running.metric("laud_images_in_flight"),
        await running.metric("laud_images_in_flight_bytes"),
    )


async def nothing_held(running: Running) -> None:
    """Wait until threads need no picture any more, whose clients may have left before."""
    while await in_flight(running) != (0, 0):
        await asyncio.sleep(0)


class Client:
    """A client that posts an image and waits for its answer, until it leaves."""

    def __init__(self, running: Running) -> None:
        self.left = asyncio.Event()
        self.statuses: list[int] = []
        self._sent = False
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": CLASSIFY,
            "raw_path": CLASSIFY.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"content-type", b"image/jpeg")],
        }
        app = create_app(running.service)
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    async def leave(self) -> None:
        """Close the connection, and see the application end."""
        self.left.set()
        await self.task

    async def _receive(self) -> dict[str, Any]:
        if not self._sent:
            self._sent = True
            return {"type": "http.request", "body": jpeg(), "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.statuses.append(message["status"])


async def test_every_image_that_waits_is_answered(running: Running) -> None:
    running.engine.hold()
    first = post(running)
    await inside(running)
    others = [post(running) for _ in range(3)]
    await depth(running, 3)
    running.engine.release()
    answers = await asyncio.gather(first, *others)
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["outcome"] for answer in answers} == {"met"}
    assert sum(len(batch) for batch in running.engine.batches) == 4


async def test_one_image_too_many_is_refused_and_told_when_to_come_back(serving: Serving) -> None:
    async with serving(max_queue=2) as running:
        running.engine.hold()
        taken = [post(running)]
        await inside(running)
        taken.append(post(running))
        await depth(running, 1)
        refused = await post(running)
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert refused.json() == {"error": "2 images are in flight, the limit is 2"}
        running.engine.release()
        assert {(await one).status_code for one in taken} == {200}
        assert await in_flight(running) == (0, 0)
        assert (await post(running)).status_code == 200


async def test_memory_is_bounded_but_one_image_always_fits(serving: Serving) -> None:
    async with serving(max_queue_bytes=1) as running:
        running.engine.hold()
        taken = post(running)
        await inside(running)
        refused = await post(running)
        assert refused.status_code == 429
        assert "bytes of images, the limit is 1" in refused.json()["error"]
        running.engine.release()
        assert (await taken).status_code == 200
        assert await in_flight(running) == (0, 0)


async def test_a_request_with_more_images_than_may_be_in_flight_is_a_bad_one(
    serving: Serving,
) -> None:
    async with serving(max_queue=2) as running:
        config = (await running.client.get("/v2/models/colours/config")).json()
        assert config["max_batch_size"] == 2
        entry = {"name": "image_bytes", "datatype": "BYTES", "shape": [3], "data": ["eA=="] * 3}
        answer = await running.client.post("/v2/models/colours/infer", json={"inputs": [entry]})
        assert answer.status_code == 400
        assert answer.json() == {"error": "3 images in one request, the limit is 2"}


async def test_who_leaves_the_queue_never_reaches_the_engine(running: Running) -> None:
    running.engine.hold()
    stays = post(running)
    await inside(running)
    leaves = Client(running)
    await depth(running, 1)
    await leaves.leave()
    assert await running.metric("laud_queue_depth", model="colours") == 0
    running.engine.release()
    assert (await stays).status_code == 200
    assert running.engine.batches == [("full",)]
    await nothing_held(running)


async def test_who_leaves_is_counted_and_logged_as_cancelled(
    running: Running, logged: list[MutableMapping[str, Any]]
) -> None:
    running.engine.hold()
    client = Client(running)
    await inside(running)
    await client.leave()
    outcomes = [line["outcome"] for line in logged if line["event"] == "request"]
    assert outcomes == ["cancelled"]
    labels = {"model": "colours", "route": CLASSIFY, "outcome": "cancelled"}
    assert await running.metric("laud_requests_total", status="499", **labels) == 1
    # Its picture is held by the thread that still works on it.
    assert (await in_flight(running))[0] == 0
    running.engine.release()
    await nothing_held(running)


@pytest.mark.parametrize(
    ("fault", "body", "status"),
    [(None, jpeg()[:-40], 400), (None, b"text", 415), (RuntimeError("broken"), jpeg(), 500)],
    ids=["cut", "text", "engine"],
)
async def test_errors_give_back_what_was_admitted(
    running: Running, fault: Exception | None, body: bytes, status: int
) -> None:
    def break_down(images: object) -> None:
        if fault:
            raise fault

    running.engine.fault = break_down
    assert (await running.client.post(CLASSIFY, content=body)).status_code == status
    assert await in_flight(running) == (0, 0)
    assert await running.metric("laud_queue_depth", model="colours") == 0


class Gone(Exception):
    pass


async def test_work_ends_when_its_client_leaves() -> None:
    left, ended = asyncio.Event(), asyncio.Event()

    async def receive() -> dict[str, str]:
        await left.wait()
        return {"type": "http.disconnect"}

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    waiting = asyncio.ensure_future(until_disconnect(receive, work(), Gone()))
    await asyncio.sleep(0)
    left.set()
    with pytest.raises(Gone):
        await waiting
    await ended.wait()


async def test_work_and_its_errors_arrive_while_the_client_stays() -> None:
    async def receive() -> dict[str, str]:
        await asyncio.Event().wait()
        return {}

    async def answer() -> int:
        return 42

    async def fail() -> int:
        raise ValueError("mine")

    assert await until_disconnect(receive, answer(), Gone()) == 42
    with pytest.raises(ValueError, match="mine"):
        await until_disconnect(receive, fail(), Gone())


PROBES = ("/v2/health/ready", "/v2/models/colours/ready")


async def status_of(running: Running, path: str) -> int:
    return (await running.client.get(path)).status_code


async def test_nothing_is_taken_before_the_start(serving: Serving) -> None:
    async with serving(start=False) as running:
        assert await status_of(running, "/v2/health/live") == 200
        answer = await running.client.get("/v2/health/ready")
        assert answer.status_code == 503
        assert answer.json().keys() == {"error"}
        assert answer.headers["retry-after"] == "1"
        await running.service.start()
        for path in PROBES:
            assert await status_of(running, path) == 200
        assert await running.metric("laud_ready") == 1


async def test_draining_refuses_new_requests_and_finishes_old_ones(running: Running) -> None:
    running.engine.hold()
    first = post(running)
    await inside(running)
    second = post(running)
    await depth(running, 1)
    running.service.drain()
    for path in PROBES:
        assert await status_of(running, path) == 503
    refused = await post(running)
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert await status_of(running, "/v2/health/live") == 200
    assert await running.metric("laud_ready") == 0
    running.engine.release()
    assert [(await one).status_code for one in (first, second)] == [200, 200]


async def test_an_engine_that_ends_programs_fails_its_requests_only(running: Running) -> None:
    def die(images: object) -> None:
        raise SystemExit(3)

    running.engine.fault = die
    answer = await post(running)
    assert answer.status_code == 500
    assert "SystemExit" not in answer.text
    running.engine.fault = lambda images: None
    assert (await post(running)).status_code == 200


async def test_death_of_the_batcher_ends_readiness(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(running.service.batcher, "_decide", broken)
    assert (await post(running)).status_code == 503
    for path in PROBES:
        assert await status_of(running, path) == 503
    assert await status_of(running, "/v2/health/live") == 200
    assert (await post(running)).status_code == 503
    assert await in_flight(running) == (0, 0)


async def test_an_answer_notes_how_it_came_about(running: Running) -> None:
    exchange = Exchange("id", arrived_s=running.service.executor._clock())
    model = running.service.find_model("colours")
    replies = await running.service.answer(
        model, [Picture.of_pixels(pixels())] * 2, Objective(60.0, "custom"), exchange
    )
    assert [reply.point.name for reply in replies] == ["full", "full"]
    assert (exchange.points, exchange.reason) == (("full", "full"), "best")
    assert exchange.objective == Objective(60.0, "custom")
    assert exchange.predicted == replies[1].predicted
    assert exchange.phases_s == replies[1].phases_s
    assert exchange.engine_end_s is not None
    assert exchange.engine_end_s > exchange.arrived_s


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (Objective(1.0, "custom", pinned="fastest"), "there are: small, skip, full"),
        (Objective(1.0, "custom", min_accuracy=0.95), "the best is 'full' with 0.9000"),
    ],
)
async def test_what_no_point_can_do_is_refused_with_what_there_is(
    running: Running, objective: Objective, message: str
) -> None:
    model = running.service.find_model("colours")
    exchange = Exchange("id", arrived_s=0.0)
    with pytest.raises(BadRequest, match=message):
        await running.service.answer(model, [Picture.of_pixels(pixels())], objective, exchange)
    assert running.service.memory.used == 0


async def test_the_default_objective_is_three_times_full_unless_configured(
    serving: Serving, logged: list[MutableMapping[str, Any]]
) -> None:
    async with serving(slo_classes={}) as running:
        model = running.service.find_model("colours")
        name, default = running.service.default_objective(model)
        assert name == "default"
        assert default.slo_ms == pytest.approx(3 * 12.5)
    async with serving(slo_classes={"fast": {"slo_ms": 20.0}}, default_class="fast") as running:
        assert running.service.default_objective(model)[0] == "fast"
    points = [line for line in logged if line["event"] == "operating point"]
    assert [line["point"] for line in points[:3]] == ["small", "skip", "full"]
    assert points[2]["accuracy"] == 0.9
    assert (points[2]["p50_ms"], points[2]["p95_ms"]) == (pytest.approx(10, rel=0.01), 12.5)
    defaults = [line["slo_ms"] for line in logged if line["event"] == "default objective"]
    assert defaults == [37.5, 20.0]


async def test_a_drained_start_comes_back_without_taking_requests(serving: Serving) -> None:
    async with serving(start=False) as running:
        running.engine.hold()
        starting = asyncio.ensure_future(running.service.start())
        await inside(running)
        running.service.drain()
        running.engine.release()
        await starting
        assert not running.service.is_ready
