"""What an image takes of the machine beside the engine, from counters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.beside_costs import MEMORY_S, BesideCosts


def test_it_is_cpu_time_over_images_and_cores() -> None:
    costs = BesideCosts(cores=2)
    assert costs.seconds == 0.0
    for number in range(20):
        costs.observe(0.05 * number, 0.04 * number, 10 * number, is_idle=False)
    assert costs.seconds == pytest.approx(0.002)


def test_what_the_start_took_is_nobodys() -> None:
    costs = BesideCosts(cores=1)
    costs.observe(0.0, 30.0, 0, is_idle=True)
    costs.observe(0.05, 30.01, 10, is_idle=False)
    assert costs.seconds == pytest.approx(0.001)


def test_it_follows_what_images_take_of_late() -> None:
    costs = BesideCosts(cores=1)
    cpu_s = 0.0
    for number in range(400):
        each_s = 0.001 if number < 200 else 0.003
        cpu_s += 10 * each_s
        costs.observe(MEMORY_S / 20 * number, cpu_s, 10 * number, is_idle=False)
    assert costs.seconds == pytest.approx(0.003, rel=0.01)


def test_without_images_it_stays_what_it_was() -> None:
    costs = BesideCosts(cores=1)
    costs.observe(0.0, 0.0, 0, is_idle=True)
    costs.observe(0.1, 0.1, 50, is_idle=True)
    for number in range(1, 1000):
        costs.observe(0.1 + number, 0.1 + 0.01 * number, 50, is_idle=True)
    assert costs.seconds == pytest.approx(0.002)


def test_calls_that_count_at_their_end_are_right_in_the_mean() -> None:
    """An engine whose calls take 0.12 s, seen every 0.05 s; 0.003 s of an image are beside it."""
    costs = BesideCosts(cores=1)
    for number in range(400):
        now_s = 0.05 * number
        calls = int(now_s / 0.12)
        cpu_s = now_s * (1.0 + 8 * 0.003 / 0.12) - 0.12 * calls
        costs.observe(now_s, cpu_s, 8 * calls, is_idle=False)
    assert costs.seconds == pytest.approx(0.003, rel=0.25)


@given(
    st.lists(
        st.tuples(
            st.floats(-1.0, 10.0), st.floats(-1.0, 10.0, allow_nan=False), st.integers(0, 100)
        ),
        max_size=30,
    )
)
def test_it_is_never_negative_whatever_clocks_do(
    steps: list[tuple[float, float, int]],
) -> None:
    costs = BesideCosts(cores=2)
    now_s = cpu_s = 0.0
    images = 0
    for passed_s, taken_s, more in steps:
        now_s, cpu_s, images = now_s + passed_s, cpu_s + taken_s, images + more
        costs.observe(now_s, cpu_s, images, is_idle=not more)
    assert costs.seconds >= 0.0
