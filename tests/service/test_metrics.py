"""The metrics' names follow Prometheus' conventions, and their values what happened."""

from __future__ import annotations

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.metrics import PREFIX, Metrics
from tests.service.conftest import Running, Serving
from tests.service.scripted import HASH, jpeg, model

CLASSIFY = "/v1/classify"
# What `promtool check metrics` objects to: https://prometheus.io/docs/practices/naming
ABBREVIATED = re.compile(r"_(s|ms|us|ns|sec|secs|b|kb|mb|milliseconds|microseconds)(_|$)")
TYPES = re.compile(r"_(counter|gauge|histogram|summary)(_|$)")


def test_names_help_and_units_are_conventional() -> None:
    families = [*Metrics().registry.collect()]
    assert families
    for family in families:
        assert family.documentation.strip()
        assert re.fullmatch(r"[a-z][a-z0-9_]*", family.name)
        assert not ABBREVIATED.search(family.name)
        assert not TYPES.search(family.name)
        # The library appends _total to counters and to nothing else.
        assert not family.name.endswith(("_total", "_count", "_sum", "_bucket"))
        assert family.name.startswith((f"{PREFIX}_", "process_"))


def test_applications_do_not_share_their_metrics() -> None:
    one, other = Metrics(), Metrics()
    one.requests.labels("m", "/", 200, "ok").inc()
    labels = {"model": "m", "route": "/", "status": "200", "outcome": "ok"}
    assert one.registry.get_sample_value("laud_requests_total", labels) == 1
    assert other.registry.get_sample_value("laud_requests_total", labels) is None


@pytest.mark.anyio
async def test_answers_are_counted(running: Running) -> None:
    for point in ("full", "skip", "skip"):
        await running.client.post(CLASSIFY, content=jpeg(), headers={"x-operating-point": point})
    assert (
        await running.metric(
            "laud_requests_total", model="colours", route=CLASSIFY, status="200", outcome="ok"
        )
        == 3
    )
    assert (
        await running.metric("laud_request_duration_seconds_count", model="colours", route=CLASSIFY)
        == 3
    )
    for phase in ("receive", "decode", "queue", "prepare", "network"):
        assert (
            await running.metric("laud_phase_duration_seconds_count", model="colours", phase=phase)
            == 3
        )
    at_skip = {"model": "colours", "point": "skip"}
    assert await running.metric("laud_operating_point_total", reason="pinned", **at_skip) == 2
    assert await running.metric("laud_activation_ratio_sum", **at_skip) == pytest.approx(1.0)
    assert await running.metric("laud_batch_size_count", model="colours") == 3
    assert await running.metric("laud_queue_depth", model="colours") == 0
    assert await running.metric("laud_ready") == 1


@pytest.mark.anyio
async def test_refusals_are_counted_by_outcome_and_never_by_what_the_client_wrote(
    running: Running,
) -> None:
    for path in (f"{CLASSIFY}?model=made-up", "/made/up", "/v2/models/made-up/ready"):
        await running.client.post(path, content=b"x")
    await running.client.post(CLASSIFY, content=b"text")
    page = (await running.client.get("/metrics")).text
    assert "made" not in page
    assert (
        await running.metric(
            "laud_requests_total", model="", route="unknown", status="404", outcome="not_found"
        )
        == 1
    )
    assert (
        await running.metric(
            "laud_requests_total",
            model="colours",
            route=CLASSIFY,
            status="415",
            outcome="unsupported",
        )
        == 1
    )


@pytest.mark.anyio
async def test_the_page_is_what_prometheus_reads(serving: Serving) -> None:
    async with serving(model("b"), model("a")) as running:
        answer = await running.client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=")
        families = {f.name: f for f in text_string_to_metric_families(answer.text)}
        info = [sample.labels for sample in families["laud_model_info"].samples]
        assert info == [
            {"model": name, "bundle": HASH, "engine": "scripted", "precision": "fp32"}
            for name in ("b", "a")
        ]
        assert families["laud_build_info"].samples[0].value == 1
        assert {s.labels["model"] for s in families["laud_queue_depth"].samples} == {"a", "b"}
        assert "process_resident_memory_bytes" in families
        accept = {"accept": "application/openmetrics-text; version=1.0.0"}
        answer = await running.client.get("/metrics", headers=accept)
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        assert answer.text.endswith("# EOF\n")
