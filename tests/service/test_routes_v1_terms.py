"""`POST /v1/classify`: its objective, late answers and early refusals, and the explanation."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.service.asking import CLASSIFY, assert_refused, classify
from tests.service.conftest import Running, Serving
from tests.service.scripted import SECONDS, jpeg

pytestmark = pytest.mark.anyio

FASTEST = min(SECONDS, key=SECONDS.__getitem__)


async def test_server_timing_says_the_same_as_the_body(running: Running) -> None:
    answer = await classify(running.client)
    body = answer.json()
    said = dict(part.split(";") for part in answer.headers["server-timing"].split(", "))
    for phase, value in body["milliseconds"].items():
        assert said[phase] == f"dur={value:.3f}"
    assert said["slack"] == f"dur={body['slack_ms']:.3f}"
    assert said["point"] == 'desc="full"'
    assert said["outcome"] == 'desc="met"'


async def test_refusals_have_no_server_timing(running: Running) -> None:
    answer = await classify(running.client, x_slo_ms="soon")
    assert "server-timing" not in answer.headers


async def test_an_answer_that_cannot_be_in_time_is_late_at_the_fastest_point(
    running: Running,
) -> None:
    body = (await classify(running.client, x_slo_ms="0.001")).json()
    assert (body["outcome"], body["reason"], body["point"]) == ("late", "late", FASTEST)
    assert body["slack_ms"] < 0
    assert body["objective"]["slo_class"] == "custom"


async def test_who_prefers_a_refusal_to_a_late_answer_gets_it_with_when_to_come_back(
    running: Running,
) -> None:
    answer = await classify(running.client, x_slo_ms="0.001", x_on_infeasible="reject")
    message = await assert_refused(running.client, answer, 429)
    assert message.startswith("no allowed operating point answers this image within")
    assert int(answer.headers["retry-after"]) >= 1


async def test_a_class_of_the_configuration_is_named_by_a_header(serving: Serving) -> None:
    classes = {"calm": {"slo_ms": 50_000.0, "min_accuracy": 0.9}, "default": {"slo_ms": 60_000.0}}
    async with serving(slo_classes=classes) as running:
        body = (await classify(running.client, x_slo_class="calm")).json()
        assert body["objective"]["slo_class"] == "calm"
        assert body["objective"]["slo_ms"] == 50_000.0
        assert body["objective"]["min_accuracy"] == 0.9
        assert body["point"] == "full"


@pytest.mark.parametrize(
    ("header", "value", "reason"),
    [
        ("x_slo_ms", "nan", "must be a number of milliseconds from 0.001 to 600,000, got 'nan'"),
        ("x_slo_class", "no", "must name an SLO class, got 'no'; there are: default"),
        ("x_min_accuracy", "2", "must be a number from 0 to 1, got 2"),
        ("x_min_accuracy", "0.95", "no operating point has min_accuracy 0.95"),
        ("x_on_infeasible", "wait", "must be 'degrade' or 'reject', got 'wait'"),
    ],
)
async def test_an_objective_that_is_wrong_is_refused(
    running: Running, header: str, value: str, reason: str
) -> None:
    answer = await classify(running.client, jpeg(), **{header: value})
    assert reason in await assert_refused(running.client, answer, 400)


async def test_an_objective_that_is_wrong_is_refused_before_the_body_is_read(
    running: Running,
) -> None:
    was_read = False

    async def body() -> AsyncIterator[bytes]:
        nonlocal was_read
        was_read = True
        yield jpeg()

    answer = await running.client.post(CLASSIFY, content=body(), headers={"x-slo-ms": "-1"})
    assert answer.status_code == 400
    assert not was_read


async def test_explanation_comes_only_when_asked_for(running: Running) -> None:
    assert "explain" not in (await classify(running.client)).json()
    answer = await running.client.post(
        CLASSIFY, params={"explain": 1}, content=jpeg(), headers={"x-operating-point": "full"}
    )
    explained = answer.json()["explain"]
    assert explained["skips_nothing"] is True
    assert "skips nothing" in explained["summary"]
    assert [block["name"] for block in explained["blocks"]] == ["layer1.0", "layer2.0"]
