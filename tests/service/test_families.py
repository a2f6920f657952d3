"""Families: the library's series, looked up once."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter

from service.families import Family


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
