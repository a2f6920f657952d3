"""What an answer says about itself, flat and as a `Server-Timing` header."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import orjson
import pytest

from engines.core import OperatingPoint, static_point
from service.contract import answer_terms, server_timing, terms_of
from service.objectives import Objective
from service.request import Exchange, Prediction, Reply
from tests.service.scripted import HASH, NUM_MASKERS, SIZE, model

# RFC 9110 tokens and quoted strings, as https://www.w3.org/TR/server-timing puts them together.
TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
QUOTED = r'"[\t !#-\[\]-~]*"'
ENTRY = re.compile(rf"({TOKEN});(dur|desc)=({TOKEN}|{QUOTED})")


def reply(point: str = "skip", **changes: Any) -> Reply:
    """A millisecond of decoding, two of waiting, four in the engine, as it was predicted."""
    values: dict[str, Any] = {
        "probabilities": np.array([0.5, 0.3, 0.2], np.float32),
        "activation": np.ones(NUM_MASKERS, np.float32),
        "point": static_point(point, SIZE, NUM_MASKERS),
        "reason": "best",
        "accuracy": 0.8,
        "batch_size": 1,
        "service_s": 0.0042,
        "predicted": Prediction(0.004, 0.005, 0.008, 0.009),
        "phases_s": {"decode": 0.001, "queue": 0.002, "prepare": 0.0005, "network": 0.0035},
    }
    return Reply(**{**values, **changes})


def exchange(slo_s: float = 0.02, **wishes: Any) -> Exchange:
    """Its body took 0.3 ms to arrive."""
    found = Exchange(id="a", arrived_s=5.0, objective=Objective(slo_s, "fast", **wishes))
    found.phases_s["receive"] = 0.0003
    return found


def parsed(header: str) -> dict[str, float | str]:
    """The entries of a header; fails on any that is not as the standard has it."""
    found: dict[str, float | str] = {}
    for part in header.split(", "):
        entry = ENTRY.fullmatch(part)
        assert entry, part
        name, kind, value = entry.groups()
        assert name not in found
        found[name] = float(value) if kind == "dur" else value.strip('"')
    return found


def test_an_answer_in_time_has_slack_left() -> None:
    terms = terms_of([reply()], exchange(), 0.008)
    assert terms.outcome == "met"
    assert terms.slack_s == pytest.approx(0.012)


def test_the_deadline_itself_is_in_time_and_anything_after_is_late() -> None:
    assert terms_of([reply()], exchange(0.02), 0.02).outcome == "met"
    late = terms_of([reply()], exchange(0.02), 0.0205)
    assert late.outcome == "late"
    assert late.slack_s == pytest.approx(-0.0005)


def test_phases_are_those_before_and_those_of_the_image() -> None:
    terms = terms_of([reply()], exchange(), 0.008)
    assert list(terms.phases_s) == ["receive", "decode", "queue", "prepare", "network", "total"]
    assert terms.phases_s["total"] == 0.008


def test_of_several_images_the_last_one_counts_and_accuracy_is_the_mean() -> None:
    slow = reply(
        "full",
        accuracy=0.9,
        reason="load",
        service_s=0.009,
        predicted=Prediction(0.007, 0.008, 0.015, 0.016),
        phases_s={"decode": 0.002},
    )
    terms = terms_of([reply(), slow, reply()], exchange(), 0.018)
    assert terms.points == ("skip", "full", "skip")
    assert terms.reasons == ("best", "load", "best")
    assert terms.accuracy == pytest.approx((0.8 + 0.9 + 0.8) / 3)
    assert (terms.predicted, terms.service_s) == (slow.predicted, slow.service_s)
    assert terms.phases_s == {"receive": 0.0003, "decode": 0.002, "total": 0.018}


def test_accuracy_is_unknown_where_that_of_any_image_is() -> None:
    assert terms_of([reply(), reply(accuracy=None)], exchange(), 0.008).accuracy is None


def test_parameters_are_flat_scalars_in_milliseconds() -> None:
    found = answer_terms(model(), terms_of([reply()], exchange(min_accuracy=0.7), 0.008))
    assert found == {
        "operating_point": "skip",
        "reason": "best",
        "outcome": "met",
        "slo_ms": 20.0,
        "slo_class": "fast",
        "on_infeasible": "degrade",
        "slack_ms": 12.0,
        "accuracy": 0.8,
        "min_accuracy": 0.7,
        "predicted_service_p50_ms": 4.0,
        "predicted_service_p95_ms": 5.0,
        "predicted_completion_p50_ms": 8.0,
        "predicted_completion_p95_ms": 9.0,
        "service_ms": 4.2,
        "receive_ms": 0.3,
        "decode_ms": 1.0,
        "queue_ms": 2.0,
        "prepare_ms": 0.5,
        "network_ms": 3.5,
        "total_ms": 8.0,
        "bundle": HASH,
        "engine": "scripted",
        "precision": "fp32",
    }
    assert orjson.loads(orjson.dumps(found)) == found


def test_parameters_leave_out_what_is_not_known_or_not_asked() -> None:
    found = answer_terms(model(), terms_of([reply(accuracy=None)], exchange(), 0.008))
    assert not {"accuracy", "min_accuracy"} & found.keys()
    assert None not in found.values()


def test_parameters_have_an_entry_per_image_in_order() -> None:
    found = answer_terms(
        model(), terms_of([reply("full"), reply("skip"), reply("full")], exchange(), 0.008)
    )
    assert found["operating_point"] == "full,skip,full"
    assert found["reason"] == "best,best,best"


def test_server_timing_is_as_the_standard_has_it() -> None:
    found = parsed(server_timing(terms_of([reply()], exchange(0.005), 0.008)))
    assert found == {
        "receive": 0.3,
        "decode": 1.0,
        "queue": 2.0,
        "prepare": 0.5,
        "network": 3.5,
        "total": 8.0,
        "service": 4.2,
        "predicted-service-p50": 4.0,
        "predicted-service-p95": 5.0,
        "predicted-total-p50": 8.0,
        "predicted-total-p95": 9.0,
        "slack": -3.0,
        "point": "skip",
        "reason": "best",
        "accuracy": "0.8000",
        "outcome": "late",
    }


def test_server_timing_names_each_point_once_and_an_unknown_accuracy() -> None:
    replies = [reply("full"), reply("skip", accuracy=None), reply("full")]
    found = parsed(server_timing(terms_of(replies, exchange(), 0.008)))
    assert (found["point"], found["accuracy"]) == ("full skip", "unknown")


@pytest.mark.parametrize("name", ["schnell-\u00fc", "x\u4e2d"])
def test_server_timing_is_ascii_whatever_a_point_is_called(name: str) -> None:
    point = OperatingPoint(name=name, image_size=SIZE, thresholds=(), caps=())
    header = server_timing(terms_of([reply(point=name)], exchange(), 0.008))
    assert point.name == name
    assert header.isascii()
    assert str(parsed(header)["point"]).endswith("?")


def test_an_answer_without_an_objective_is_a_fault_of_ours() -> None:
    with pytest.raises(TypeError):
        terms_of([reply()], Exchange(id="a", arrived_s=0.0), 0.008)
