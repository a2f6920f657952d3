"""Which of several wishes counts, and that every wish is understood or refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from starlette.datastructures import Headers

from service.errors import BadRequest
from service.objectives import (
    CUSTOM_CLASS,
    HEADERS,
    LEAST_SLO_MS,
    MOST_SLO_MS,
    Objective,
    SloClass,
    default_class,
    merge_objective,
)

FAST = SloClass(slo_ms=20.0, min_accuracy=0.5, on_infeasible="reject")
CLASSES = {"fast": FAST, "slow": SloClass(slo_ms=900.0)}
DEFAULT = SloClass(slo_ms=100.0)
NAMED = {"x-slo-class": "fast"}


def merge(
    headers: Mapping[str, str] | None = None, parameters: Mapping[str, Any] | None = None
) -> Objective:
    """With the classes `fast`, `slow`, and `standard`, which is the default."""
    return merge_objective(headers or {}, parameters or {}, CLASSES, DEFAULT, "standard")


def refusal(
    headers: Mapping[str, str] | None = None, parameters: Mapping[str, Any] | None = None
) -> str:
    with pytest.raises(BadRequest) as refused:
        merge(headers, parameters)
    return str(refused.value)


def test_who_asks_for_nothing_gets_the_default_class() -> None:
    assert merge() == Objective(slo_s=0.1, slo_class="standard")


def test_each_source_of_the_time_outranks_those_after_it() -> None:
    wishes: list[tuple[str, str, Any, float, str]] = [
        ("parameter", "slo_ms", 11, 0.011, CUSTOM_CLASS),
        ("parameter", "timeout", 12_000, 0.012, CUSTOM_CLASS),
        ("header", "x-slo-ms", "13.5", 0.0135, CUSTOM_CLASS),
        ("parameter", "slo_class", "slow", 0.9, "slow"),
        ("header", "x-slo-class", "fast", 0.02, "fast"),
    ]
    for first in range(len(wishes)):
        asked = wishes[first:]
        found = merge(
            {name: value for kind, name, value, _, _ in asked if kind == "header"},
            {name: value for kind, name, value, _, _ in asked if kind == "parameter"},
        )
        assert (found.slo_s, found.slo_class) == pytest.approx(wishes[first][3:])


def test_the_default_class_can_be_named_and_so_can_one_that_nobody_configured() -> None:
    assert merge({"x-slo-class": "standard"}) == merge()
    found = merge_objective({"x-slo-class": "default"}, {}, {}, DEFAULT, "default")
    assert found == Objective(slo_s=0.1, slo_class="default")


def test_a_class_brings_its_floor_and_its_rule() -> None:
    assert merge(NAMED) == Objective(
        slo_s=0.02, slo_class="fast", min_accuracy=0.5, on_infeasible="reject"
    )


def test_a_time_of_its_own_leaves_the_rest_of_the_class_in_force() -> None:
    found = merge({**NAMED, "x-slo-ms": "40"})
    assert found == Objective(0.04, CUSTOM_CLASS, min_accuracy=0.5, on_infeasible="reject")


@pytest.mark.parametrize(
    ("parameter", "header", "field", "by_class", "by_header", "by_parameter"),
    [
        ("min_accuracy", "x-min-accuracy", "min_accuracy", 0.5, 0.7, 0.9),
        ("on_infeasible", "x-on-infeasible", "on_infeasible", "reject", "degrade", "reject"),
        ("operating_point", "x-operating-point", "pinned", None, "small", "skip"),
    ],
)
def test_parameter_outranks_header_outranks_class(
    parameter: str, header: str, field: str, by_class: Any, by_header: Any, by_parameter: Any
) -> None:
    of_header = {**NAMED, header: str(by_header)}
    assert getattr(merge(NAMED), field) == by_class
    assert getattr(merge(of_header), field) == by_header
    assert getattr(merge(of_header, {parameter: by_parameter}), field) == by_parameter


def test_a_floor_of_zero_lifts_that_of_the_class() -> None:
    assert merge({**NAMED, "x-min-accuracy": "0"}).min_accuracy == 0.0


@pytest.mark.parametrize("text", ["50", "50.", "5e1", "+50", "050", "50.000", ".5E2", " 50 "])
def test_numbers_in_headers_are_decimal(text: str) -> None:
    assert merge({"x-slo-ms": text}).slo_s == 0.05


@pytest.mark.parametrize("name", ["X-SLO-MS", "x-slo-ms", "X-Slo-Ms"])
def test_names_of_headers_have_no_case(name: str) -> None:
    assert merge({name: "7"}).slo_s == 0.007


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "nan", "NaN", "inf", "-inf", "Infinity", "-1", "0", "-0", "1e-9", "600000.1",
        "1e300", "1e999", "0x10", "1_000", "1,000", "50ms", "5 0", "\u0665", "true", "null",
        "9" * 400,
    ],
)  # fmt: skip
def test_a_time_that_is_none_is_refused_with_what_is_allowed(text: str) -> None:
    message = refusal({"x-slo-ms": text})
    assert message.startswith(
        "header 'x-slo-ms' must be a number of milliseconds from 0.001 to 600,000, got "
    )
    assert len(message) < 160


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"slo_ms": True},
            "'slo_ms' must be a number of milliseconds from 0.001 to 600,000, got t",
        ),
        (
            {"slo_ms": "50"},
            "'slo_ms' must be a number of milliseconds from 0.001 to 600,000, got '",
        ),
        ({"slo_ms": None}, "got null"),
        ({"slo_ms": [50]}, "got a list"),
        ({"slo_ms": {"ms": 50}}, "got an object"),
        ({"slo_ms": math.nan}, "got nan"),
        ({"slo_ms": math.inf}, "got inf"),
        ({"slo_ms": 10**5000}, "got a whole number of 16610 bits"),
        ({"timeout": 0}, "'timeout' must be a whole number of microseconds from 1 to 600,000,000"),
        ({"timeout": 1000.0}, "'timeout' must be a whole number of microseconds"),
        ({"timeout": True}, "got true"),
        ({"timeout": -1}, "got -1"),
        ({"timeout": 600_000_001}, "got 600000001"),
        ({"slo_class": 5}, "'slo_class' must name an SLO class, got 5"),
        ({"min_accuracy": 50}, "'min_accuracy' must be a number from 0 to 1, got 50"),
        ({"min_accuracy": -0.1}, "'min_accuracy' must be a number from 0 to 1, got -0.1"),
        ({"min_accuracy": math.nan}, "got nan"),
        ({"min_accuracy": False}, "got false"),
        ({"on_infeasible": "late"}, "'on_infeasible' must be 'degrade' or 'reject', got 'late'"),
        ({"on_infeasible": ["reject"]}, "got a list"),
        ({"operating_point": 3}, "'operating_point' must be the name of an operating point, got 3"),
    ],
    ids=range(21),
)
def test_a_parameter_that_is_wrong_is_refused(parameters: dict[str, Any], message: str) -> None:
    assert message in refusal(parameters=parameters)


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        (
            {"x-slo-class": "Fast"},
            "header 'x-slo-class' must name an SLO class, got 'Fast'; "
            "there are: fast, slow, standard",
        ),
        ({"x-slo-class": "custom"}, "got 'custom'; there are: fast, slow, standard"),
        ({"x-slo-class": ""}, "got ''"),
        ({"x-min-accuracy": "0\x1f"}, "'x-min-accuracy' must be a number from 0 to 1"),
        ({"x-min-accuracy": "high"}, "'x-min-accuracy' must be a number from 0 to 1, got 'high'"),
        ({"x-min-accuracy": "1.01"}, "got 1.01"),
        ({"x-on-infeasible": "Reject"}, "must be 'degrade' or 'reject', got 'Reject'"),
        ({"x-on-infeasible": "y" * 500}, "got '" + "y" * 60 + "'"),
    ],
    ids=str,
)
def test_a_header_that_is_wrong_is_refused(headers: dict[str, str], message: str) -> None:
    assert message in refusal(headers)


def test_what_is_outranked_is_checked_all_the_same() -> None:
    assert "x-slo-ms" in refusal({"x-slo-ms": "soon"}, {"slo_ms": 5})
    assert "timeout" in refusal(parameters={"slo_ms": 5, "timeout": 0})


@pytest.mark.parametrize("name", sorted(HEADERS))
def test_a_header_that_is_there_twice_is_refused(name: str) -> None:
    raw = [(name.encode(), b"1"), (b"accept", b"a"), (b"accept", b"b"), (name.encode(), b"1")]
    assert refusal(Headers(raw=raw)) == f"header '{name}' is there twice; send it once"


def test_other_headers_and_parameters_are_none_of_its_business() -> None:
    headers = {"x-request-id": "nan", "accept": "*/*"}
    assert merge(headers, {"sequence_id": 1, "binary_data_output": True}) == merge()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)
words = st.sampled_from(["fast", "slow", "standard", "custom", "degrade", "reject", "1", "0.5"])
parameter_sets = st.dictionaries(
    st.sampled_from(
        ["slo_ms", "timeout", "slo_class", "min_accuracy", "on_infeasible", "operating_point"]
    )
    | st.text(),
    words | st.floats(0, 2e6) | json_values,
)
header_sets = st.dictionaries(
    st.sampled_from(sorted(HEADERS)) | st.text(), words | st.floats().map(str) | st.text()
)


@given(headers=header_sets, parameters=parameter_sets)
def test_whatever_is_sent_is_an_objective_or_a_bad_request(
    headers: dict[str, str], parameters: dict[str, Any]
) -> None:
    try:
        found = merge(headers, parameters)
    except BadRequest:
        return
    assert 0.0 < found.slo_s <= MOST_SLO_MS / 1e3
    assert math.isfinite(found.slo_s)
    assert found.slo_class in {CUSTOM_CLASS, "standard", *CLASSES}
    assert found.min_accuracy is None or 0.0 <= found.min_accuracy <= 1.0
    assert found.on_infeasible in ("degrade", "reject")
    assert found.pinned is None or isinstance(found.pinned, str)


@given(slo_ms=st.floats(LEAST_SLO_MS, MOST_SLO_MS), header=st.booleans())
def test_a_time_in_range_is_taken_as_it_is(slo_ms: float, header: bool) -> None:
    if header:
        found = merge({"x-slo-ms": repr(slo_ms)})
    else:
        found = merge(parameters={"slo_ms": slo_ms})
    assert found == Objective(slo_s=slo_ms / 1e3, slo_class=CUSTOM_CLASS)


@pytest.mark.parametrize(
    ("p95_s", "slo_ms"),
    [(0.012, 36.0), (1e9, MOST_SLO_MS), (0.0, LEAST_SLO_MS)],
)
def test_without_configuration_three_times_what_full_takes(p95_s: float, slo_ms: float) -> None:
    assert default_class(p95_s).slo_ms == pytest.approx(slo_ms)


@pytest.mark.parametrize(
    "wrong",
    [
        {"slo_ms": 0}, {"slo_ms": -5}, {"slo_ms": math.inf}, {"slo_ms": math.nan},
        {"slo_ms": 600_001}, {"slo_ms": True}, {"slo_ms": "50"}, {},
        {"slo_ms": 5, "min_accuracy": 1.5}, {"slo_ms": 5, "min_accuracy": math.nan},
        {"slo_ms": 5, "min_accuracy": True}, {"slo_ms": 5, "on_infeasible": "late"},
        {"slo_ms": 5, "min_acuracy": 0.5},
    ],
    ids=str,
)  # fmt: skip
def test_an_impossible_class_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SloClass(**wrong)
