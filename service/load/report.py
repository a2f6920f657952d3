"""What a run under load found. Rates are per second, `_ms` milliseconds, shares 0 to 1.

The terms are those of the literature (SuperServe, NSDI'25; Model-Switching, HotCloud'20), and every
one counts all requests that were sent, so that refusing flatters nobody.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from engines.core import FrozenModel
from service.load.records import OK, UNANSWERED, Floats, Records
from service.load.watching import Watched

MOST_LAG_MS = 1.0
"""A client whose p99 is later than this does not offer what it was told to."""

_MOST_BINS = 120


class Quantiles(FrozenModel):
    """Of one quantity."""

    p50: float
    p95: float
    p99: float
    max: float


class ServerUse(FrozenModel):
    """What the server's own metrics said. cpu_ms_per_request: CPU time over answered requests.

    cores: CPU seconds per second. mb_per_minute: slope of resident memory (10^6 bytes) over the
    last two thirds of the run; None where that was too short to tell.
    """

    cpu_ms_per_request: float | None
    cores: float
    rss_mb: float
    mb_per_minute: float | None


class Bin(FrozenModel):
    """What became of the requests that were due in one stretch of time, from `at_s` on.

    points: answers per operating point. mean_accuracy: of its answers in time.
    """

    at_s: float
    sent: int
    met: int
    points: dict[str, int]
    mean_accuracy: float | None


class LoadReport(FrozenModel):
    """The answer of `laud load`, per rate.

    attainment: answered in time over all sent; goodput_hz: those per second. mean_accuracy:
    expected accuracy of the points used, over requests in time; effective_accuracy: the same sum
    over all sent. met, late: by this client's clock, from the scheduled time; server_said: by the
    server's. refused: requests per status that is not 200. latency_ms, over_deadline (latency over
    budget): of answers; latency_percentiles_ms: from 0 to 100 %. points: share of answers.
    send_lag_ms: how long after it was due a request was sent; client_was_late: p99 of that above
    MOST_LAG_MS, the client and not the server spoiled the measurement.
    """

    url: str
    route: str
    pictures: str
    load: str
    offered_hz: float
    duration_s: float
    sent: int
    answered: int
    met: int
    late: int
    server_said: dict[str, int]
    refused: dict[str, int]
    unanswered: int
    attainment: float
    goodput_hz: float
    mean_accuracy: float | None
    effective_accuracy: float | None
    latency_ms: Quantiles | None
    latency_percentiles_ms: tuple[float, ...]
    over_deadline: Quantiles | None
    points: dict[str, float]
    send_lag_ms: Quantiles
    client_was_late: bool
    server: ServerUse | None
    bin_s: float
    bins: tuple[Bin, ...]


class LoadReports(FrozenModel):
    """One run per rate of a sweep."""

    runs: tuple[LoadReport, ...]


def report_of(
    records: Records,
    *,
    duration_s: float,
    described: Mapping[str, str] | None = None,
    watched: Watched | None = None,
    bin_s: float | None = None,
) -> LoadReport:
    """The report of a run of `duration_s`; described: its url, route, pictures and load.

    bin_s: of one stretch [a second, or longer where there would be too many].
    """
    said = described or {}
    answered, met = records.answered, records.met
    num_sent = len(records.at_s)
    latency_s = records.latency_s[answered]
    lag_ms = _lag_ms(records)
    over = latency_s / records.slo_s[answered]
    bin_s = bin_s or max(1.0, math.ceil(duration_s / _MOST_BINS))
    return LoadReport(
        url=said.get("url", ""),
        route=said.get("route", ""),
        pictures=said.get("pictures", ""),
        load=said.get("load", ""),
        offered_hz=num_sent / duration_s,
        duration_s=duration_s,
        sent=num_sent,
        answered=int(answered.sum()),
        met=int(met.sum()),
        late=int((answered & ~met).sum()),
        server_said=_counts(records.outcome, records.outcomes),
        refused={
            str(status): int((records.status == status).sum())
            for status in np.unique(records.status).tolist()
            if status not in (OK, UNANSWERED)
        },
        unanswered=int((records.status == UNANSWERED).sum()),
        attainment=float(met.mean()),
        goodput_hz=float(met.sum()) / duration_s,
        mean_accuracy=_mean(records.accuracy[met]),
        effective_accuracy=_effective(records),
        latency_ms=quantiles(latency_s * 1e3),
        latency_percentiles_ms=_percentiles(latency_s * 1e3),
        over_deadline=quantiles(over[~np.isnan(over)]),
        points={
            name: number / max(int(answered.sum()), 1)
            for name, number in _counts(records.point, records.points).items()
        },
        send_lag_ms=lag_ms,
        client_was_late=lag_ms.p99 > MOST_LAG_MS,
        server=None if watched is None else _use(watched, int(answered.sum())),
        bin_s=bin_s,
        bins=tuple(_bin(records, at_s, bin_s) for at_s in np.arange(0.0, duration_s, bin_s)),
    )


def quantiles(values: Floats) -> Quantiles | None:
    """None of nothing."""
    if not values.size:
        return None
    p50, p95, p99 = np.quantile(values, (0.5, 0.95, 0.99)).tolist()
    return Quantiles(p50=p50, p95=p95, p99=p99, max=float(values.max()))


def _percentiles(values: Floats) -> tuple[float, ...]:
    return tuple(np.quantile(values, np.linspace(0, 1, 101)).tolist()) if values.size else ()


def most(reports: LoadReports, of: Callable[[LoadReport], float | None]) -> float | None:
    """The largest value that any run has."""
    return max((value for value in map(of, reports.runs) if value is not None), default=None)


def _lag_ms(records: Records) -> Quantiles:
    lag_ms = np.maximum(records.sent_s - records.at_s, 0.0) * 1e3
    return quantiles(lag_ms[~np.isnan(lag_ms)]) or Quantiles(p50=0.0, p95=0.0, p99=0.0, max=0.0)


def _effective(records: Records) -> float | None:
    gained = records.accuracy[records.met]
    if gained.size and np.isnan(gained).any():
        return None
    return float(gained.sum()) / len(records.at_s)


def _mean(accuracy: Floats) -> float | None:
    """None where one of them was not measured."""
    return None if not accuracy.size or np.isnan(accuracy).any() else float(accuracy.mean())


def _counts(places: np.ndarray, names: tuple[str, ...]) -> dict[str, int]:
    return {name: int((places == place).sum()) for place, name in enumerate(names)}


def _bin(records: Records, at_s: float, width_s: float) -> Bin:
    inside = (records.at_s >= at_s) & (records.at_s < at_s + width_s)
    met = records.met & inside
    points = _counts(np.where(inside & records.answered, records.point, -1), records.points)
    return Bin(
        at_s=at_s,
        sent=int(inside.sum()),
        met=int(met.sum()),
        points={name: number for name, number in points.items() if number},
        mean_accuracy=_mean(records.accuracy[met]),
    )


def _use(watched: Watched, answered: int) -> ServerUse | None:
    cpu_s = watched.cpu_s
    if cpu_s is None:
        return None
    first, last = watched.samples[0], watched.samples[-1]
    slope = watched.rss_bytes_per_s
    return ServerUse(
        cpu_ms_per_request=cpu_s / answered * 1e3 if answered else None,
        cores=cpu_s / max(last.at_s - first.at_s, 1e-9),
        rss_mb=last.rss_bytes / 1e6,
        mb_per_minute=None if slope is None else slope * 60 / 1e6,
    )
