"""What holds whatever the policy: decisions that can be carried out, late images, arrival rates."""

from __future__ import annotations

import math

import numpy as np
import pytest

from service.load.arrivals import first, gamma
from service.policy.core import Choice, Decision
from service.policy.rules import ArrivalRate, check_decision, late_batch, nearest
from tests.service.policy.waiting import Image, dial, view

SEEN = view(Image(9.0, (0, 1)), Image(9.0), Image(9.0), of=dial(sizes=(24, 32, 32)))


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ([], "1 to 2 images, not 0"),
        ([(0, 1), (1, 1), (2, 1)], "1 to 2 images, not 3"),
        ([(1, 1), (1, 1)], "not different ones of 3"),
        ([(3, 1)], "not different ones of 3"),
        ([(-1, 1)], "not different ones of 3"),
        ([(0, 2)], "point 2 is not allowed for image 0"),
        ([(0, 0), (1, 1)], r"have one size, these have \[24, 32\]"),
    ],
)
def test_what_cannot_be_carried_out_is_refused(
    choices: list[tuple[int, int]], message: str
) -> None:
    decision = Decision(tuple(Choice(i, k, "load") for i, k in choices))
    with pytest.raises(ValueError, match=message):
        check_decision(decision, SEEN)


def test_points_of_one_size_may_differ_within_a_batch() -> None:
    check_decision(Decision((Choice(0, 1, "best"), Choice(1, 2, "best"))), SEEN)


def test_a_wish_is_clipped_to_what_is_allowed() -> None:
    of = dial((1.0, 2.0, 3.0, 4.0, 5.0), (0.5, 0.6, 0.7, 0.8, 0.9))
    assert [nearest(of, (1, 3), wish) for wish in range(5)] == [1, 1, 1, 3, 3]


def test_what_is_faster_is_told_by_seconds_and_not_by_places() -> None:
    of = dial((1.0, 5.0, 3.0), (0.5, 0.9, 0.7))
    assert nearest(of, (0, 2, 1), 1) == 1
    assert nearest(of, (0, 1), 2) == 0


@pytest.mark.parametrize(("fixed_s", "together"), [(0.0, 1), (0.2, 1), (0.5, 2), (0.9, 3)], ids=str)
def test_late_images_run_together_only_where_it_is_much_cheaper(
    fixed_s: float, together: int
) -> None:
    late = [Image(0.0) for _ in range(9)]
    of = dial(fixed_s=fixed_s, max_batch=4)
    assert late_batch(late, {"model": of}) == late[:together]


def test_late_images_that_run_together_are_alike() -> None:
    of = dial(sizes=(24, 32, 32), fixed_s=0.9, max_batch=4)
    first, other_model, other_size, alike = (
        Image(0.0),
        Image(0.0, model="other"),
        Image(0.0, allowed=(1,)),
        Image(0.0),
    )
    late = [first, other_model, other_size, alike]
    assert late_batch(late, {"model": of, "other": of}) == [first, alike]


def test_a_steady_rate_is_told() -> None:
    rate = ArrivalRate(memory_s=1.0)
    for n in range(1, 2001):
        rate.count(1, n / 100)
    assert rate.at(20.0) == pytest.approx(100, rel=0.02)


def test_it_is_told_before_the_memory_is_full() -> None:
    rate = ArrivalRate(memory_s=1.0)
    for n in range(50):
        rate.count(2, n / 100)
    assert rate.at(0.5) == pytest.approx(200, rel=0.05)


@pytest.mark.parametrize("cv2", [0.0, 1.0, 4.0])
def test_how_unevenly_they_come_is_told(cv2: float) -> None:
    process = gamma(50.0, cv2)
    rates = [ArrivalRate() for _ in range(40)]
    for seed, rate in enumerate(rates):
        for at_s in first(process, np.random.default_rng(seed), 1500):
            rate.count(1, at_s)
    seen = np.mean([rate.cv2() for rate in rates])
    assert seen == pytest.approx(cv2, rel=0.15, abs=0.1)


def test_pictures_of_one_request_come_at_once() -> None:
    rate = ArrivalRate()
    for n in range(300):
        rate.count(5, n / 10)
    # Of five gaps, four are 0.
    assert rate.cv2() == pytest.approx(4.0, rel=0.1)


def test_arrivals_are_thought_to_be_poisson_until_there_are_enough_to_tell() -> None:
    rate = ArrivalRate()
    assert rate.cv2() == 1.0
    for n in range(6):
        rate.count(1, n / 10)
    assert 0.8 < rate.cv2() < 1.0


def test_what_was_long_ago_is_forgotten() -> None:
    rate = ArrivalRate(memory_s=1.0)
    assert rate.at(5.0) == 0.0
    rate.count(100, 0.0)
    assert rate.at(1.0) > rate.at(2.0) > rate.at(12.0)
    assert rate.at(12.0) < 0.01
    assert math.isfinite(rate.at(1e9))
