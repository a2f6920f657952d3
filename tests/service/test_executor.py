"""Loading, warming up, and a batch in which one image is bad."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from engines.core import OperatingPoint, Output, UInt8Array
from engines.errors import EngineError, ImageError
from service.errors import ClientGone, UnknownModel
from service.executor import Executor
from service.images import Picture
from service.request import Batch, Prediction, Reply, Request
from service.settings import Settings
from tests.service.scripted import (
    PATIENCE_S,
    SECONDS,
    ScriptedEngine,
    jpeg,
    loader_of,
    manifest,
    model,
    pixels,
    profile,
)

pytestmark = pytest.mark.anyio


PREDICTED = Prediction(0.01, 0.02, 0.03, 0.04)


def batch_of(*colours: str) -> Batch:
    return Batch(
        model="colours",
        requests=tuple(request_for(each) for each in colours),
        points=(manifest().full.point,) * len(colours),
        images=np.stack([pixels(each) for each in colours]),
        dispatched_s=1.0,
    )


def request_for(colour: str) -> Request:
    return Request(
        model="colours",
        picture=Picture.of_pixels(pixels(colour)),
        arrived_s=0.0,
        deadline_s=1.0,
        allowed=(0,),
        degrade=True,
        prepare_s=0.0,
        reply=asyncio.get_running_loop().create_future(),
        queued_s=0.25,
        decode_s=0.5,
        reason="best",
        predicted=PREDICTED,
    )


def started(engine: ScriptedEngine, **settings: int) -> Executor:
    return Executor(Settings(**settings), loader_of(model(engine=engine)), profile)  # type: ignore[arg-type]


def best(outcome: Reply | Exception) -> str:
    assert isinstance(outcome, Reply)
    return manifest().labels[int(outcome.probabilities.argmax())]


def test_an_unknown_name_is_quoted_no_longer_than_a_line() -> None:
    with pytest.raises(UnknownModel) as refused:
        Executor(Settings()).model("x" * 100_000)
    assert str(refused.value) == f"unknown model '{'x' * 100}'; there are: none"


@pytest.mark.parametrize(
    ("max_batch", "sizes"),
    [(1, [1]), (2, [2, 1]), (8, [8, 7, 6, 5, 4, 3, 2, 1]), (12, [12, 8, 7, 6, 5, 4, 3, 2, 1])],
)
async def test_every_point_is_warmed_up_at_every_batch(max_batch: int, sizes: list[int]) -> None:
    engine = ScriptedEngine()
    executor = started(engine, max_batch=max_batch)
    assert await executor.start()
    points = ("full", "small", "skip")
    assert engine.batches == [(point,) * size for point in points for size in sizes]
    assert executor.profiles["colours"]["full"] == tuple(
        SECONDS["full"] * n for n in range(1, max_batch + 1)
    )
    assert executor.warm_up_s["colours"] >= 0.0
    await executor.stop()
    assert engine.is_closed


@pytest.mark.parametrize(("call_s", "most"), [(0.001, 8), (0.004, 4), (0.009, 2), (0.5, 2)])
async def test_as_many_images_run_together_as_a_call_that_is_not_long_has_room_for(
    call_s: float, most: int
) -> None:
    class Slow(ScriptedEngine):
        now_s = 0.0

        def infer(self, images: UInt8Array, points: Sequence[OperatingPoint]) -> Output:
            self.now_s += call_s
            return super().infer(images, points)

    engine = Slow()
    served = loader_of(model(engine=engine))
    executor = Executor(Settings(), served, profile, clock=lambda: engine.now_s)
    assert await executor.start()
    assert len(executor.profiles["colours"]["full"]) == most
    await executor.stop()


async def test_what_else_runs_at_the_start_does_not_decide_how_many_run_together() -> None:
    class Disturbed(ScriptedEngine):
        """Computes for a millisecond on the calling thread, and waits longer for its turns."""

        threads = 1
        now_s = cpu_s = 0.0

        def infer(self, images: UInt8Array, points: Sequence[OperatingPoint]) -> Output:
            self.now_s += 0.012
            self.cpu_s += 0.001
            return super().infer(images, points)

    engine = Disturbed()
    executor = Executor(
        Settings(),
        loader_of(model(engine=engine)),
        profile,
        clock=lambda: engine.now_s,
        thread_time=lambda: engine.cpu_s,
    )
    assert await executor.start()
    assert len(executor.profiles["colours"]["full"]) == 8
    await executor.stop()


async def test_a_start_that_nobody_waits_for_ends_soon() -> None:
    engine = ScriptedEngine()
    executor = started(engine, max_batch=64)
    engine.hold()
    starting = asyncio.ensure_future(executor.start())
    await asyncio.to_thread(engine.entered.wait, PATIENCE_S)
    executor.abandon()
    engine.release()
    assert not await starting
    assert len(engine.batches) == 1
    await executor.stop()


class BrokenEngine(ScriptedEngine):
    """Answers at 24 pixels with what is no distribution over three labels."""

    def __init__(self, wrong: list[float]) -> None:
        super().__init__()
        self._wrong = wrong

    def infer(self, images: UInt8Array, points: object) -> Output:
        answers = np.full((len(images), 3), 1 / 3, np.float32)
        if images.shape[1] == 24:
            answers = np.tile(np.array(self._wrong, np.float32), (len(images), 1))
        rates = np.ones((len(images), 2), np.float32)
        return Output({"probabilities": answers}, rates, np.ones(len(images)), {})


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ([0.5, 0.5], "have shape"),
        ([0.5, 0.5, 0.5], "do not sum to 1"),
        ([float("nan"), 0.5, 0.5], "do not sum to 1"),
    ],
)
async def test_a_point_that_does_not_work_is_named(wrong: list[float], reason: str) -> None:
    executor = started(BrokenEngine(wrong))
    with pytest.raises(
        EngineError, match=f"point 'small' of 'colours' failed its warm-up: .*{reason}"
    ):
        await executor.start()
    await executor.stop()


async def test_one_bad_image_fails_alone() -> None:
    engine = ScriptedEngine()
    executor = started(engine)
    await executor.start()

    def refuse_green(images: UInt8Array) -> None:
        if (images.mean(axis=(1, 2)).argmax(axis=1) == 1).any():
            raise RuntimeError("green is bad")

    engine.fault = refuse_green
    red, green, blue = await executor.run(batch_of("red", "green", "blue"))
    assert (best(red), best(blue)) == ("red", "blue")
    assert isinstance(green, RuntimeError)
    (alone,) = await executor.run(batch_of("green"))
    assert isinstance(alone, RuntimeError)
    await executor.stop()


async def test_replies_are_in_order_and_say_how_they_came_about() -> None:
    executor = ticking(ScriptedEngine())
    await executor.start()
    outcomes = await executor.run(batch_of("blue", "red"))
    assert [best(outcome) for outcome in outcomes] == ["blue", "red"]
    for outcome in outcomes:
        assert isinstance(outcome, Reply)
        assert outcome.batch_size == 2
        assert outcome.macs == (1e6 if outcome.point.skips_nothing else 5e5)
        assert outcome.phases_s == {
            "decode": 0.5,
            "queue": 0.25,
            "prepare": 0.001,
            "network": 0.002,
        }
        assert outcome.service_s == 9.0
        assert (outcome.point.name, outcome.reason, outcome.accuracy) == ("full", "best", 0.9)
        assert outcome.predicted is PREDICTED
        assert outcome.decisions is None
    await executor.stop()


def ticking(engine: ScriptedEngine) -> Executor:
    """Its clock says 10 s whenever it is asked."""
    served = loader_of(model(engine=engine))
    return Executor(Settings(), served, profile, clock=lambda: 10.0)


async def test_service_time_begins_where_the_batch_before_ends() -> None:
    executor = ticking(ScriptedEngine())
    await executor.start()
    await executor.run(batch_of("red"))
    (second,) = await executor.run(batch_of("red"))
    assert isinstance(second, Reply)
    assert second.service_s == 0.0
    assert second.phases_s["queue"] == 10.0 - 0.25 - 0.5
    await executor.stop()


async def test_a_picture_without_pixels_is_decoded_before_its_service_begins() -> None:
    ticks = iter([0.0, 0.0, 9.0, 12.0, 13.0, 15.0])
    served = loader_of(model())
    settings = Settings(max_batch=2)
    executor = Executor(settings, served, profile, clock=lambda: next(ticks, 20.0))
    # Which asks for the time twice.
    await executor.start()
    (request,) = batch_of("blue").requests
    request.picture = Picture.encoded(jpeg("blue"), max_pixels=10_000)
    batch = Batch("colours", (request,), (manifest().full.point,), None, dispatched_s=8.0)
    (outcome,) = await executor.run(batch)
    assert best(outcome) == "blue"
    assert isinstance(outcome, Reply)
    # Decoded from 9 to 12, begun at 13, done at 15.
    assert (outcome.phases_s["decode"], outcome.service_s) == (3.0, 2.0)
    assert outcome.phases_s["queue"] == 13.0 - request.queued_s - 3.0
    request.picture = Picture.encoded(jpeg()[:-40], max_pixels=10_000)
    (damaged,) = await executor.run(batch)
    assert isinstance(damaged, ImageError)
    await executor.stop()


async def test_decisions_come_with_the_replies_that_ask_for_them() -> None:
    class Deciding(ScriptedEngine):
        def infer(self, images: UInt8Array, points: Sequence[OperatingPoint]) -> Output:
            output = super().infer(images, points)
            decisions = np.arange(len(images))[:, None] == np.arange(3)
            return replace(output, arrays={**output.arrays, "decisions": decisions})

    executor = started(Deciding())
    await executor.start()
    batch = batch_of("red", "green")
    batch.requests[1].explain = True
    first, second = await executor.run(batch)
    assert isinstance(first, Reply)
    assert isinstance(second, Reply)
    assert first.decisions is None
    assert second.decisions is not None
    assert second.decisions.tolist() == [False, True, False]
    await executor.stop()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (StopIteration(), "the engine raised StopIteration()"),
        (KeyboardInterrupt(), "the engine raised KeyboardInterrupt()"),
        (SystemExit(1), "the engine raised SystemExit(1)"),
        (MemoryError("no room"), "no room"),
    ],
)
async def test_whatever_an_engine_raises_fails_its_images_and_nothing_else(
    fault: BaseException, message: str
) -> None:
    engine = ScriptedEngine()
    executor = started(engine)
    await executor.start()

    def refuse_green(images: UInt8Array) -> None:
        if (images.mean(axis=(1, 2)).argmax(axis=1) == 1).any():
            raise fault

    engine.fault = refuse_green
    green, red = await executor.run(batch_of("green", "red"))
    assert isinstance(green, Exception)
    assert str(green) == message
    assert best(red) == "red"
    await executor.stop()


async def test_nothing_runs_for_those_who_all_left() -> None:
    engine = ScriptedEngine()
    executor = started(engine)
    await executor.start()
    engine.batches.clear()
    batch = batch_of("red", "red")
    for request in batch.requests:
        request.reply.cancel()
    assert all(isinstance(outcome, ClientGone) for outcome in await executor.run(batch))
    assert engine.batches == []
    await executor.stop()


async def test_an_engine_that_was_closed_is_an_error_and_no_hang() -> None:
    executor = started(ScriptedEngine())
    await executor.start()
    executor.model("colours").engine.close()
    (outcome,) = await executor.run(batch_of("red"))
    assert isinstance(outcome, EngineError)
    await executor.stop()
