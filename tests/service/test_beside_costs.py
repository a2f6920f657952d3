"""What an image takes of the machine beside the engine, from counters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.beside_costs import FADE_S, MEMORY_S, MOST_CROWDED, BesideCosts, Seen


def test_it_is_cpu_time_over_images_and_cores() -> None:
    costs = BesideCosts(cores=2)
    assert costs.seconds == 0.0
    for number in range(20):
        costs.observe(Seen(0.05 * number, 0.04 * number, 0.0, 10 * number, is_idle=False))
    assert costs.seconds == pytest.approx(0.002)


def test_what_the_start_took_is_nobodys() -> None:
    costs = BesideCosts(cores=1)
    costs.observe(Seen(0.0, 30.0, 0.0, 0, is_idle=True))
    costs.observe(Seen(0.05, 30.01, 0.0, 10, is_idle=False))
    assert costs.seconds == pytest.approx(0.001)


def test_it_follows_what_images_take_of_late() -> None:
    costs = BesideCosts(cores=1)
    cpu_s = 0.0
    for number in range(400):
        each_s = 0.001 if number < 200 else 0.003
        cpu_s += 10 * each_s
        costs.observe(Seen(MEMORY_S / 20 * number, cpu_s, 0.0, 10 * number, is_idle=False))
    assert costs.seconds == pytest.approx(0.003, rel=0.01)


def test_without_images_it_stays_what_it_was() -> None:
    costs = BesideCosts(cores=1)
    costs.observe(Seen(0.0, 0.0, 0.0, 0, is_idle=True))
    costs.observe(Seen(0.1, 0.1, 0.0, 50, is_idle=True))
    for number in range(1, 1000):
        costs.observe(Seen(0.1 + number, 0.1 + 0.01 * number, 0.0, 50, is_idle=True))
    assert costs.seconds == pytest.approx(0.002)


def test_calls_that_count_at_their_end_are_right_in_the_mean() -> None:
    """An engine whose calls take 0.12 s, seen every 0.05 s; 0.003 s of an image are beside it."""
    costs = BesideCosts(cores=1)
    for number in range(400):
        now_s = 0.05 * number
        calls = int(now_s / 0.12)
        cpu_s = now_s * (1.0 + 8 * 0.003 / 0.12) - 0.12 * calls
        costs.observe(Seen(now_s, cpu_s, 0.0, 8 * calls, is_idle=False))
    assert costs.seconds == pytest.approx(0.003, rel=0.25)


def crowd(
    costs: BesideCosts, of: range, *, is_crowded: bool = True, engine_share: float = 0.4
) -> None:
    """Ten images in each twentieth of a second; 2 ms of each beside the engine, on two cores."""
    for number in of:
        costs.observe(
            Seen(
                now_s=0.05 * number,
                cpu_s=0.02 * number,
                engine_s=0.05 * engine_share * number,
                images=10 * number,
                is_idle=False,
                is_crowded=is_crowded,
            )
        )


def test_where_images_queue_up_all_of_the_machine_is_taken() -> None:
    """The engine computes for .4 of the time, the rest for .4: of two cores .8 work."""
    costs = BesideCosts(cores=2)
    crowd(costs, range(400), is_crowded=False)
    assert costs.crowded == 1.0
    assert costs.seconds == pytest.approx(0.001)
    crowd(costs, range(400, 800))
    # What is left of two cores beside the engine, over what works there.
    assert costs.crowded == pytest.approx((2.0 - 0.4) / 0.4, rel=0.01)
    assert costs.seconds == pytest.approx(0.004, rel=0.01)


def test_how_crowded_it_was_is_forgotten_while_nobody_queues_up() -> None:
    costs = BesideCosts(cores=2)
    crowd(costs, range(400))
    before = costs.crowded
    ticks = round(FADE_S / 0.05)
    crowd(costs, range(400, 400 + ticks), is_crowded=False)
    assert costs.crowded - 1.0 == pytest.approx((before - 1.0) / 2.718, rel=0.01)


def test_one_moment_of_many_who_wait_tells_nothing() -> None:
    costs = BesideCosts(cores=2)
    for number in range(0, 400, 2):
        crowd(costs, range(number, number + 1), is_crowded=True)
        crowd(costs, range(number + 1, number + 2), is_crowded=False)
    assert costs.crowded == 1.0


def test_who_queues_up_behind_the_engine_tells_nothing_of_the_rest() -> None:
    costs = BesideCosts(cores=2)
    crowd(costs, range(400), engine_share=0.8)
    assert costs.crowded == 1.0


def test_what_keeps_a_machine_from_working_is_believed_only_so_far() -> None:
    costs = BesideCosts(cores=2)
    for number in range(400):
        costs.observe(Seen(0.05 * number, 0.0001 * number, 0.0, number, False, is_crowded=True))
    assert costs.crowded == pytest.approx(MOST_CROWDED, rel=0.01)


@given(
    st.lists(
        st.tuples(st.floats(-1.0, 10.0), st.floats(-1.0, 10.0), st.integers(0, 100), st.booleans()),
        max_size=30,
    )
)
def test_it_is_never_negative_whatever_clocks_do(
    steps: list[tuple[float, float, int, bool]],
) -> None:
    costs = BesideCosts(cores=2)
    now_s = cpu_s = 0.0
    images = 0
    for passed_s, taken_s, more, is_crowded in steps:
        now_s, cpu_s, images = now_s + passed_s, cpu_s + taken_s, images + more
        costs.observe(Seen(now_s, cpu_s, 0.0, images, is_idle=not more, is_crowded=is_crowded))
    assert costs.seconds >= 0.0
    assert 1.0 <= costs.crowded <= MOST_CROWDED
