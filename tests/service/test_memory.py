"""How much may be held, by whom, and that it is given back."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import QueueFull
from service.memory import Memory, Reservation


def test_what_does_not_fit_beside_others_is_refused_and_told_when_to_come_back() -> None:
    memory = Memory(100, lambda: 0.5)
    with memory.reserve(60):
        with pytest.raises(QueueFull, match="holds 60 bytes of images, the limit is 100") as full:
            memory.reserve(41)
        assert full.value.retry_after_s == 0.5
        with memory.reserve(40):
            assert memory.used == 100
    assert memory.used == 0


def test_alone_everything_fits() -> None:
    memory = Memory(1)
    with memory.reserve() as body:
        body.grow(50)
        body.grow(50)
        assert memory.used == 100


def test_a_body_that_outgrows_the_room_beside_others_is_refused_with_what_it_holds() -> None:
    memory = Memory(100)
    other = memory.reserve(50)
    body = memory.reserve(40)
    with pytest.raises(QueueFull):
        body.grow(20)
    assert memory.used == 90
    body.release()
    other.release()
    assert memory.used == 0


def test_it_is_held_until_its_last_holder_releases_it() -> None:
    memory = Memory(100)
    with memory.reserve(10) as request:
        decode = request.share()
    assert memory.used == 10
    decode.release()
    assert memory.used == 0


@given(st.lists(st.tuples(st.integers(0, 80), st.integers(0, 80), st.integers(1, 3))))
def test_all_is_given_back_whatever_was_refused(holders: list[tuple[int, int, int]]) -> None:
    memory = Memory(100)
    rooms = []
    for first, more, shares in holders:
        try:
            room = memory.reserve(first)
        except QueueFull:
            continue
        rooms += [room] + [room.share() for _ in range(shares - 1)]
        try:
            room.grow(more)
        except QueueFull:
            assert memory.used + more > 100
    for room in rooms:
        room.release()
    assert memory.used == 0


async def waiting(memory: Memory, num_bytes: int) -> asyncio.Task[Reservation]:
    task = asyncio.create_task(memory.reserve_in_turn(num_bytes))
    await asyncio.sleep(0)
    return task


@pytest.mark.anyio
async def test_who_waits_comes_in_turn_and_before_newcomers() -> None:
    memory = Memory(100)
    first, second = memory.reserve(50), memory.reserve(30)
    large, small = await waiting(memory, 60), await waiting(memory, 20)
    assert not small.done(), "it would fit, but came later"
    with pytest.raises(QueueFull, match="holds 160 bytes"):
        memory.reserve(10)
    first.release()
    await asyncio.sleep(0)
    assert large.done()
    assert not small.done()
    second.release()
    await asyncio.sleep(0)
    for task in (large, small):
        task.result().release()
    assert memory.used == 0


@pytest.mark.anyio
async def test_alone_nobody_waits() -> None:
    memory = Memory(100)
    with await memory.reserve_in_turn(1000):
        assert memory.used == 1000
    assert memory.used == 0


@pytest.mark.anyio
@pytest.mark.parametrize("had_its_turn", [False, True])
async def test_who_no_longer_waits_is_in_nobodys_way(had_its_turn: bool) -> None:
    memory = Memory(100)
    other = memory.reserve(50)
    gone, next_one = await waiting(memory, 80), await waiting(memory, 30)
    if had_its_turn:
        other.release()
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    (await next_one).release()
    if not had_its_turn:
        other.release()
    assert gone.cancelled()
    assert memory.used == 0


@pytest.mark.anyio
async def test_who_left_behind_somebody_that_waits_keeps_no_newcomer_out() -> None:
    memory = Memory(100)
    other = memory.reserve(60)
    head, gone = await waiting(memory, 50), await waiting(memory, 90)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    with pytest.raises(QueueFull, match="holds 110 bytes"):
        memory.reserve(10)
    other.release()
    (await head).release()
    assert memory.used == 0
