"""What is made of a run: every term counts all that was sent."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from service.load.records import Ledger, Records
from service.load.report import LoadReport, LoadReports, most, quantiles, report_of
from service.load.watching import Sample, Watched, bucket_counts, metric_values, quantile_between

DESCRIBED = {"url": "http://x", "route": "/v1/classify", "pictures": "two", "load": "4/s"}


def ran(*requests: dict[str, Any]) -> Records:
    """By default sent when due, answered after 30 ms of 40."""
    ledger = Ledger()
    usual = {"status": 200, "slo_s": 0.04, "point": "full", "accuracy": 0.9, "outcome": "met"}
    for number, request in enumerate(requests):
        at_s = float(number)
        ledger.add(**{"at_s": at_s, "sent_s": at_s, "done_s": at_s + 0.03, **usual, **request})
    return ledger.records()


def report(*requests: dict[str, Any], **options: Any) -> LoadReport:
    return report_of(
        ran(*requests), duration_s=float(len(requests)), described=DESCRIBED, **options
    )


REFUSED = {"status": 429, "point": None, "accuracy": None, "outcome": None}
SILENT = {**REFUSED, "status": 0, "sent_s": math.nan, "done_s": math.nan}


def test_attainment_counts_refused_late_and_unanswered_as_misses() -> None:
    found = report({}, {"done_s": 1.05, "outcome": "late"}, REFUSED, SILENT)
    assert (found.sent, found.answered, found.met, found.late) == (4, 2, 1, 1)
    assert (found.refused, found.unanswered) == ({"429": 1}, 1)
    assert found.server_said == {"met": 1, "late": 1}
    assert (found.attainment, found.goodput_hz) == (0.25, 0.25)


def test_time_counts_from_when_a_request_was_due_not_from_when_it_left() -> None:
    """Coordinated omission: a client that was held up does not make the server look good."""
    found = report({"sent_s": 0.5, "done_s": 0.53})
    assert found.met == 0
    assert found.latency_ms is not None
    assert found.latency_ms.p50 == pytest.approx(530)
    assert found.over_deadline is not None
    assert found.over_deadline.p50 == pytest.approx(13.25)


def test_accuracy_of_answers_in_time_and_over_all_sent() -> None:
    late = {"done_s": 99.0, "accuracy": 0.5}
    found = report({}, {"accuracy": 0.8, "point": "small"}, late, REFUSED)
    assert found.mean_accuracy == pytest.approx(0.85)
    assert found.effective_accuracy == pytest.approx(1.7 / 4)
    assert found.points == {"full": pytest.approx(2 / 3), "small": pytest.approx(1 / 3)}


def test_accuracy_that_was_not_measured_is_not_made_up() -> None:
    found = report({}, {"accuracy": None})
    assert (found.mean_accuracy, found.effective_accuracy) == (None, None)


def test_without_a_known_budget_the_server_s_word_counts() -> None:
    found = report({"slo_s": None}, {"slo_s": None, "outcome": "late"}, {"slo_s": None, **REFUSED})
    assert found.met == 1
    assert found.over_deadline is None


def test_nothing_answered_is_reported_too() -> None:
    found = report(REFUSED, SILENT)
    assert (found.attainment, found.latency_ms, found.mean_accuracy) == (0.0, None, None)
    assert found.effective_accuracy == 0.0
    assert found.latency_percentiles_ms == ()


def test_a_client_that_was_late_says_so() -> None:
    assert not report(*([{}] * 200)).client_was_late
    held_up = [{"sent_s": k + 0.0011} for k in range(200)]
    assert report(*held_up).client_was_late


def test_time_is_cut_into_stretches() -> None:
    found = report({}, {"point": "small"}, REFUSED)
    assert [(one.at_s, one.sent, one.met) for one in found.bins] == [
        (0, 1, 1),
        (1, 1, 1),
        (2, 1, 0),
    ]
    assert [one.points for one in found.bins] == [{"full": 1}, {"small": 1}, {}]
    assert found.bins[2].mean_accuracy is None
    day = report_of(ran({}), duration_s=86_400.0, described=DESCRIBED)
    assert len(day.bins) <= 120


def test_reports_survive_json() -> None:
    reports = LoadReports(runs=(report({}, SILENT), report(REFUSED)))
    assert LoadReports.model_validate_json(reports.model_dump_json()) == reports
    assert most(reports, lambda one: one.attainment) == 0.5


def test_quantiles_of_nothing_are_none() -> None:
    assert quantiles(np.zeros(0)) is None


def watched(*megabytes: float, cpu_s: float = 0.0) -> Watched:
    """One look a minute."""
    return Watched([Sample(60.0 * k, cpu_s * k, mb * 1e6) for k, mb in enumerate(megabytes)])


def test_memory_that_grows_is_told_in_megabytes_a_minute() -> None:
    found = report({}, watched=watched(100, 102, 104, 106, 108, 110))
    assert found.server is not None
    assert found.server.mb_per_minute == pytest.approx(2.0)


def test_what_is_touched_first_is_no_leak() -> None:
    found = report({}, watched=watched(100, 180, 200, 200, 200, 200, 200))
    assert found.server is not None
    assert found.server.mb_per_minute == pytest.approx(0.0)


def test_a_short_run_has_no_slope_and_no_metrics_no_use() -> None:
    short = report({}, {}, watched=watched(100, 200, cpu_s=0.5))
    assert short.server is not None
    assert short.server.mb_per_minute is None
    assert short.server.cpu_ms_per_request == pytest.approx(250)
    assert report({}, watched=Watched()).server is None


PAGE = """\
# TYPE process_cpu_seconds_total counter
process_cpu_seconds_total 12.5
# TYPE laud_lag_seconds histogram
laud_lag_seconds_bucket{le="0.001",model="a"} 50.0
laud_lag_seconds_bucket{le="0.002",model="a"} 90.0
laud_lag_seconds_bucket{le="+Inf",model="a"} 100.0
laud_lag_seconds_bucket{le="0.001",model="b"} 0.0
laud_lag_seconds_bucket{le="0.002",model="b"} 0.0
laud_lag_seconds_bucket{le="+Inf",model="b"} 100.0
laud_lag_seconds_sum{model="a"} 1.0
"""


def test_metrics_are_read_from_their_page() -> None:
    assert metric_values(PAGE, ["process_cpu_seconds_total", "other"]) == {
        "process_cpu_seconds_total": 12.5
    }
    assert bucket_counts(PAGE, "laud_lag_seconds") == {0.001: 50.0, 0.002: 90.0, math.inf: 200.0}
    assert bucket_counts(PAGE, "laud_other_seconds") == {}


def test_quantiles_are_of_what_was_counted_between_two_looks() -> None:
    before = {1.0: 10.0, 2.0: 10.0, math.inf: 10.0}
    after = {1.0: 10.0, 2.0: 110.0, math.inf: 110.0}
    assert quantile_between(before, after, 0.5) == pytest.approx(1.5)
    assert quantile_between({}, after, 0.05) == pytest.approx(0.55)
    assert quantile_between(after, after, 0.5) is None
    assert quantile_between({}, {1.0: 0.0, math.inf: 4.0}, 0.99) == 1.0
