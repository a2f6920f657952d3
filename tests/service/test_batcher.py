"""Which requests run together, what becomes of cancelled ones, and what a failure leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.core import static_point
from service.batcher import Batcher
from service.errors import NotReady
from service.request import Batch, Reply, Request

pytestmark = pytest.mark.anyio

Run = Callable[[Batch], Awaitable[list[Reply | Exception]]]


def reply_to(request: Request) -> Reply:
    zeros = np.zeros(1, np.float32)
    return Reply(zeros, zeros, request.point, request.reason, 1, {})


class Gate:
    """A runner whose batches wait until the test lets each of them pass."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.entered = asyncio.Event()
        self._passes = asyncio.Semaphore(0)
        self.answer: Run = self._echo

    async def run(self, batch: Batch) -> list[Reply | Exception]:
        self.batches.append(batch)
        self.entered.set()
        await self._passes.acquire()
        return await self.answer(batch)

    async def busy(self) -> None:
        """Wait until a batch is inside."""
        await self.entered.wait()
        self.entered.clear()

    def let_pass(self, batches: int = 1) -> None:
        for _ in range(batches):
            self._passes.release()

    async def _echo(self, batch: Batch) -> list[Reply | Exception]:
        return [reply_to(request) for request in batch.requests]


def request(model: str = "a", size: int = 8) -> Request:
    return Request(
        model=model,
        point=static_point("full", size, 0),
        reason="full",
        pixels=np.zeros((size, size, 3), np.uint8),
        reply=asyncio.get_running_loop().create_future(),
    )


@asynccontextmanager
async def batching(max_batch: int = 2) -> AsyncIterator[tuple[Batcher, Gate]]:
    gate = Gate()
    ticks = count()
    batcher = Batcher(gate, max_batch=max_batch, clock=lambda: float(next(ticks)))
    batcher.start()
    yield batcher, gate
    await batcher.stop()


async def submit(batcher: Batcher, *requests: Request) -> list[Request]:
    for one in requests:
        batcher.submit(one)
    return list(requests)


def members(gate: Gate) -> list[tuple[Request, ...]]:
    return [batch.requests for batch in gate.batches]


async def test_an_idle_executor_gets_a_request_at_once() -> None:
    async with batching() as (batcher, gate):
        (only,) = await submit(batcher, request())
        await gate.busy()
        assert members(gate) == [(only,)]
        gate.let_pass()
        assert (await only.reply).point is only.point


async def test_the_next_batch_gathers_while_one_runs() -> None:
    async with batching(max_batch=3) as (batcher, gate):
        first = await submit(batcher, request())
        await gate.busy()
        later = await submit(batcher, *(request() for _ in range(4)))
        assert batcher.depth("a") == 4
        gate.let_pass(3)
        await asyncio.gather(*(one.reply for one in first + later))
        assert members(gate) == [tuple(first), tuple(later[:3]), tuple(later[3:])]
        assert batcher.depth("a") == 0


async def test_a_batch_has_one_model_and_one_size_and_the_oldest_goes_first() -> None:
    async with batching(max_batch=2) as (batcher, gate):
        first = await submit(batcher, request())
        await gate.busy()
        a, b, small, a2, b2 = await submit(
            batcher, request("a"), request("b"), request("a", 4), request("a"), request("b")
        )
        assert (batcher.depth("a"), batcher.depth("b")) == (3, 2)
        gate.let_pass(4)
        await asyncio.gather(*(one.reply for one in (a, b, small, a2, b2)))
        assert members(gate)[1:] == [(a, a2), (b, b2), (small,)]
        assert gate.batches[0].requests == tuple(first)
        assert [batch.model for batch in gate.batches] == ["a", "a", "b", "a"]


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([4, 8]), st.booleans()), max_size=20),
)
async def test_every_crowd_is_served_once_and_in_order(
    max_batch: int, crowd: list[tuple[str, int, bool]]
) -> None:
    """The oldest who waits leads each batch; its mates are the oldest of its model and size."""
    async with batching(max_batch) as (batcher, gate):
        (first,) = await submit(batcher, request())
        await gate.busy()
        waiting = await submit(batcher, *(request(model, size) for model, size, _ in crowd))
        for one, (_, _, leaves) in zip(list(waiting), crowd, strict=True):
            if leaves:
                batcher.discard(one)
                waiting.remove(one)
        gate.let_pass(1 + len(crowd))
        await asyncio.gather(first.reply, *(one.reply for one in waiting))
        for batch in gate.batches[1:]:
            lead = waiting[0]
            mates = [
                one
                for one in waiting
                if (one.model, one.point.image_size) == (lead.model, lead.point.image_size)
            ]
            assert batch.requests == tuple(mates[:max_batch])
            waiting = [one for one in waiting if one not in batch.requests]
        assert waiting == []


