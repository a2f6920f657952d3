"""What clients of the Open Inference Protocol may ask of an answer, and what it tells of itself."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from tests.service.conftest import Running, Serving
from tests.service.oip_requests import INFER, assert_refused, image_input, infer, output
from tests.service.scripted import HASH, SIZE

pytestmark = pytest.mark.anyio


async def test_the_answer_says_how_it_came_about(running: Running) -> None:
    answer = await infer(running.client, image_input("green", "blue"))
    parameters = answer.json()["parameters"]
    assert all(isinstance(value, str | int | float) for value in parameters.values())
    assert parameters["operating_point"] == "full,full"
    assert parameters["reason"] == "best,best"
    assert (parameters["outcome"], parameters["slo_class"]) == ("met", "default")
    assert (parameters["slo_ms"], parameters["accuracy"]) == (60_000.0, 0.9)
    assert (parameters["bundle"], parameters["engine"]) == (HASH, "scripted")
    assert parameters["precision"] == "fp32"
    phases = ("receive", "decode", "queue", "prepare", "network", "total")
    assert all(parameters[f"{phase}_ms"] >= 0 for phase in phases)
    assert parameters["predicted_service_p95_ms"] > parameters["predicted_service_p50_ms"] > 0
    timing = dict(entry.split(";", 1) for entry in answer.headers["server-timing"].split(", "))
    assert timing["point"] == 'desc="full"'
    assert timing["total"] == f"dur={parameters['total_ms']:.3f}"


@pytest.mark.parametrize(
    ("parameters", "headers", "slo_ms", "slo_class"),
    [
        ({}, {}, 60_000, "default"),
        ({}, {"x-slo-class": "gold"}, 9000, "gold"),
        ({}, {"x-slo-class": "gold", "x-slo-ms": "8000"}, 8000, "custom"),
        ({"timeout": 7_000_000}, {"x-slo-ms": "8000"}, 7000, "custom"),
        ({"timeout": 7_000_000, "slo_ms": 6000}, {"x-slo-ms": "8000"}, 6000, "custom"),
    ],
)
async def test_where_the_objective_comes_from(
    serving: Serving,
    parameters: dict[str, Any],
    headers: dict[str, str],
    slo_ms: float,
    slo_class: str,
) -> None:
    classes = {"default": {"slo_ms": 60_000.0}, "gold": {"slo_ms": 9000.0}}
    async with serving(slo_classes=classes) as running:
        content = orjson.dumps({"inputs": [image_input("red")], "parameters": parameters})
        answer = await running.client.post(INFER, content=content, headers=headers)
        told = answer.json()["parameters"]
        assert (told["slo_ms"], told["slo_class"]) == (slo_ms, slo_class)


async def test_what_cannot_be_in_time_is_late_or_refused_as_asked(running: Running) -> None:
    hopeless = {"slo_ms": 0.001}
    late = await infer(running.client, image_input("red"), parameters=hopeless)
    assert output(late, "point") == ["small"]
    assert late.json()["parameters"]["outcome"] == "late"
    assert late.json()["parameters"]["slack_ms"] < 0
    refused = await infer(
        running.client,
        image_input("red"),
        parameters={**hopeless, "on_infeasible": "reject"},
    )
    assert int(refused.headers["retry-after"]) >= 1
    assert "no allowed operating point" in await assert_refused(running, refused, 429)


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"slo_ms": "fast"}, "parameter 'slo_ms' must be a number of milliseconds"),
        ({"slo_ms": -1}, "parameter 'slo_ms' must be a number of milliseconds"),
        ({"timeout": 0.5}, "parameter 'timeout' must be a whole number of microseconds"),
        ({"min_accuracy": 0.99}, "0.99"),
        ({"on_infeasible": "retry"}, "must be 'degrade' or 'reject'"),
    ],
)
async def test_wrong_objectives(running: Running, parameters: dict[str, Any], reason: str) -> None:
    answer = await infer(running.client, image_input("red"), parameters=parameters)
    assert reason in await assert_refused(running, answer, 400)


async def test_an_explanation_for_each_image(running: Running) -> None:
    asked = {"explain": True, "operating_point": "skip"}
    answer = await infer(running.client, image_input("red", "blue"), parameters=asked)
    told = [json.loads(text) for text in output(answer, "explanation")]
    assert [one["image_size"] for one in told] == [SIZE, SIZE]
    assert [len(one["blocks"]) for one in told] == [2, 2]
    plain = await infer(running.client, image_input("red"))
    assert [each["name"] for each in plain.json()["outputs"]] == ["probabilities", "label", "point"]


@pytest.mark.parametrize("point", ["full", "small", "skip"])
async def test_a_point_is_pinned_by_parameter_or_header(running: Running, point: str) -> None:
    by_parameter = await infer(
        running.client, image_input("red"), parameters={"operating_point": point}
    )
    by_header = await running.client.post(
        INFER,
        content=orjson.dumps({"inputs": [image_input("red")]}),
        headers={"x-operating-point": point},
    )
    for answer in (by_parameter, by_header):
        assert answer.json()["parameters"]["operating_point"] == point
        assert answer.json()["parameters"]["reason"] == "pinned"
    assert running.engine.batches == [(point,), (point,)]


async def test_the_parameter_outranks_the_header(running: Running) -> None:
    content = {"inputs": [image_input("red")], "parameters": {"operating_point": "skip"}}
    answer = await running.client.post(
        INFER, content=orjson.dumps(content), headers={"x-operating-point": "small"}
    )
    assert answer.json()["parameters"]["operating_point"] == "skip"


@pytest.mark.parametrize("point", ["tiny", 3, None, ["full"], "x" * 100_000])
async def test_an_unknown_point(running: Running, point: Any) -> None:
    answer = await infer(running.client, image_input("red"), parameters={"operating_point": point})
    assert len(await assert_refused(running, answer, 400)) < 200
