"""Points that glance, served: warmed up, told apart, planned at the worst, learnt as they come,
and told to clients and operators."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from service.contract import answer_terms, terms_of
from service.errors import Infeasible
from service.model import Model
from service.profile import Profile
from service.request import Exchange
from service.schemas.v1 import classification, served_model
from tests.service.manual import MARGIN, Manual, ManualService, reply
from tests.service.scripted import SECONDS, glancing, profile

FIRST_S, SECOND_S, AGAIN = SECONDS["small"], SECONDS["skip"], 0.25
EXPECTED_S = FIRST_S + AGAIN * SECOND_S


def profiler(model: Model, max_batch: int, tables: object) -> Mapping[str, tuple[float, ...]]:
    seconds = dict(profile(model, max_batch))
    seconds["skip"] = tuple(EXPECTED_S * n for n in range(1, max_batch + 1))
    return Profile(seconds, worst={"skip": (FIRST_S + SECOND_S) / EXPECTED_S})


@pytest.fixture
def laud(manual: Manual) -> ManualService:
    return manual(served=glancing(AGAIN), profiler=profiler)


def test_both_looks_are_warmed_up(laud: ManualService) -> None:
    assert [point.glance and point.glance.confidence for point in laud.engine.points] == [1.0]


@pytest.mark.parametrize("again", [True, False])
def test_a_reply_says_whether_its_image_was_looked_at_again(
    laud: ManualService, again: bool
) -> None:
    laud.engine.looks_again = again
    glanced, full = laud.ask(pinned="skip"), laud.ask(pinned="full")
    laud.finish()
    assert reply(glanced).looked_again is again
    assert reply(glanced).service_s == pytest.approx(FIRST_S + SECOND_S * again)
    assert reply(full).looked_again is None


def test_its_prediction_is_what_most_images_take_and_its_bound_what_one_may(
    laud: ManualService,
) -> None:
    glanced = laud.ask(pinned="skip")
    laud.finish()
    predicted = reply(glanced).predicted
    assert predicted.service_p50_s == pytest.approx(FIRST_S, rel=0.01)
    assert predicted.service_p95_s >= FIRST_S + SECOND_S


def test_who_has_no_time_for_a_second_look_is_refused_at_once(laud: ManualService) -> None:
    worst_s = (FIRST_S + SECOND_S) * MARGIN
    hasty = laud.ask(worst_s * 0.95, pinned="skip", on_infeasible="reject")
    patient = laud.ask(worst_s * 1.05, pinned="skip", on_infeasible="reject")
    laud.finish()
    assert isinstance(hasty.exception(), Infeasible)
    assert reply(patient).reason == "pinned"


def test_what_images_show_is_no_drift(laud: ManualService) -> None:
    costs = laud.service.costs["colours"]
    for n in range(120):
        laud.engine.looks_again = n % 2 == 0
        laud.ask(pinned="skip")
        laud.finish()
    assert costs.drift == pytest.approx(1.0, rel=0.01)
    assert costs.summary().coverage == 1.0


# What clients and operators are told


def test_an_answer_tells_it_and_is_silent_of_points_that_do_not_glance(laud: ManualService) -> None:
    laud.engine.looks_again = False
    exchange = Exchange("test", laud.time())
    tasks = [laud.ask(pinned=name, exchange=exchange) for name in ("skip", "full")]
    laud.finish()
    glanced, full = map(reply, tasks)
    served = laud.service.find_model(None)
    for replies, flat in (([glanced], "false"), ([full, glanced], "null,false"), ([full], None)):
        terms = terms_of(replies, exchange, 0.02)
        assert answer_terms(served, terms).get("looked_again") == flat
        answer = classification(served, replies[0], terms, 1, "id")
        assert answer["looked_again"] is replies[0].looked_again


def test_models_are_described_with_their_glances(laud: ManualService) -> None:
    served = laud.service.find_model(None)
    found = served_model(served, laud.service.costs["colours"], {}, None, ready=True)
    full, _, skip = found.points
    assert full.glance is None
    assert skip.glance is not None
    assert skip.glance.model_dump() == {
        "image_size": 24,
        "confidence": 0.8,
        "again": AGAIN,
        "service_once_ms": pytest.approx(FIRST_S * 1e3, rel=0.01),
        "service_again_ms": pytest.approx((FIRST_S + SECOND_S) * 1e3, rel=0.01),
    }
    starting = served_model(served, None, {}, None, ready=False).points[2].glance
    assert starting is not None
    assert starting.service_once_ms is None
    assert skip.service_p50_ms == pytest.approx(FIRST_S * 1e3, rel=0.01)


def test_what_is_seen_again_is_counted_beside_what_was_expected(laud: ManualService) -> None:
    def value(name: str, **labels: str) -> float | None:
        labels = {"model": "colours", "point": "skip", **labels}
        return laud.service.metrics.registry.get_sample_value(f"laud_{name}", labels)

    assert value("glance_again_expected_ratio") == AGAIN
    assert value("glance_again_expected_ratio", point="full") is None
    for again in (True, False, False):
        laud.engine.looks_again = again
        for name in ("skip", "full"):
            exchange = Exchange("test", laud.time(), model="colours")
            laud.ask(pinned=name, exchange=exchange)
            laud.finish()
            laud.service.observe_inference(exchange, 0.02)
    assert (value("glances_total", again="true"), value("glances_total", again="false")) == (1, 2)
    assert value("activation_ratio_count") == 1, "at first sight no masker is asked"
