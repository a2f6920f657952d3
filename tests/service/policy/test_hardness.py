"""Hardness: pictures that are looked at again more often than those of the measurement."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.policy.hardness import MOST, STEP, Hardness


def after(measured: float, share: float, images: int) -> Hardness:
    """So many images, of which that share is looked at again."""
    draw = random.Random(0)
    known = Hardness()
    for _ in range(images):
        known = known.observe(measured, draw.random() < share)
    return known


def test_at_first_pictures_are_those_of_the_measurement() -> None:
    assert Hardness().share(0.3) == 0.3


def test_one_picture_moves_it_by_how_surprising_it_is() -> None:
    assert Hardness().observe(0.3, True).shift == pytest.approx(0.7 * STEP)
    assert Hardness().observe(0.3, False).shift == pytest.approx(-0.3 * STEP)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9])
def test_the_share_becomes_that_of_the_pictures(share: float) -> None:
    assert after(0.3, share, 2000).share(0.3) == pytest.approx(share, abs=0.06)


def test_two_hundred_pictures_tell_nearly_all() -> None:
    assert after(0.35, 0.9, 200).share(0.35) > 0.75


def test_what_one_point_meets_is_told_of_those_that_look_again_at_fewer() -> None:
    known = after(0.4, 0.9, 2000)
    odds = 0.1 / 0.9 * math.exp(known.shift)
    assert known.share(0.1) == pytest.approx(odds / (1.0 + odds))
    assert 0.4 < known.share(0.1) < known.share(0.4)


@pytest.mark.parametrize("certain", [0.0, 1.0])
def test_what_is_certain_stays_so_and_tells_nothing(certain: float) -> None:
    assert Hardness(2.0).share(certain) == certain
    assert Hardness().observe(certain, True) == Hardness().observe(certain, False) == Hardness()


@given(st.floats(0.0, 1.0), st.lists(st.booleans(), max_size=300))
def test_it_stays_within_bounds(measured: float, images: list[bool]) -> None:
    known = Hardness()
    for again in images:
        known = known.observe(measured, again)
    assert abs(known.shift) <= MOST
    assert 0.0 <= known.share(measured) <= 1.0
