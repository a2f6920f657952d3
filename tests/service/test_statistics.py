"""Triton's model statistics: what counts as what, and that they add up."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from engines.core import static_point
from service.errors import ClientGone
from service.request import Batch, Exchange, Prediction, Reply
from service.statistics import ModelStatistics

PHASES = {"receive": 0.001, "decode": 0.002, "queue": 0.003, "prepare": 0.004, "network": 0.005}
TOTAL_S = 0.020
POINT = static_point("full", 8, 0)
ZERO = {"count": 0, "ns": 0}
COMPUTE = ("compute_input", "compute_infer", "compute_output")


def statistics() -> ModelStatistics:
    return ModelStatistics(wall=lambda: 1234.5678)


def answered(images: int = 1, model: str = "m", engine_end_s: float = 100.017) -> Exchange:
    return Exchange(
        "id",
        100.0,
        model,
        points=("full",) * images,
        phases_s=dict(PHASES),
        engine_end_s=engine_end_s,
        status=200,
    )


def refused(status: int, model: str = "m") -> Exchange:
    return Exchange("id", 0.0, model, status=status, phases_s={"receive": 0.001})


def reply(batch_size: int) -> Reply:
    return Reply(
        probabilities=np.ones(1, np.float32),
        activation=np.ones(0, np.float32),
        point=POINT,
        reason="best",
        accuracy=None,
        batch_size=batch_size,
        service_s=0.012,
        predicted=Prediction(0.0, 0.0, 0.0, 0.0),
        phases_s={"decode": 0.1, "queue": 0.1, "prepare": 0.004, "network": 0.005},
    )


def told(counted: ModelStatistics) -> dict[str, Any]:
    return counted.as_triton("m", "1")


def test_before_the_first_request_everything_is_there_and_zero() -> None:
    assert told(statistics()) == {
        "name": "m",
        "version": "1",
        "last_inference": 0,
        "inference_count": 0,
        "execution_count": 0,
        "inference_stats": dict.fromkeys(
            ("success", "fail", "queue", *COMPUTE, "cache_hit", "cache_miss"), ZERO
        ),
        "batch_stats": [],
        "memory_usage": [],
    }


def test_a_request_is_counted_once_and_its_images_each() -> None:
    counted = statistics()
    counted.observe_exchange(answered(images=3), TOTAL_S)
    counted.observe_exchange(answered(images=1), TOTAL_S)
    found = told(counted)
    assert found["inference_count"] == 4
    assert found["inference_stats"]["success"] == {"count": 2, "ns": 40_000_000}
    assert found["last_inference"] == 1_234_568


def test_phases_are_those_of_triton() -> None:
    """Decoding and scaling are its compute input, all after the engine is its compute output."""
    counted = statistics()
    counted.observe_exchange(answered(), TOTAL_S)
    stats = told(counted)["inference_stats"]
    assert stats["queue"] == {"count": 1, "ns": 3_000_000}
    assert stats["compute_input"] == {"count": 1, "ns": 6_000_000}
    assert stats["compute_infer"] == {"count": 1, "ns": 5_000_000}
    assert stats["compute_output"]["count"] == 1
    assert stats["compute_output"]["ns"] == pytest.approx(3_000_000, abs=1000)


def test_no_duration_is_negative() -> None:
    """They are unsigned on the wire."""
    counted = statistics()
    counted.observe_exchange(answered(engine_end_s=100.0201), TOTAL_S)
    assert told(counted)["inference_stats"]["compute_output"] == {"count": 1, "ns": 0}


@pytest.mark.parametrize("status", [400, 413, 429, 499, 500, 504])
def test_what_is_not_answered_has_failed(status: int) -> None:
    counted = statistics()
    counted.observe_exchange(refused(status), TOTAL_S)
    found = told(counted)
    assert found["inference_stats"]["fail"] == {"count": 1, "ns": 20_000_000}
    assert (found["inference_count"], found["inference_stats"]["success"]) == (0, ZERO)


def test_a_request_without_a_model_belongs_to_none() -> None:
    counted = statistics()
    counted.observe_exchange(refused(404, model=""), TOTAL_S)
    counted.observe_exchange(answered(model="other"), TOTAL_S)
    assert told(counted) == told(statistics())
    assert counted.as_triton("other", "1")["inference_count"] == 1


def test_a_call_of_the_engine_is_counted_once_for_all_its_images() -> None:
    counted = statistics()
    counted.observe_calls("m", [reply(2), reply(2)])
    counted.observe_calls("m", [reply(1)])
    found = told(counted)
    assert found["execution_count"] == 2
    one, two = found["batch_stats"]
    assert (one["batch_size"], two["batch_size"]) == (1, 2)
    for entry in (one, two):
        spent = [entry[name] for name in COMPUTE]
        assert spent == [{"count": 1, "ns": ns} for ns in (4_000_000, 5_000_000, 3_000_000)]


def test_a_batch_that_ran_singly_is_as_many_calls_as_succeeded() -> None:
    counted = statistics()
    counted.observe_calls("m", [reply(1), RuntimeError("a bad image"), reply(1)])
    counted.observe_calls("m", [ClientGone("left"), ClientGone("left")])
    found = told(counted)
    assert found["execution_count"] == 2
    assert [entry["batch_size"] for entry in found["batch_stats"]] == [1]


def test_a_runner_is_counted_and_otherwise_itself() -> None:
    counted = statistics()
    outcomes: list[list[Reply | Exception] | Exception] = [[reply(1)], RuntimeError("broken")]

    class Runner:
        def run(self, batch: Batch) -> asyncio.Future[list[Reply | Exception]]:
            future: asyncio.Future[list[Reply | Exception]] = asyncio.Future()
            match outcomes.pop(0):
                case Exception() as error:
                    future.set_exception(error)
                case replies:
                    future.set_result(replies)
            return future

    async def run() -> None:
        runner = counted.counting(Runner())
        batch = Batch("m", (), (POINT,), np.zeros((1, 8, 8, 3), np.uint8), 0.0)
        (found,) = await runner.run(batch)
        assert isinstance(found, Reply)
        with pytest.raises(RuntimeError, match="broken"):
            await runner.run(batch)

    asyncio.run(run())
    assert told(counted)["execution_count"] == 1
