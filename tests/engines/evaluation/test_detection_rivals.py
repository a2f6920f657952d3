"""A point that skips stands beside the best smaller image that takes no longer, and beside one mask
for all pictures."""

from __future__ import annotations

import pytest

from tests.engines.evaluation.detection_reports import detection_report


@pytest.mark.parametrize(
    ("milliseconds", "rival", "difference"),
    [(20.0, "size-320", 0.05), (14.8, "size-320", 0.05), (39.5, "full", -0.05), (13.0, None, None)],
)
def test_the_rival_is_the_best_that_is_as_fast(
    milliseconds: float, rival: str | None, difference: float | None
) -> None:
    (found,) = detection_report(skips=milliseconds).rivals()
    assert (found.point, found.against, found.rival) == ("skip-512-50", "smaller image", rival)
    if difference is None:
        assert found.ap50 is None
    else:
        assert found.ap50 is not None
        assert found.ap50.value == pytest.approx(difference)
        assert found.ap50.low < found.ap50.value < found.ap50.high


def test_what_skips_nothing_has_no_rival() -> None:
    report = detection_report()
    assert report.rivals() == []
    assert report.flat()["rivals"] == []


@pytest.mark.parametrize("milliseconds", [20.0, 39.5])
def test_its_fixed_mask_is_a_rival_however_fast(milliseconds: float) -> None:
    report = detection_report(skips=20.0, fixed=milliseconds)
    size, fixed = report.rivals()
    assert (size.against, size.rival) == ("smaller image", "size-320")
    assert (fixed.against, fixed.rival) == ("fixed mask", "skip-512-50 (fixed mask)")
    assert fixed.ap50 is not None
    assert fixed.ap50.value == pytest.approx(0.03)
    rows = {row["name"]: row for row in report.flat()["points"]}
    assert rows["skip-512-50 (fixed mask)"]["latency_p50_ms"] == milliseconds
    kinds = [(row["kind"], row["of"]) for row in rows.values()]
    assert kinds == [
        ("full", None), ("dial", None), ("fixed", "skip-512-50"), ("size", None),
    ]  # fmt: skip
    assert report.flat()["fixed_from"] == "the evaluated pictures"


def test_machines_are_told_too() -> None:
    (row,) = detection_report(skips=20.0).flat()["rivals"]
    assert row["rival"] == "size-320"
    assert row["ap50_low"] < row["ap50_minus"] < row["ap50_high"]
