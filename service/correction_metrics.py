"""How far calls are from what was profiled: what corrects predictions, per model.

Read when metrics are scraped; nothing is counted here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry, Gauge

from service.costs import ModelCosts


class CorrectionMetrics:
    """Series of every model whose costs are known."""

    def __init__(self, registry: CollectorRegistry, prefix: str) -> None:
        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, ("model",), namespace=prefix, registry=registry)

        self._gauges: tuple[tuple[Gauge, Callable[[ModelCosts], float]], ...] = (
            (
                gauge(
                    "prediction_drift_ratio",
                    "Seconds that calls take now per second that they took when profiled.",
                ),
                lambda costs: costs.drift,
            ),
            (
                gauge(
                    "prediction_margin_ratio",
                    "Seconds to plan for per second that calls took when profiled.",
                ),
                lambda costs: costs.margin,
            ),
            (
                gauge(
                    "decision_caution_ratio",
                    "How much more than that decisions plan for, since answers planned to be in "
                    "time were late.",
                ),
                lambda costs: costs.caution,
            ),
            (
                gauge(
                    "prediction_overhead_seconds",
                    "What each call takes beside its work since it was profiled; the other ratios "
                    "are of both.",
                ),
                lambda costs: costs.overhead_s,
            ),
            (
                gauge(
                    "prediction_hardness_log_odds",
                    "By how much pictures shift the log odds of being looked at again, against "
                    "those that the bundle was measured on; 0 is as measured.",
                ),
                lambda costs: costs.hardness,
            ),
            (
                gauge(
                    "prediction_table_flagged",
                    "1 while calls have drifted so far that the profile should be taken anew.",
                ),
                lambda costs: float(costs.summary().remeasure is not None),
            ),
        )

    def watch(self, model: str, costs: ModelCosts) -> None:
        """Tell of these costs from now on."""
        for gauge, read in self._gauges:
            gauge.labels(model).set_function(partial(read, costs))
