"""Families of Prometheus metrics whose series are looked up once, and histograms that cost little.

The library checks, converts and locks at every look-up and every observation, and a request makes
some twenty of each. The event loop alone observes, so nothing has to be locked.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import accumulate
from math import inf
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

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


class Series:
    """One histogram: how many observations are in each bucket, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """bounds: upper ones, ascending, the last infinite."""
        self.bounds = bounds
        self.counts = [0] * len(bounds)
        self.total = 0.0

    def observe(self, amount: float) -> None:
        """Count it in the first bucket whose bound it does not exceed."""
        self.counts[bisect_left(self.bounds, amount)] += 1
        self.total += amount


class Histograms(Collector):
    """Histograms of one name, one per combination of label values; as the library shows its own."""

    def __init__(
        self,
        name: str,
        text: str,
        buckets: tuple[float, ...],
        labels: tuple[str, ...],
        registry: CollectorRegistry,
    ) -> None:
        """buckets: upper bounds, ascending. name: with its prefix. Without labels there is one
        series from the beginning."""
        self._name, self._text, self._labels = name, text, labels
        self._bounds = (*buckets, inf)
        self._les = tuple(map(floatToGoString, self._bounds))
        self._series: dict[tuple[str | int, ...], Series] = {}
        if not labels:
            self.labels()
        registry.register(self)

    def labels(self, *values: str | int) -> Series:
        """The series with these label values; it exists from now on."""
        found = self._series.get(values)
        if found is None:
            if len(values) != len(self._labels):
                raise ValueError(f"{self._name} has labels {self._labels}, got {values}")
            found = self._series[values] = Series(self._bounds)
        return found

    def observe(self, amount: float) -> None:
        """Of the one series without labels."""
        self.labels().observe(amount)

    def describe(self) -> Iterable[Metric]:
        """What the registry asks for the names that are taken."""
        return [HistogramMetricFamily(self._name, self._text, labels=self._labels)]

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for values, series in self._series.items():
            counts = accumulate(series.counts)
            family.add_metric(
                [str(value) for value in values],
                list(zip(self._les, counts, strict=True)),
                series.total,
            )
        yield family
