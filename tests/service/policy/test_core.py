"""What a call is expected to take, what it may, and what it should have once that is known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.policy.core import Dial, PointCost
from tests.service.policy.waiting import dial

GLANCE = dial((1.0, 2.0, 4.0), again=(1.0, 0.25, 1.0), worst=(1.0, 2.5, 1.0), max_batch=4)
"""p1 takes 1 second for its first look and 4 more for its second, at a quarter of the images."""


def test_a_point_that_does_not_glance_takes_what_it_takes() -> None:
    assert GLANCE.call_s((0,)) == GLANCE.worst_call_s((0,)) == 1.0
    assert GLANCE.known_call_s((0, 2), (True, None)) == GLANCE.call_s((0, 2)) == 5.0
    for probability in (0.01, 0.5, 0.99):
        assert GLANCE.quantile_call_s((2,), probability) == 4.0


def test_one_that_glances_takes_one_of_two_times() -> None:
    assert GLANCE.call_s((1,)) == 2.0
    assert GLANCE.worst_call_s((1,)) == GLANCE.known_call_s((1,), (True,)) == 5.0
    assert GLANCE.known_call_s((1,), (False,)) == 1.0
    assert GLANCE.known_call_s((1,), (None,)) == 2.0


def test_in_a_call_of_several_each_adds_its_own() -> None:
    assert GLANCE.worst_call_s((0, 1, 1)) == 11.0
    assert GLANCE.known_call_s((0, 1, 1), (None, True, False)) == 1.0 + 5.0 + 1.0


def test_quantiles_are_those_of_how_many_are_looked_at_again() -> None:
    assert GLANCE.quantile_call_s((1,), 0.5) == 1.0
    assert GLANCE.quantile_call_s((1,), 0.75) == 1.0
    assert GLANCE.quantile_call_s((1,), 0.76) == 5.0
    # Of four: none 0.32, at most one 0.74, two 0.95, three 0.996.
    found = [GLANCE.quantile_call_s((1,) * 4, p) for p in (0.3, 0.5, 0.9, 0.99, 0.999)]
    assert found == [4.0, 8.0, 12.0, 16.0, 20.0]
    assert GLANCE.quantile_call_s((2, 1), 0.5) == 5.0


def test_what_an_image_takes_alone_is_told_at_its_surest_point() -> None:
    assert GLANCE.surest((1, 2)) == 2
    assert GLANCE.alone_s((1, 2)) == 4.0
    assert GLANCE.alone_s((1,)) == 5.0
    assert GLANCE.alone_s((0, 1, 2)) == 1.0


def test_a_surer_point_is_worth_choosing_though_a_faster_one_is_as_accurate() -> None:
    # p1 is expected to take 2 and may take 5; p2 takes 4 and is no better, p3 takes 6.
    of = dial(
        (1.0, 2.0, 4.0, 6.0),
        (0.7, 0.9, 0.9, 0.9),
        again=(1.0, 0.25, 1.0, 1.0),
        worst=(1.0, 2.5, 1.0, 1.0),
    )
    assert of.front == (0, 1)
    assert of.free == (0, 1, 2)


def test_where_more_images_are_looked_at_again_both_looks_take_what_they_took() -> None:
    harder = GLANCE.points[1].where(0.75)
    assert (harder.again, harder.seconds[0]) == (0.75, 4.0)
    assert harder.seconds[0] * harder.worst == pytest.approx(5.0)
    assert harder.seconds[0] * harder.ratio(False) == pytest.approx(1.0)
    assert harder.where(0.25).seconds == pytest.approx(GLANCE.points[1].seconds)
    assert GLANCE.points[0].where(0.5) == GLANCE.points[0], "it does not glance"


def test_what_became_slower_than_a_later_one_is_in_order_of_its_seconds() -> None:
    of = dial(
        (1.0, 2.0, 3.0, 6.0),
        (0.7, 0.85, 0.8, 0.9),
        again=(1.0, 0.25, 1.0, 1.0),
        worst=(1.0, 2.5, 1.0, 1.0),
    )
    assert of.front == (0, 1, 3)
    harder = Dial(
        tuple(point.where(0.75) if k == 1 else point for k, point in enumerate(of.points))
    )
    assert harder.points[1].seconds[0] == 4.0
    assert harder.front == harder.free == (0, 2, 1, 3)


@given(st.lists(st.tuples(st.floats(0.1, 9.0), st.floats(0.0, 1.0)), min_size=1, max_size=8))
def test_what_is_worth_choosing_is_the_fastest_first_and_has_the_most_accurate(
    points: list[tuple[float, float]],
) -> None:
    seconds, accuracies = zip(*points, strict=True)
    of = dial(seconds, accuracies)
    for found in (of.front, of.free):
        assert found
        assert list(found) == sorted(set(found), key=of.pace)
        assert max(of.points[k].accuracy for k in found) == max(accuracies)


@given(st.lists(st.tuples(st.floats(0.1, 9.0), st.floats(0.0, 1.0)), min_size=1, max_size=8))
def test_where_nothing_glances_what_is_worth_choosing_is_the_front(
    points: list[tuple[float, float]],
) -> None:
    seconds, accuracies = zip(*sorted(points), strict=True)
    of = dial(seconds, accuracies)
    assert of.free == of.front


@given(
    first=st.floats(0.01, 10.0),
    second=st.floats(0.0, 10.0),
    again=st.floats(0.0, 1.0),
)
def test_both_looks_come_back_from_what_is_expected(
    first: float, second: float, again: float
) -> None:
    expected = first + again * second
    cost = PointCost("p", 32, 0.9, (expected,), again, (first + second) / expected)
    mean = again * cost.ratio(True) + (1.0 - again) * cost.ratio(False)
    assert mean == pytest.approx(1.0)
    if again < 0.999:
        assert expected * cost.ratio(False) == pytest.approx(first, rel=1e-6, abs=1e-9)
        assert expected * cost.ratio(True) == pytest.approx(first + second)
