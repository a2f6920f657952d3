"""Whose late answers make decisions careful: who was planned to be in time, and free to choose."""

from __future__ import annotations

from typing import Any

import pytest

from service.policy.caution import STEP
from service.request import Exchange
from tests.service.manual import Manual, ManualService
from tests.service.scripted import manifest


@pytest.fixture
def laud(manual: Manual) -> ManualService:
    return manual()


def answered(
    laud: ManualService,
    slo_s: float,
    duration_s: float,
    *,
    pinned: str | None = None,
    min_accuracy: float | None = None,
) -> None:
    exchange = Exchange("test", laud.time(), model="colours", status=200)
    laud.ask(slo_s, pinned=pinned, min_accuracy=min_accuracy, exchange=exchange)
    laud.finish()
    assert exchange.engine_end_s is not None
    laud.service.observe_inference(exchange, duration_s)


def caution(laud: ManualService) -> float:
    found = laud.service.metrics.registry.get_sample_value(
        "laud_decision_caution_ratio", {"model": "colours"}
    )
    assert found == laud.service.costs["colours"].caution
    return found


def test_a_late_answer_that_was_planned_to_be_in_time_does(laud: ManualService) -> None:
    before = laud.service.costs["colours"].careful_margin
    answered(laud, 0.060, 0.061)
    assert caution(laud) == pytest.approx(1.0 + STEP, rel=0.01)
    assert laud.service.costs["colours"].careful_margin == pytest.approx(before * caution(laud))


def test_answers_in_time_undo_it(laud: ManualService) -> None:
    answered(laud, 0.060, 0.061)
    first = caution(laud)
    answered(laud, 0.060, 0.050)
    assert 1.0 < caution(laud) < first


@pytest.mark.parametrize(
    ("slo_s", "duration_s", "asked"),
    [
        pytest.param(0.001, 0.050, {}, id="it was known that it would be late"),
        pytest.param(0.060, 0.061, {"pinned": "full"}, id="its point was not free"),
        pytest.param(0.060, 0.061, {"min_accuracy": 0.85}, id="no other is that accurate"),
        pytest.param(0.060, 9.0, {}, id="its client did not read"),
    ],
)
def test_others_do_not(
    laud: ManualService, slo_s: float, duration_s: float, asked: dict[str, Any]
) -> None:
    answered(laud, slo_s, duration_s, **asked)
    assert caution(laud) == 1.0


def test_a_dial_of_one_point_has_no_faster_ones(manual: Manual) -> None:
    of = manifest()
    laud = manual(served=of.model_copy(update={"points": of.points[:1]}))
    answered(laud, 0.060, 0.061)
    assert caution(laud) == 1.0


def test_decisions_then_choose_faster_points(laud: ManualService) -> None:
    def chosen() -> str:
        exchange = Exchange("test", laud.time(), model="colours", status=200)
        laud.ask(0.040, exchange=exchange)
        laud.finish()
        return exchange.points[0]

    best = chosen()
    for _ in range(12):
        answered(laud, 0.060, 0.061)
    assert laud.service.costs["colours"].index(chosen()) < laud.service.costs["colours"].index(best)
