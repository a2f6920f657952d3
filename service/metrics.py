"""All Prometheus metrics, as attributes of one object with a registry of its own.

Base units: seconds, bytes, ratios of 0 to 1. Label values come from closed sets: names of served
models and their points, route templates, phases, outcomes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder

from service.executor import Model
from service.request import Batch, Exchange, Reply

PREFIX = "laud"
# Fine where an image's time lies, 1 ms to 5 s.
_SECONDS = (
    0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075,
    0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0,
)  # fmt: skip
_RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counts what the service does. Not shared between applications, so tests do not meet."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = self._counter(
            "requests", "HTTP requests by outcome.", "model", "route", "status", "outcome"
        )
        self.request_duration = self._histogram(
            "request_duration_seconds",
            "Time from the first byte of a request to the end of its answer.",
            _SECONDS,
            "model",
            "route",
        )
        self.phase_duration = self._histogram(
            "phase_duration_seconds",
            "Time per image in each phase; engine phases are those of its whole batch.",
            _SECONDS,
            "model",
            "phase",
        )
        self.operating_point = self._counter(
            "operating_point",
            "Images answered at each operating point.",
            "model",
            "point",
            "reason",
        )
        self.activation = self._histogram(
            "activation_ratio",
            "Activation rate of an image, averaged over the maskers of its network.",
            _RATIOS,
            "model",
            "point",
        )
        self.batch_size = self._histogram(
            "batch_size", "Images that ran together.", _BATCH_SIZES, "model"
        )
        self.queue_depth = self._gauge("queue_depth", "Images that wait for the executor.", "model")
        self.in_flight = self._gauge(
            "images_in_flight", "Images admitted and not yet answered, decoding included."
        )
        self.in_flight_bytes = self._gauge(
            "images_in_flight_bytes", "Memory reserved for the images in flight."
        )
        self.ready = self._gauge("ready", "1 while requests are taken, else 0.")
        self.model_info = self._gauge(
            "model_info", "Served models.", "model", "bundle", "engine", "precision"
        )
        self._gauge("build_info", "Version of laudserve.", "version").labels(_version()).set(1)

    def watch(
        self,
        *,
        models: Mapping[str, Model],
        depth: Callable[[str], int],
    ) -> None:
        """Publish the served models and follow their queues; called once all are loaded."""
        for name, model in models.items():
            engine = model.engine
            self.model_info.labels(name, model.hash, engine.name, engine.precision).set(1)
            self.queue_depth.labels(name).set_function(partial(depth, name))

    def observe_batch(self, batch: Batch) -> None:
        """Count a batch at its dispatch."""
        self.batch_size.labels(batch.model).observe(len(batch.requests))

    def observe_reply(self, model: str, reply: Reply) -> None:
        """Count an image that was answered."""
        self.operating_point.labels(model, reply.point.name, reply.reason).inc()
        if reply.activation.size:
            self.activation.labels(model, reply.point.name).observe(reply.activation.mean())
        for phase, seconds in reply.phases_s.items():
            self.phase_duration.labels(model, phase).observe(seconds)

    def observe_exchange(self, exchange: Exchange, route: str, duration_s: float) -> None:
        """Count an HTTP request at its end."""
        self.requests.labels(exchange.model, route, exchange.status, exchange.outcome).inc()
        self.request_duration.labels(exchange.model, route).observe(duration_s)
        if "receive" in exchange.phases_s and exchange.model:
            receive_s = exchange.phases_s["receive"]
            self.phase_duration.labels(exchange.model, "receive").observe(receive_s)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """The page that Prometheus reads, and its content type for that `accept` header."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

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


def _version() -> str:
    try:
        return version("laudserve")
    except PackageNotFoundError:
        return "unknown"
