"""The metrics' names follow Prometheus' conventions, and their values what happened."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess

import numpy as np
import pytest
from prometheus_client.exposition import choose_encoder
from prometheus_client.parser import text_string_to_metric_families

from service.costs import ModelCosts, costs_of
from service.metrics import NO_CLASS, OUTCOMES, PREFIX, Metrics
from service.objectives import SloClass
from service.request import Batch, Prediction, Reply
from tests.service.conftest import Running, Serving
from tests.service.scripted import HASH, SIZE, jpeg, manifest, model, profile

CLASSIFY = "/v1/classify"
CLASSES = {"gold": SloClass(slo_ms=33.0), "bronze": SloClass(slo_ms=1234.0)}
# What `promtool check metrics` objects to: https://prometheus.io/docs/practices/naming
ABBREVIATED = re.compile(r"_(s|ms|us|ns|sec|secs|b|kb|mb|milliseconds|microseconds)(_|$)")
TYPES = re.compile(r"_(counter|gauge|histogram|summary)(_|$)")


def served(costs: ModelCosts | None = None) -> Metrics:
    """Metrics of a service of one model, at which nothing has happened."""
    metrics = Metrics(CLASSES)
    found = costs or costs_of(model(), profile(model(), 2))
    metrics.watch(models={"colours": model()}, depth=lambda name: 0, costs={"colours": found})
    return metrics


def batch(*points: str) -> Batch:
    """A call with images at those points, whose requests nobody looks at."""
    found = tuple(manifest().point(name).point for name in points)
    return Batch("colours", (), found, np.zeros((len(points), SIZE, SIZE, 3), np.uint8), 0.0)


def reply(point: str, accuracy: float | None) -> Reply:
    return Reply(
        probabilities=np.ones(3, np.float32),
        activation=np.ones(2, np.float32),
        point=manifest().point(point).point,
        reason="best",
        accuracy=accuracy,
        batch_size=1,
        service_s=0.010,
        predicted=Prediction(0.010, 0.012, 0.020, 0.030),
        phases_s={"decode": 0.001},
        mean_activation=1.0,
    )


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


def test_labels_that_prometheus_keeps_for_itself_are_not_used() -> None:
    for family in served().registry.collect():
        for sample in family.samples:
            names = sample.labels.keys() - ({"le"} if sample.name.endswith("_bucket") else set())
            assert not names & {"le", "quantile", "job", "instance"}
            assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names)


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
@pytest.mark.anyio
async def test_promtool_has_no_complaint() -> None:
    page, _ = await served().exposition("")
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=page, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


@pytest.mark.anyio
@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
async def test_the_page_is_made_in_parts_and_is_the_same(accept: str) -> None:
    """Other tasks get their turns while it is made, one between any two families."""
    metrics = served()
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    page, content_type = await metrics.exposition(accept)
    task.cancel()
    encode, kind = choose_encoder(accept)
    assert content_type == kind
    own = rb"(?m)^laud_.*$"
    assert re.findall(own, page) == re.findall(own, encode(metrics.registry))
    assert page.count(b"# EOF") == encode(metrics.registry).count(b"# EOF")
    assert turns >= len([*metrics.registry.collect()])


# The pairs, and what else a reply says.


def test_the_two_pairs_have_equal_labels_and_buckets() -> None:
    metrics = served()
    for measured, predicted in (
        (metrics.service, metrics.service_predicted),
        (metrics.completion, metrics.completion_predicted),
    ):
        (one,), (other,) = measured.collect(), predicted.collect()
        assert one.name != other.name
        assert [(s.name.removeprefix(one.name), s.labels) for s in one.samples] == [
            (s.name.removeprefix(other.name), s.labels) for s in other.samples
        ]


def test_every_configured_limit_is_a_bucket() -> None:
    """So that the share of answers within it is read, not interpolated."""
    metrics = served()
    (family,) = metrics.completion.collect()
    limits = {float(s.labels["le"]) for s in family.samples if "le" in s.labels}
    assert {each.slo_ms / 1e3 for each in CLASSES.values()} <= limits


def test_series_are_there_before_anything_happens() -> None:
    """Prometheus takes a series that appears with its first event for one that did not rise."""
    metrics = served()

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, {"model": "colours", **labels})

    for slo_class in (*CLASSES, "default", "custom", NO_CLASS):
        for outcome in OUTCOMES:
            found = value("laud_inference_requests_total", slo_class=slo_class, outcome=outcome)
            assert found == 0
        assert value("laud_completion_seconds_count", slo_class=slo_class) == 0
    for point in ("full", "small", "skip"):
        assert value("laud_service_seconds_count", point=point) == 0
        for level in ("0.5", "0.95"):
            assert value("laud_predictions_total", point=point, level=level) == 0
            assert value("laud_predictions_exceeded_total", point=point, level=level) == 0
        assert value("laud_operating_point_total", point=point, reason="deadline") == 0
    assert value("laud_engine_busy_seconds_total") == 0


def test_predicted_and_measured_service_time_are_compared() -> None:
    metrics = served()
    for service_s in (0.009, 0.011, 0.013):
        metrics.observe_service(batch("full"), 0.010, 0.012, service_s)

    def value(name: str, **labels: str) -> float | None:
        of = {"model": "colours", "point": "full", **labels}
        return metrics.registry.get_sample_value(name, of)

    assert value("laud_service_seconds_sum") == pytest.approx(0.033)
    assert value("laud_service_predicted_seconds_sum") == pytest.approx(0.030)
    assert value("laud_prediction_ratio_sum") == pytest.approx(3.3)
    assert value("laud_predictions_total", level="0.5") == 3
    assert value("laud_predictions_exceeded_total", level="0.5") == 2
    assert value("laud_predictions_total", level="0.95") == 3
    assert value("laud_predictions_exceeded_total", level="0.95") == 1
    busy = metrics.registry.get_sample_value("laud_engine_busy_seconds_total", {"model": "colours"})
    assert busy == pytest.approx(0.033)


def test_a_call_counts_once_for_every_point_in_it_and_once_as_busy_time() -> None:
    metrics = served()
    metrics.observe_service(batch("full", "skip", "skip"), 0.010, 0.012, 0.011)
    for point, calls in (("full", 1), ("skip", 1), ("small", 0)):
        labels = {"model": "colours", "point": point}
        assert metrics.registry.get_sample_value("laud_service_seconds_count", labels) == calls
    busy = metrics.registry.get_sample_value("laud_engine_busy_seconds_total", {"model": "colours"})
    assert busy == pytest.approx(0.011)


def test_drift_margin_and_the_flag_are_those_of_the_costs() -> None:
    clock_s = 0.0
    costs = costs_of(model(), profile(model(), 2), clock=lambda: clock_s)
    metrics = served(costs)

    def value(name: str) -> float | None:
        return metrics.registry.get_sample_value(name, {"model": "colours"})

    assert value("laud_prediction_drift_ratio") == pytest.approx(1.0)
    assert value("laud_prediction_table_flagged") == 0
    for _ in range(300):
        clock_s += 0.020
        costs.observe((costs.full,), 0.020, clock_s)
    assert value("laud_prediction_drift_ratio") == pytest.approx(2.0, rel=0.01)
    assert value("laud_prediction_margin_ratio") == pytest.approx(costs.margin)
    assert value("laud_prediction_table_flagged") == 1


def test_accuracy_that_was_not_measured_is_not_expected() -> None:
    metrics = served()
    for accuracy in (0.9, None, 0.8):
        metrics.observe_reply("colours", reply("full", accuracy))

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, {"model": "colours", **labels})

    assert value("laud_expected_accuracy_ratio_sum") == pytest.approx(1.7)
    assert value("laud_expected_accuracy_ratio_count") == 2
    assert value("laud_operating_point_total", point="full", reason="best") == 3


# Of a running service.


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
            "laud_requests_total", model="colours", route=CLASSIFY, status="200", outcome="met"
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
    of_default = {"model": "colours", "slo_class": "default"}
    assert await running.metric("laud_inference_requests_total", outcome="met", **of_default) == 3
    assert await running.metric("laud_completion_seconds_count", **of_default) == 3
    assert await running.metric("laud_completion_predicted_seconds_count", **of_default) == 3
    assert await running.metric("laud_service_seconds_count", **at_skip) == 2
    assert await running.metric("laud_predictions_total", level="0.95", **at_skip) == 2
    assert await running.metric("laud_expected_accuracy_ratio_count", model="colours") == 1
    assert await running.metric("laud_scheduler_decision_seconds_count") == 3
    assert await running.metric("laud_queue_predicted_seconds") == 0
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
