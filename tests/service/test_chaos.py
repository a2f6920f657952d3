"""Crowds that leave and engines that fail: nothing hangs, and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from engines.core import UInt8Array
from service.errors import QueueFull
from service.images import Picture
from service.objectives import Objective
from service.request import Exchange, Reply, Request
from service.service import Service
from tests.service.conftest import Running, Serving
from tests.service.listening import head
from tests.service.live import CLASSIFY, classify, live
from tests.service.manual import picture
from tests.service.scripted import PATIENCE_S, SMALL, ScriptedEngine, pixels

pytestmark = pytest.mark.anyio

CROWD = 10_000
WAVE = 200
IDLE = 1_000
CANCELLED = {"model": "colours", "route": CLASSIFY, "status": "499", "outcome": "cancelled"}


def ask(service: Service, image: Picture, slo_s: float = 60.0) -> asyncio.Task[list[Reply]]:
    exchange = Exchange("chaos", arrived_s=service.executor._clock())
    return asyncio.ensure_future(
        service.answer(service.find_model("colours"), [image], Objective(slo_s, "custom"), exchange)
    )


async def left_in_waves(running: Running, images: list[Picture], waves: int) -> None:
    """So many times a crowd comes and leaves, while the engine works on."""
    for wave in range(waves):
        crowd = [ask(running.service, images[n % len(images)]) for n in range(WAVE)]
        await asyncio.sleep(0)
        if wave % 2:
            # Some are being decoded or run by now.
            await crowd[0]
        for one in crowd:
            one.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)


async def idle(running: Running) -> None:
    """Wait until nothing is decoded or runs any more; that takes turns of the loop.

    One turn at least: the loop still holds what it ran the test with.
    """
    await asyncio.sleep(0)
    while not running.service.batcher.is_idle or running.service.memory.used:
        await asyncio.sleep(0)


async def test_ten_thousand_who_leave_in_every_phase_leave_nothing(serving: Serving) -> None:
    images = [picture(), Picture.of_pixels(pixels()), Picture.of_pixels(pixels(size=SMALL))]
    async with serving(max_queue=2 * WAVE, max_queue_s=60.0) as running:
        await left_in_waves(running, images, 6)
        await idle(running)
        gc.collect()
        tasks, requests = len(asyncio.all_tasks()), alive_requests()
        before = sys.getallocatedblocks()
        await left_in_waves(running, images, CROWD // WAVE)
        await idle(running)
        gc.collect()
        held = sys.getallocatedblocks() - before
        assert len(asyncio.all_tasks()) == tasks
        # The engine's thread may hold what it ran last, then and now.
        assert alive_requests() <= requests + 2
        # One block of memory for each of them would be twice as much.
        assert held < CROWD // 2
        assert (await ask(running.service, images[0]))[0].point.name == "full"


def alive_requests() -> int:
    """Requests that something refers to, of whatever test."""
    return sum(type(each) is Request for each in gc.get_objects())


@pytest.mark.parametrize("fault", [StopIteration(), MemoryError(), SystemExit(1), OSError("x")])
async def test_an_engine_that_fails_for_a_while_fails_its_images_only(
    running: Running, fault: BaseException
) -> None:
    def broken(images: UInt8Array) -> None:
        raise fault

    running.engine.fault = broken
    crowd = [ask(running.service, picture()) for _ in range(20)]
    outcomes = await asyncio.gather(*crowd, return_exceptions=True)
    assert all(isinstance(outcome, Exception) for outcome in outcomes)
    running.engine.fault = lambda images: None
    assert (await ask(running.service, picture()))[0].point.name == "full"
    await idle(running)
    assert running.service.is_ready


async def test_an_engine_that_hangs_holds_nobody_who_leaves(running: Running) -> None:
    running.engine.hold()
    first = ask(running.service, picture())
    await asyncio.to_thread(running.engine.entered.wait, PATIENCE_S)
    crowd = [ask(running.service, picture()) for _ in range(50)]
    await asyncio.sleep(0)
    for one in (first, *crowd):
        one.cancel()
    await asyncio.gather(first, *crowd, return_exceptions=True)
    assert running.service.batcher.depth("colours") == 0
    running.engine.release()
    await idle(running)


async def test_a_crowd_beyond_all_bounds_is_refused_and_the_rest_is_answered(
    serving: Serving,
) -> None:
    async with serving(max_queue_s=0.1) as running:
        crowd = [ask(running.service, picture()) for _ in range(200)]
        outcomes = await asyncio.gather(*crowd, return_exceptions=True)
        refused = [each for each in outcomes if isinstance(each, QueueFull)]
        answered = [each for each in outcomes if isinstance(each, list)]
        assert len(refused) + len(answered) == 200
        assert refused
        assert answered
        assert all(each.retry_after_s > 0.0 for each in refused)
        await idle(running)


async def test_stopping_amid_a_crowd_answers_everybody(serving: Serving) -> None:
    async with serving() as running:
        engine: ScriptedEngine = running.engine
        engine.hold()
        crowd = [ask(running.service, picture()) for _ in range(20)]
        await asyncio.to_thread(engine.entered.wait, PATIENCE_S)
        stopping = asyncio.ensure_future(running.service.stop())
        await asyncio.gather(*crowd, return_exceptions=True)
        assert all(one.exception() is not None for one in crowd)
        engine.release()
        await stopping
        assert engine.is_closed


def test_a_thousand_who_are_idle_or_amid_a_request_cost_the_others_nothing() -> None:
    """A third sends nothing, a third half a head, a third a head and some of its body."""
    beginnings = (b"", head("POST", CLASSIFY)[:20], classify()[:-10])
    with many_files(2500), live(max_queue_bytes=2**24) as served:
        with ExitStack() as stack:
            for number in range(IDLE):
                client = stack.enter_context(served.connect())
                client.send(beginnings[number % len(beginnings)])
            busy = stack.enter_context(served.connect())
            for _ in range(50):
                busy.send(classify())
                assert busy.answer().status == 200
        served.until(IDLE // 3, "laud_requests_total", **CANCELLED)
        assert served.front.service.memory.used == 0
        assert served.metric("laud_images_in_flight") == 0
        served.front.service.require_ready()


@contextmanager
def many_files(count: int) -> Iterator[None]:
    """This process may have so many open, or the test is skipped."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"this process may open {hard} files, the test needs {count}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
