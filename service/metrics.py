"""All Prometheus metrics, as attributes of one object with a registry of its own.

Base units: seconds, bytes, ratios. Label values come from closed sets: names of served models and
their points, route templates, phases, outcomes, SLO classes. Predicted and measured stand side by
side in two pairs with equal labels and buckets: service time (dispatch to engine done), and
completion (first byte in to last byte out).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    Summary,
    disable_created_metrics,
)

from service.correction_metrics import CorrectionMetrics
from service.costs import ModelCosts
from service.exposition import exposition
from service.families import Family
from service.glance_metrics import GlanceMetrics
from service.model import Model
from service.objectives import CUSTOM_CLASS, DEFAULT_CLASS, SloClass
from service.policy.core import MEDIAN, PLANNED
from service.request import Batch, Exchange, Reply

PREFIX = "laud"
NO_CLASS = "none"
"""The SLO class of requests that ended before their objective was understood."""

OUTCOMES = (
    "met",
    "late",
    "rejected_infeasible",
    "rejected_queue",
    "expired",
    "cancelled",
    "error",
)
"""How an inference request ends; the last is for all that is not another. They sum to requests."""

REASONS = ("best", "deadline", "load", "pinned", "late")
PHASES = ("receive", "decode", "queue", "prepare", "network")

# A sixth of the page, for series whose age nobody asks for.
disable_created_metrics()  # type: ignore[no-untyped-call]

# Fine where an image's time lies, 1 ms to 5 s.
_SECONDS = (
    0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075,
    0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0,
)  # fmt: skip
_SHORT_SECONDS = (
    0.00001, 0.00002, 0.00005, 0.0001, 0.0002, 0.0005,
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 1.0,
)  # fmt: skip
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_OF_DEADLINE = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0)
_OF_PREDICTED = (0.5, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.5, 2.0, 3.0)
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counts what the service does. Not shared between applications, so tests do not meet.

    The event loop alone observes.
    """

    def __init__(self, classes: Mapping[str, SloClass] | None = None) -> None:
        """classes: the configured objectives; their limits become buckets, their names labels."""
        configured = classes or {}
        self._classes = tuple(dict.fromkeys((*configured, DEFAULT_CLASS, CUSTOM_CLASS, NO_CLASS)))
        limits = {each.slo_ms / 1e3 for each in configured.values()}
        completion = tuple(sorted({*_SECONDS, *limits}))
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)

        self.requests = self._counters(
            "requests", "HTTP requests by outcome.", "model", "route", "status", "outcome"
        )
        self.request_duration = self._histograms(
            "request_duration_seconds",
            "Time from the first byte of a request to the end of its answer.",
            _SECONDS,
            "model",
            "route",
        )
        self.inference_requests = self._counters(
            "inference_requests",
            "Inference requests; each has exactly one outcome.",
            "model",
            "slo_class",
            "outcome",
        )
        self.completion = self._histograms(
            "completion_seconds",
            "First byte in to last byte out of answered inference requests.",
            completion,
            "model",
            "slo_class",
        )
        self.completion_predicted = self._histograms(
            "completion_predicted_seconds",
            "The same as the median was predicted when the point was chosen.",
            completion,
            "model",
            "slo_class",
        )
        self.deadline_utilization = self._histograms(
            "deadline_utilization_ratio",
            "Completion over what the objective allowed, of answered inference requests.",
            _OF_DEADLINE,
            "model",
            "slo_class",
        )
        self.service = self._histograms(
            "service_seconds",
            "Dispatch to engine done; a call counts once for every point in it.",
            _SECONDS,
            "model",
            "point",
        )
        self.service_predicted = self._histograms(
            "service_predicted_seconds",
            "The same as the median was predicted when the point was chosen.",
            _SECONDS,
            "model",
            "point",
        )
        self.prediction_ratio = self._histograms(
            "prediction_ratio",
            "Measured over predicted median of service time.",
            _OF_PREDICTED,
            "model",
            "point",
        )
        self.predictions = self._counters(
            "predictions",
            "Predicted quantiles of service time that were compared with what was measured.",
            "model",
            "point",
            "level",
        )
        self.predictions_exceeded = self._counters(
            "predictions_exceeded",
            "Those that the measured time exceeded; one less their share is the coverage.",
            "model",
            "point",
            "level",
        )
        self.phase_duration = self._histograms(
            "phase_duration_seconds",
            "Time per image in each phase; engine phases are those of its whole batch.",
            _SECONDS,
            "model",
            "phase",
        )
        self.operating_point = self._counters(
            "operating_point",
            "Images answered at each operating point.",
            "model",
            "point",
            "reason",
        )
        self.expected_accuracy = Family(
            Summary(
                "expected_accuracy_ratio",
                "Measured accuracy of the points that images were answered at.",
                ("model",),
                namespace=PREFIX,
                registry=self.registry,
            )
        )
        self.activation = self._histograms(
            "activation_ratio",
            "Activation rate of an image at its point's size, averaged over its maskers.",
            _SHARES,
            "model",
            "point",
        )
        self.glances = GlanceMetrics(self.registry, PREFIX)
        self.corrections = CorrectionMetrics(self.registry, PREFIX)
        self.batch_size = self._histograms(
            "batch_size", "Images that ran together.", _BATCH_SIZES, "model"
        )
        self.engine_busy = self._counters(
            "engine_busy_seconds", "Time that the engine ran; its rate is how busy it is.", "model"
        )
        self.scheduler_decision = self._histogram(
            "scheduler_decision_seconds", "Time that the policy took to decide.", _SHORT_SECONDS
        )
        self.scheduler_failures = self._counter(
            "scheduler_failures", "Decisions that the policy failed to take."
        )
        self.event_loop_lag = self._histogram(
            "event_loop_lag_seconds",
            "How late the event loop ran a timer, taken many times a second.",
            _SHORT_SECONDS,
        )
        self.beside_engine = self._gauge(
            "image_beside_engine_seconds",
            "CPU time of an image beside the engine, over the cores, and what it waits for them "
            "where images queue up: with the fastest point's seconds it bounds the rate.",
        )
        self.queue_depth = self._gauges(
            "queue_depth", "Images that wait for the executor.", "model"
        )
        self.queue_predicted = self._gauge(
            "queue_predicted_seconds", "Time to plan for all images that wait, at their fastest."
        )
        self.in_flight = self._gauge(
            "images_in_flight", "Images admitted and not yet answered, decoding included."
        )
        self.in_flight_bytes = self._gauge(
            "images_in_flight_bytes", "Memory reserved for the images in flight."
        )
        self.ready = self._gauge("ready", "1 while requests are taken, else 0.")
        self.warm_up = self._gauges(
            "warm_up_seconds", "Time from loading a model to its last warm-up call.", "model"
        )
        self.model_info = self._gauges(
            "model_info", "Served models.", "model", "bundle", "engine", "precision"
        )
        self._gauges("build_info", "Version of laudserve.", "version").labels(_version()).set(1)
        self._expect_outcomes("")

    def watch(
        self,
        *,
        models: Mapping[str, Model],
        depth: Callable[[str], int],
        costs: Mapping[str, ModelCosts] | None = None,
        backlog_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """Publish the served models and follow their queues and costs; called once all are loaded.

        Series of every combination that will occur are there from now on, at 0: a rate over the
        first scrapes counts the first event too.
        """
        self.queue_predicted.set_function(backlog_s)
        for name, model in models.items():
            engine = model.engine
            self.model_info.labels(name, model.hash, engine.name, engine.precision).set(1)
            self.queue_depth.labels(name).set_function(partial(depth, name))
            self._expect_outcomes(name)
            self.glances.expect(model)
            for slo_class in self._classes:
                self.completion.labels(name, slo_class)
                self.completion_predicted.labels(name, slo_class)
                self.deadline_utilization.labels(name, slo_class)
            for point in model.point_names:
                self._expect_point(name, point)
            for phase in PHASES:
                self.phase_duration.labels(name, phase)
            for family in (self.expected_accuracy, self.batch_size, self.engine_busy):
                family.labels(name)
        for name, known in (costs or {}).items():
            self.corrections.watch(name, known)

    def observe_batch(self, batch: Batch) -> None:
        """Count a batch at its dispatch."""
        self.batch_size.labels(batch.model).observe(len(batch.requests))

    def observe_service(self, batch: Batch, p50_s: float, p95_s: float, service_s: float) -> None:
        """Compare what the call of a batch took with what had been predicted; seconds."""
        model = batch.model
        self.engine_busy.labels(model).inc(service_s)
        for point in dict.fromkeys(each.name for each in batch.points):
            self.service.labels(model, point).observe(service_s)
            self.service_predicted.labels(model, point).observe(p50_s)
            self.prediction_ratio.labels(model, point).observe(service_s / p50_s)
            for level, predicted_s in ((_MEDIAN, p50_s), (_PLANNED, p95_s)):
                self.predictions.labels(model, point, level).inc()
                if service_s > predicted_s:
                    self.predictions_exceeded.labels(model, point, level).inc()

    def observe_reply(self, model: str, reply: Reply) -> None:
        """Count an image that was answered."""
        point = reply.point.name
        self.operating_point.labels(model, point, reply.reason).inc()
        if reply.accuracy is not None:
            self.expected_accuracy.labels(model).observe(reply.accuracy)
        self.glances.observe(model, reply)
        if reply.mean_activation is not None and reply.looked_again is not False:
            self.activation.labels(model, point).observe(reply.mean_activation)
        for phase, seconds in reply.phases_s.items():
            self.phase_duration.labels(model, phase).observe(seconds)

    def observe_exchange(self, exchange: Exchange, route: str, duration_s: float) -> None:
        """Count an HTTP request at its end."""
        self.requests.labels(exchange.model, route, exchange.status, exchange.outcome).inc()
        self.request_duration.labels(exchange.model, route).observe(duration_s)
        if "receive" in exchange.phases_s and exchange.model:
            receive_s = exchange.phases_s["receive"]
            self.phase_duration.labels(exchange.model, "receive").observe(receive_s)

    def observe_completion(self, exchange: Exchange, completion_s: float) -> None:
        """Count an inference request at its end: by its outcome, and where it was answered, how
        long that took, against what was predicted and what was asked."""
        model, objective = exchange.model, exchange.objective
        slo_class = NO_CLASS if objective is None else objective.slo_class
        outcome = exchange.outcome if exchange.outcome in OUTCOMES else OUTCOMES[-1]
        self.inference_requests.labels(model, slo_class, outcome).inc()
        if outcome not in ("met", "late"):
            return
        self.completion.labels(model, slo_class).observe(completion_s)
        if exchange.predicted is not None:
            predicted_s = exchange.predicted.completion_p50_s
            self.completion_predicted.labels(model, slo_class).observe(predicted_s)
        if objective is not None:
            used = completion_s / objective.slo_s
            self.deadline_utilization.labels(model, slo_class).observe(used)

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        """The page that Prometheus reads, and its content type for that `accept` header."""
        return await exposition(self.registry, accept)

    def _expect_outcomes(self, model: str) -> None:
        classes: Collection[str] = self._classes if model else (NO_CLASS,)
        for slo_class in classes:
            for outcome in OUTCOMES:
                self.inference_requests.labels(model, slo_class, outcome)

    def _expect_point(self, model: str, point: str) -> None:
        for family in (
            self.service,
            self.service_predicted,
            self.prediction_ratio,
            self.activation,
        ):
            family.labels(model, point)
        for reason in REASONS:
            self.operating_point.labels(model, point, reason)
        for level in (_MEDIAN, _PLANNED):
            self.predictions.labels(model, point, level)
            self.predictions_exceeded.labels(model, point, level)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, namespace=PREFIX, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, namespace=PREFIX, registry=self.registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(
            name, text, labels, namespace=PREFIX, registry=self.registry, buckets=buckets
        )

    def _counters(self, name: str, text: str, *labels: str) -> Family[Counter]:
        return Family(self._counter(name, text, *labels))

    def _gauges(self, name: str, text: str, *labels: str) -> Family[Gauge]:
        return Family(self._gauge(name, text, *labels))

    def _histograms(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Family[Histogram]:
        return Family(self._histogram(name, text, buckets, *labels))


_MEDIAN, _PLANNED = f"{MEDIAN:g}", f"{PLANNED:g}"


def _version() -> str:
    try:
        return version("laudserve")
    except PackageNotFoundError:
        return "unknown"
