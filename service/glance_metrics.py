"""How often images are looked at again at points that glance, beside how often that is expected.

Where the two part, pictures are harder or easier than those that the bundle was measured on, and
its calls dearer or cheaper.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from service.families import Family
from service.model import Model
from service.request import Reply


class GlanceMetrics:
    """Series of the points that glance; others have none."""

    def __init__(self, registry: CollectorRegistry, prefix: str) -> None:
        self.glances = Family(
            Counter(
                "glances",
                "Images answered at a point that glances, by whether they were looked at again.",
                ("model", "point", "again"),
                namespace=prefix,
                registry=registry,
            )
        )
        self.expected = Family(
            Gauge(
                "glance_again_expected_ratio",
                "Share of images looked at again on the pictures that the bundle was measured on.",
                ("model", "point"),
                namespace=prefix,
                registry=registry,
            )
        )

    def expect(self, model: Model) -> None:
        """Have the series that will occur, at 0."""
        for record in model.manifest.points:
            if record.again is not None:
                name = record.point.name
                self.expected.labels(model.name, name).set(record.again)
                for again in ("true", "false"):
                    self.glances.labels(model.name, name, again)

    def observe(self, model: str, reply: Reply) -> None:
        """Count an image that was answered."""
        if reply.looked_again is not None:
            again = "true" if reply.looked_again else "false"
            self.glances.labels(model, reply.point.name, again).inc()
