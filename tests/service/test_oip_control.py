"""What Triton's clients ask and set besides: statistics, models, tracing, logs, memory."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.service.conftest import Running, Serving
from tests.service.oip_requests import INFER, MODEL, assert_refused, image_input, infer
from tests.service.scripted import jpeg, model

pytestmark = pytest.mark.anyio

FORM = {"content-type": "application/x-www-form-urlencoded"}
"""What the C++ client claims its JSON to be."""


@pytest.mark.parametrize(
    "path", ["/v2/models/stats", f"{MODEL}/stats", f"{MODEL}/versions/1/stats"]
)
async def test_statistics_of_both_route_families(running: Running, path: str) -> None:
    await infer(running.client, image_input("red", "green"))
    await running.client.post("/v1/classify", content=jpeg())
    await running.client.post(INFER, content=b"{}")
    (found,) = (await running.client.get(path)).json()["model_stats"]
    assert (found["name"], found["version"]) == ("colours", "1")
    assert found["inference_count"] == 3
    assert found["inference_stats"]["success"]["count"] == 2
    assert found["inference_stats"]["fail"]["count"] == 1
    ran = sum(
        entry["batch_size"] * entry["compute_infer"]["count"] for entry in found["batch_stats"]
    )
    assert ran == 3
    assert found["execution_count"] == len(running.engine.batches)
    assert found["last_inference"] > 0


async def test_statistics_of_all_models_or_of_one(serving: Serving) -> None:
    async with serving(model("colours"), model("b")) as running:
        answer = await running.client.get("/v2/models/stats")
        assert [each["name"] for each in answer.json()["model_stats"]] == ["colours", "b"]
        answer = await running.client.get("/v2/models/x/stats")
        reason = await assert_refused(running, answer, 404)
        assert reason == "unknown model 'x'; there are: b, colours"


@pytest.mark.parametrize("body", [b"", b"{}", b'{"ready": true}'])
async def test_the_index_lists_what_is_served(running: Running, body: bytes) -> None:
    answer = await running.client.post("/v2/repository/index", content=body, headers=FORM)
    assert answer.json() == [{"name": "colours", "version": "1", "state": "READY", "reason": ""}]


async def test_the_index_of_a_server_that_drains(running: Running) -> None:
    running.service.drain()
    (found,) = (await running.client.post("/v2/repository/index")).json()
    assert (found["state"], found["reason"]) == ("UNAVAILABLE", "starting, draining or broken")
    ready = await running.client.post("/v2/repository/index", content=b'{"ready": true}')
    assert ready.json() == []


async def test_a_served_model_is_loaded_already_and_stays(running: Running) -> None:
    path = "/v2/repository/models/colours"
    assert (await running.client.post(f"{path}/load", content=b"{}", headers=FORM)).json() == {}
    for refused in (
        await running.client.post(f"{path}/unload", content=b"{}", headers=FORM),
        await running.client.post(f"{path}/load", content=b'{"parameters": {"config": "{}"}}'),
    ):
        reason = await assert_refused(running, refused, 400)
        assert reason.startswith("models are fixed while the server runs: restart it with")
    for verb in ("load", "unload"):
        other = await running.client.post(f"/v2/repository/models/other/{verb}", content=b"{}")
        assert "there are: colours" in await assert_refused(running, other, 404)


@pytest.mark.parametrize("path", ["/v2/trace/setting", f"{MODEL}/trace/setting"])
async def test_tracing_is_off_and_stays_off(running: Running, path: str) -> None:
    settings = (await running.client.get(path)).json()
    assert settings["trace_level"] == ["OFF"]
    for harmless in ({}, {"trace_level": ["OFF"]}, {"trace_rate": None}, settings):
        answer = await running.client.post(path, content=orjson.dumps(harmless), headers=FORM)
        assert answer.json() == settings
    # What `perf_analyzer --trace-level TIMESTAMPS` sends.
    answer = await running.client.post(
        path, content=b'{"trace_level":["TIMESTAMPS"]}', headers=FORM
    )
    reason = await assert_refused(running, answer, 400)
    assert reason.startswith("'trace_level' cannot be changed: there are no traces")


@pytest.mark.parametrize(
    ("level", "told"),
    [
        ("debug", (True, True, True, 1)),
        ("info", (True, True, True, 0)),
        ("warning", (False, True, True, 0)),
        ("error", (False, False, True, 0)),
    ],
)
async def test_the_log_is_set_at_the_start(
    serving: Serving, level: str, told: tuple[Any, ...]
) -> None:
    async with serving(log_level=level) as running:
        settings = (await running.client.get("/v2/logging")).json()
        names = ("log_info", "log_warning", "log_error", "log_verbose_level")
        assert tuple(settings[name] for name in names) == told
        same = await running.client.post("/v2/logging", content=orjson.dumps(settings))
        assert same.json() == settings
        other = await running.client.post("/v2/logging", content=b'{"log_verbose_level": 3}')
        assert "laud serve --log-level" in await assert_refused(running, other, 400)


@pytest.mark.parametrize("path", ["/v2/logging", "/v2/trace/setting", "/v2/repository/index"])
@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b'"x"'])
async def test_settings_that_are_no_json_object(running: Running, path: str, body: bytes) -> None:
    answer = await running.client.post(path, content=body)
    assert "JSON" in await assert_refused(running, answer, 400)


async def test_settings_that_there_are_not_and_bodies_too_large(running: Running) -> None:
    answer = await running.client.post("/v2/logging", content=b'{"colour": 1}')
    assert "no setting 'colour'; there are: log_error" in await assert_refused(running, answer, 400)
    answer = await running.client.post("/v2/logging", content=bytes(70_000))
    assert "the limit is 65,536" in await assert_refused(running, answer, 413)


@pytest.mark.parametrize("kind", ["system", "cuda"])
async def test_there_is_no_shared_memory(running: Running, kind: str) -> None:
    path = f"/v2/{kind}sharedmemory"
    assert (await running.client.get(f"{path}/status")).json() == []
    # perf_analyzer asks for both before it registers its own.
    for forget in (f"{path}/unregister", f"{path}/region/mine/unregister"):
        assert (await running.client.post(forget, headers=FORM)).status_code == 200
    for method, place in (("GET", "status"), ("POST", "register")):
        answer = await running.client.request(method, f"{path}/region/mine/{place}")
        assert await assert_refused(running, answer, 400) == (
            f"{kind} shared memory is not supported, so there is no region 'mine': send tensors in "
            "the body"
        )
