"""Families of Prometheus metrics whose series are looked up once.

The library checks, converts and locks at every look-up, and a request observes some twenty series.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

from prometheus_client import Metric
from prometheus_client.metrics import MetricWrapperBase

M = TypeVar("M", bound=MetricWrapperBase)


class Family(Generic[M]):
    """Metrics of one name, one per combination of label values.

    As many as the library keeps anyway: labels come from closed sets.
    """

    def __init__(self, parent: M) -> None:
        self._parent = parent
        self._series: dict[tuple[str | int, ...], M] = {}

    def labels(self, *values: str | int) -> M:
        """The series with these label values; it exists from now on."""
        found = self._series.get(values)
        if found is None:
            found = self._series[values] = self._parent.labels(*values)
        return found

    def collect(self) -> Iterable[Metric]:
        """As the library's metrics have it."""
        return self._parent.collect()
