"""Families: the library's series, looked up once, and histograms that read as the library's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.exposition import choose_encoder

from service.families import Family, Histograms


def test_series_are_those_of_the_library() -> None:
    registry = CollectorRegistry()
    family = Family(Counter("asked", "Questions.", ("model", "status"), registry=registry))
    family.labels("one", 200).inc()
    family.labels("one", 200).inc()
    family.labels("two", 200)
    found = {"model": "one", "status": "200"}
    assert registry.get_sample_value("asked_total", found) == 2
    assert registry.get_sample_value("asked_total", found | {"model": "two"}) == 0
    assert registry.get_sample_value("asked_total", found | {"model": "three"}) is None
    assert family.labels("one", 200) is family.labels("one", 200)
    (collected,) = family.collect()
    assert collected.name == "asked"


BUCKETS = (0.5, 1.0, 2.5)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([-1, 0, 0.5, 0.75, 1, 2.5, 9]))))
def test_a_page_of_histograms_is_what_the_library_writes(seen: list[tuple[str, float]]) -> None:
    mine, theirs = CollectorRegistry(), CollectorRegistry()
    ours = Histograms("laud_took", "How long.", BUCKETS, ("model", "status"), mine)
    known = Histogram(
        "laud_took", "How long.", ("model", "status"), registry=theirs, buckets=BUCKETS
    )
    for model, amount in [*seen, ("a", 1e-9)]:
        ours.labels(model, 200).observe(amount)
        known.labels(model, 200).observe(amount)
    assert generate_latest(mine) == generate_latest(theirs)
    as_open_metrics, _ = choose_encoder("application/openmetrics-text; version=1.0.0")
    assert as_open_metrics(mine) == as_open_metrics(theirs)


def test_a_histogram_without_labels_is_there_from_the_beginning() -> None:
    registry = CollectorRegistry()
    series = Histograms("laud_took", "How long.", BUCKETS, (), registry).labels()
    assert registry.get_sample_value("laud_took_count") == 0
    series.observe(0.75)
    assert registry.get_sample_value("laud_took_sum") == 0.75
    assert registry.get_sample_value("laud_took_bucket", {"le": "0.5"}) == 0
    assert registry.get_sample_value("laud_took_bucket", {"le": "1.0"}) == 1


def test_names_and_labels_are_checked() -> None:
    registry = CollectorRegistry()
    family = Histograms("laud_took", "How long.", BUCKETS, ("model",), registry)
    with pytest.raises(ValueError, match="labels"):
        family.labels("one", "two")
    with pytest.raises(ValueError, match="Duplicated"):
        Counter("laud_took_count", "Another.", registry=registry)