async def test_who_left_before_dispatch_does_not_run() -> None:
    async with batching() as (batcher, gate):
        (first,) = await submit(batcher, request())
        await gate.busy()
        left, cancelled, stays = await submit(batcher, request(), request(), request())
        batcher.discard(left)
        cancelled.reply.cancel()
        assert batcher.depth("a") == 2
        gate.let_pass(2)
        await asyncio.gather(first.reply, stays.reply)
        assert members(gate) == [(first,), (stays,)]


async def test_who_leaves_while_running_harms_nobody() -> None:
    async with batching() as (batcher, gate):
        blocker = await submit(batcher, request())
        await gate.busy()
        left, mate = await submit(batcher, request(), request())
        gate.let_pass()
        await gate.busy()
        batcher.discard(left)
        gate.let_pass()
        await asyncio.gather(*(one.reply for one in blocker), mate.reply)
        assert left.reply.cancelled()
        assert batcher.is_alive


async def test_everybody_leaving_leaves_an_idle_batcher() -> None:
    async with batching() as (batcher, gate):
        (first,) = await submit(batcher, request())
        await gate.busy()
        for one in await submit(batcher, *(request() for _ in range(1000))):
            batcher.discard(one)
        gate.let_pass()
        await first.reply
        assert batcher.depth("a") == 0
        (last,) = await submit(batcher, request())
        gate.let_pass()
        await last.reply
        assert members(gate) == [(first,), (last,)]


async def test_an_error_of_one_request_is_its_own() -> None:
    async with batching() as (batcher, gate):

        async def first_fails(batch: Batch) -> list[Reply | Exception]:
            return [RuntimeError("mine"), *(reply_to(one) for one in batch.requests[1:])]

        blocker = await submit(batcher, request())
        await gate.busy()
        gate.answer = first_fails
        bad, good = await submit(batcher, request(), request())
        gate.let_pass(2)
        with pytest.raises(RuntimeError, match="mine"):
            await blocker[0].reply
        with pytest.raises(RuntimeError, match="mine"):
            await bad.reply
        assert (await good.reply).point is good.point
        assert batcher.is_alive


async def test_times_come_from_the_clock() -> None:
    async with batching() as (batcher, gate):
        (only,) = await submit(batcher, request())
        await gate.busy()
        assert (only.queued_s, gate.batches[0].dispatched_s) == (0.0, 1.0)
        gate.let_pass()
        await only.reply


@pytest.mark.parametrize("failure", ["raises", "forgets"])
async def test_its_death_fails_all_and_refuses_more(failure: str) -> None:
    async with batching() as (batcher, gate):

        async def broken(batch: Batch) -> list[Reply | Exception]:
            if failure == "raises":
                raise RuntimeError("the executor is broken")
            return []

        gate.answer = broken
        (inside,) = await submit(batcher, request())
        await gate.busy()
        waiting = await submit(batcher, request(), request("b"))
        gate.let_pass()
        for one in (inside, *waiting):
            with pytest.raises(NotReady):
                await one.reply
        assert not batcher.is_alive
        with pytest.raises(NotReady):
            batcher.submit(request())


async def test_stopping_answers_those_who_wait() -> None:
    async with batching() as (batcher, gate):
        (inside,) = await submit(batcher, request())
        await gate.busy()
        waiting = await submit(batcher, request(), request())
        await batcher.stop()
        for one in (inside, *waiting):
            with pytest.raises(NotReady, match="the service stopped"):
                await one.reply
        assert not batcher.is_alive


async def test_nothing_is_taken_before_the_start() -> None:
    batcher = Batcher(Gate(), max_batch=1)
    with pytest.raises(NotReady):
        batcher.submit(request())
    await batcher.stop()
