"""The decode pool: who waits for a thread, who left, and when the memory of a picture is free."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from engines.core import UInt8Array, static_point
from engines.errors import ImageError
from service.decode_costs import DecodeCosts
from service.decoding import Decoded, DecodePool, Preparation, grouped
from service.images import Picture
from service.memory import Memory
from service.request import Request
from tests.service.scripted import PATIENCE_S, jpeg, pixels

pytestmark = pytest.mark.anyio


class Held(Picture):
    """A picture whose decoding waits until the test lets it go on."""

    entered = threading.Event()
    gate = threading.Event()

    def at(self, size: int, *, crop_ratio: float) -> UInt8Array:
        self.entered.set()
        assert self.gate.wait(PATIENCE_S)
        return pixels(size=size)


def decode(
    pool: DecodePool,
    picture: Picture,
    size: int,
    *,
    crop_ratio: float,
    on_end: Callable[[], None] = lambda: None,
) -> asyncio.Future[Decoded]:
    (found,) = pool.decode_all([pool.task(picture, size, crop_ratio, on_end)])
    return found


@pytest.fixture(autouse=True)
def closed_gate() -> None:
    Held.entered.clear()
    Held.gate.clear()


async def test_pixels_and_the_time_they_took_arrive() -> None:
    ticks = iter([2.0, 2.5])
    pool = DecodePool(1, clock=lambda: next(ticks))
    picture = Picture.encoded(jpeg(), max_pixels=10_000)
    decoded = await decode(pool, picture, 24, crop_ratio=1.0)
    np.testing.assert_array_equal(decoded.pixels, picture.at(24, crop_ratio=1.0))
    assert decoded.seconds == 0.5
    pool.close()


async def test_a_damaged_file_is_an_error_of_its_own() -> None:
    pool = DecodePool(1)
    with pytest.raises(ImageError):
        await decode(pool, Picture.encoded(jpeg()[:-40], max_pixels=10_000), 24, crop_ratio=1.0)
    assert (await decode(pool, Picture(jpeg(), 10_000), 24, crop_ratio=1.0)).pixels.shape[0] == 24
    pool.close()


async def test_who_leaves_while_waiting_for_a_thread_is_not_decoded() -> None:
    pool = DecodePool(1)
    ended: list[str] = []
    first, second, third = (
        decode(pool, Held(b"", 1), 8, crop_ratio=1.0, on_end=partial(ended.append, name))
        for name in ("first", "second", "third")
    )
    await asyncio.to_thread(Held.entered.wait, PATIENCE_S)
    second.cancel()
    while ended != ["second"]:
        await asyncio.sleep(0)
    Held.gate.set()
    await asyncio.gather(first, third)
    assert ended == ["second", "first", "third"]
    pool.close()


async def test_a_picture_is_held_until_its_thread_is_done_though_its_client_left() -> None:
    pool = DecodePool(1)
    done = asyncio.Event()
    left = decode(pool, Held(b"", 1), 8, crop_ratio=1.0, on_end=done.set)
    await asyncio.to_thread(Held.entered.wait, PATIENCE_S)
    left.cancel()
    await asyncio.sleep(0)
    assert not done.is_set()
    Held.gate.set()
    await done.wait()
    pool.close()


async def test_memory_of_who_left_is_accounted_until_its_thread_is_done() -> None:
    pool, memory = DecodePool(1), Memory(1000)
    preparation = Preparation(pool, DecodeCosts(), lambda model: 1.0, width=1)
    room = memory.reserve(500)
    request = Request(
        model="colours",
        picture=Held(b"", 1),
        arrived_s=0.0,
        deadline_s=1.0,
        allowed=(0,),
        degrade=True,
        prepare_s=0.0,
        reply=asyncio.get_running_loop().create_future(),
        room=room,
        point=static_point("full", 8, 0),
    )
    assert preparation.groups([request]) == [[request]]
    (decoding,) = preparation.decode([request])
    await asyncio.to_thread(Held.entered.wait, PATIENCE_S)
    decoding.cancel()
    room.release()
    await asyncio.sleep(0)
    assert memory.used == 500
    Held.gate.set()
    while memory.used:
        await asyncio.sleep(0)
    pool.close()


async def test_a_codec_that_raises_stop_iteration_harms_nobody() -> None:
    class Odd(Picture):
        def at(self, size: int, *, crop_ratio: float) -> UInt8Array:
            raise StopIteration

    pool = DecodePool(1)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await decode(pool, Odd(b"", 1), 8, crop_ratio=1.0)
    pool.close()


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([], []),
        ([0.0, 0.0], [[0.0, 0.0]]),
        ([0.4, 0.5], [[0.4, 0.5]]),
        ([0.5, 0.6, 0.5, 0.6], [[0.5, 0.6], [0.5, 0.6]]),
        ([9.0, 0.1, 0.1], [[9.0], [0.1, 0.1]]),
        ([0.1, 0.1, 9.0, 0.1], [[0.1, 0.1, 9.0], [0.1]]),
        ([5.0, 5.0, 5.0], [[5.0], [5.0], [5.0]]),
    ],
)
def test_short_pictures_share_a_thread_and_long_ones_do_not(
    seconds: list[float], expected: list[list[float]]
) -> None:
    assert grouped(seconds, lambda one: one, least_s=1.0) == expected
