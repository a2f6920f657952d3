"""Every request is counted once and gets one outcome, whatever happens to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.app import Observed
from service.errors import (
    BadRequest,
    ClientGone,
    Expired,
    Infeasible,
    NotReady,
    QueueFull,
    error_response,
)
from service.metrics import NO_CLASS, OUTCOMES, Metrics
from service.objectives import Objective, SloClass
from service.protocol import FIRST_BYTE
from service.request import Exchange, Prediction

pytestmark = pytest.mark.anyio

Lines = list[MutableMapping[str, Any]]
CLASSIFY = "/v1/classify"
GOLD = SloClass(slo_ms=50.0)
OBJECTIVE = Objective(slo_s=0.050, slo_class="gold")
PREDICTED = Prediction(0.008, 0.010, 0.020, 0.030)

Route = Callable[[Exchange], Awaitable[Response]]


@dataclass
class Front:
    """A server of one route behind the middleware. Time passes when the test says so."""

    metrics: Metrics = field(default_factory=lambda: Metrics({"gold": GOLD}))
    now_s: float = 100.0
    sent: list[Message] = field(default_factory=list)

    def answering(self, route: Route) -> ASGIApp:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            response = await route(scope["state"]["exchange"])
            await response(scope, receive, send)

        return Observed(app, self.metrics, lambda: self.now_s)

    async def request(
        self,
        app: ASGIApp,
        path: str = CLASSIFY,
        *,
        method: str = "POST",
        send: Send | None = None,
        noted: Mapping[str, Any] | None = None,
    ) -> None:
        async def receive() -> Message:
            return {"type": "http.disconnect"}

        async def keep(message: Message) -> None:
            self.sent.append(message)

        given = {"type": "http", "method": method, "path": path, "headers": [], **(noted or {})}
        await app(given, receive, send or keep)

    def outcomes(self) -> dict[str, float]:
        """Inference requests by outcome; those that there were none of are left out."""
        found: dict[str, float] = {}
        for family in self.metrics.inference_requests.collect():
            for sample in family.samples:
                if sample.name.endswith("_total") and sample.value:
                    outcome = sample.labels["outcome"]
                    found[outcome] = found.get(outcome, 0.0) + sample.value
        return found

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)

    def counted(self, status: int, outcome: str) -> float:
        """HTTP requests of that status and outcome."""
        return sum(
            sample.value
            for family in self.metrics.requests.collect()
            for sample in family.samples
            if sample.name == "laud_requests_total"
            and (sample.labels["status"], sample.labels["outcome"]) == (str(status), outcome)
        )


@pytest.fixture
def front() -> Front:
    return Front()


async def understood(exchange: Exchange) -> Response:
    """An answer to a request of class gold, of which the route says nothing more."""
    exchange.model, exchange.objective, exchange.predicted = "colours", OBJECTIVE, PREDICTED
    return JSONResponse({})


# How an inference ends.


@pytest.mark.parametrize(("took_s", "outcome"), [(0.049, "met"), (0.051, "late")])
async def test_an_answer_is_met_or_late_by_its_last_byte(
    front: Front, logged: Lines, took_s: float, outcome: str
) -> None:
    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            front.now_s += took_s

    await front.request(front.answering(understood), send=send)
    assert front.outcomes() == {outcome: 1}
    assert front.counted(200, outcome) == 1
    labels = {"model": "colours", "slo_class": "gold"}
    assert front.value("laud_completion_seconds_sum", **labels) == pytest.approx(took_s)
    assert front.value("laud_completion_predicted_seconds_sum", **labels) == 0.020
    used = front.value("laud_deadline_utilization_ratio_sum", **labels)
    assert used == pytest.approx(took_s / 0.050)
    (line,) = logged
    assert line["outcome"] == outcome
    assert line["slack_ms"] == pytest.approx(50.0 - took_s * 1e3)


@pytest.mark.parametrize(
    ("error", "status", "outcome"),
    [
        (Infeasible("no"), 429, "rejected_infeasible"),
        (QueueFull("no"), 429, "rejected_queue"),
        (Expired("no"), 504, "expired"),
        (ClientGone("no"), 499, "cancelled"),
        (BadRequest("no"), 400, "error"),
        (NotReady("no"), 503, "error"),
    ],
)
async def test_what_is_not_answered_has_the_outcome_of_its_error(
    front: Front, error: Exception, status: int, outcome: str
) -> None:
    async def route(exchange: Exchange) -> Response:
        await understood(exchange)
        return error_response(error, exchange)

    await front.request(front.answering(route))
    assert front.outcomes() == {outcome: 1}
    assert front.sent[0]["status"] == status
    # What was not answered took no time that an objective is about.
    labels = {"model": "colours", "slo_class": "gold"}
    assert not front.value("laud_completion_seconds_count", **labels)


async def test_before_its_objective_is_understood_a_request_has_no_class(front: Front) -> None:
    async def route(exchange: Exchange) -> Response:
        return error_response(BadRequest("no image"), exchange)

    await front.request(front.answering(route))
    labels = {"model": "", "slo_class": NO_CLASS, "outcome": "error"}
    assert front.value("laud_inference_requests_total", **labels) == 1


@pytest.mark.parametrize(
    ("method", "path", "counts"),
    [
        ("POST", CLASSIFY, True),
        ("POST", "/v2/models/colours/infer", True),
        ("POST", "/v2/models/colours/versions/1/infer", True),
        ("GET", CLASSIFY, False),
        ("GET", "/v2/models/colours", False),
        ("POST", "/v2/repository/index", False),
        ("POST", "/v1/classify/more", False),
    ],
)
async def test_only_inference_has_an_inference_outcome(
    front: Front, method: str, path: str, counts: bool
) -> None:
    await front.request(front.answering(understood), path, method=method)
    assert sum(front.outcomes().values()) == counts
    assert front.counted(200, "met" if counts else "ok") == 1


async def test_the_clock_starts_at_the_first_byte_where_the_server_noted_it(front: Front) -> None:
    await front.request(front.answering(understood), noted={FIRST_BYTE: front.now_s - 1.0})
    assert front.outcomes() == {"late": 1}


# Clients that leave, and servers that stop.


async def disconnected(exchange: Exchange) -> Response:
    await understood(exchange)
    raise ClientDisconnect


async def broken(exchange: Exchange) -> Response:
    await understood(exchange)
    raise RuntimeError("a secret")


async def no_file(exchange: Exchange) -> Response:
    await understood(exchange)
    raise OSError("a secret: no such file")


async def test_a_client_that_leaves_while_it_sends_is_499(front: Front) -> None:
    await front.request(front.answering(disconnected))
    assert front.outcomes() == {"cancelled": 1}
    assert front.counted(499, "cancelled") == 1


@pytest.mark.parametrize("at", ["http.response.start", "http.response.body"])
async def test_a_client_that_leaves_during_the_answer_is_499(
    front: Front, logged: Lines, at: str
) -> None:
    async def send(message: Message) -> None:
        if message["type"] == at:
            raise OSError("connection lost")

    await front.request(front.answering(understood), send=send)
    assert front.outcomes() == {"cancelled": 1}
    assert front.counted(499, "cancelled") == 1
    (line,) = logged
    assert (line["status"], line["outcome"]) == (499, "cancelled")


async def test_a_refusal_that_nobody_reads_stays_a_refusal(front: Front) -> None:
    async def route(exchange: Exchange) -> Response:
        await understood(exchange)
        return error_response(QueueFull("no"), exchange)

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            raise OSError("connection lost")

    await front.request(front.answering(route), send=send)
    assert front.outcomes() == {"rejected_queue": 1}


@pytest.mark.parametrize("route", [broken, no_file])
async def test_an_error_that_nobody_expected_is_500_without_its_words(
    front: Front, logged: Lines, route: Route
) -> None:
    await front.request(front.answering(route))
    assert front.outcomes() == {"error": 1}
    assert front.sent[0]["status"] == 500
    assert b"secret" not in front.sent[1]["body"]
    assert [line["event"] for line in logged] == ["unexpected error", "request"]


async def test_an_error_amid_an_answer_is_left_to_the_server(front: Front) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("amid the answer")

    with pytest.raises(RuntimeError, match="amid the answer"):
        await front.request(Observed(app, front.metrics))
    assert front.outcomes() == {"error": 1}
    assert front.counted(500, "error") == 1


async def test_what_fails_after_the_answer_was_still_answered(front: Front) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await (await understood(scope["state"]["exchange"]))(scope, receive, send)
        raise RuntimeError("behind the answer")

    with pytest.raises(RuntimeError, match="behind the answer"):
        await front.request(Observed(app, front.metrics))
    assert sum(front.outcomes().values()) == 1
    assert front.counted(500, "error") == 0


async def test_a_server_that_stops_answers_503_and_counts_an_error(front: Front) -> None:
    entered = asyncio.Event()

    async def route(exchange: Exchange) -> Response:
        await understood(exchange)
        entered.set()
        await asyncio.Event().wait()
        raise AssertionError("it was cancelled")

    task = asyncio.create_task(front.request(front.answering(route)))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert front.outcomes() == {"error": 1}
    assert front.counted(503, "not_ready") == 1
    assert front.sent[0]["status"] == 503
    assert (b"retry-after", b"1") in front.sent[0]["headers"]
    assert "stopped" in orjson.loads(front.sent[1]["body"])["error"]


async def test_a_server_that_stops_amid_an_answer_counts_it_once(front: Front) -> None:
    entered = asyncio.Event()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(front.request(front.answering(understood), send=send))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert front.outcomes() == {"error": 1}


async def test_outcomes_sum_to_requests(front: Front) -> None:
    """Of everything that can happen, in one go."""
    errors = (Infeasible("no"), QueueFull("no"), Expired("no"), ClientGone("no"), BadRequest("no"))

    def failing(error: Exception) -> Route:
        async def route(exchange: Exchange) -> Response:
            await understood(exchange)
            return error_response(error, exchange)

        return route

    async def late(exchange: Exchange) -> Response:
        front.now_s += 1.0
        return await understood(exchange)

    routes = [understood, late, disconnected, broken, *map(failing, errors)]
    for route in routes:
        await front.request(front.answering(route))
    assert sum(front.outcomes().values()) == len(routes)
    assert set(front.outcomes()) == set(OUTCOMES)
    gold = sum(
        front.value(
            "laud_inference_requests_total", model="colours", slo_class="gold", outcome=outcome
        )
        or 0.0
        for outcome in OUTCOMES
    )
    assert gold == len(routes)
