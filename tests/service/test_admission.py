"""Who is taken, who is refused and when to come back, who is late and who expires."""

from __future__ import annotations

import pytest

from service.errors import Expired, Infeasible, QueueFull
from tests.service.manual import MARGIN, Manual, reply, small_pixels
from tests.service.scripted import SECONDS


def test_what_cannot_be_in_time_runs_at_its_fastest_when_nothing_timely_waits(
    manual: Manual,
) -> None:
    laud = manual()
    first = laud.ask()
    late = laud.ask(0.003)
    timely = laud.ask(1.0)
    laud.run_engine()
    assert first.done()
    laud.run_engine()
    assert timely.done()
    assert not late.done()
    laud.finish()
    assert (reply(late).point.name, reply(late).reason) == ("small", "late")


def test_a_refusal_says_when_to_come_back(manual: Manual) -> None:
    laud = manual()
    laud.ask()
    never = laud.ask(0.003, on_infeasible="reject")
    with pytest.raises(Infeasible, match=r"within 3\.0 ms: the fastest takes 5\.\d ms here") as far:
        never.result()
    later = laud.ask(0.010, on_infeasible="reject")
    with pytest.raises(Infeasible, match=r"would be \d+\.\d ms late") as near:
        later.result()
    assert far.value.retry_after_s == 60.0
    # The engine is free in full's planned time; small must then still fit.
    answer_s = 0.0004
    expected = MARGIN * (SECONDS["full"] + SECONDS["small"]) + answer_s - 0.010
    assert near.value.retry_after_s == pytest.approx(expected)
    laud.finish()


def test_images_of_one_request_are_taken_all_or_none(manual: Manual) -> None:
    laud = manual()
    one = 1.1 * MARGIN * SECONDS["small"]
    pictures = [small_pixels()] * 3
    assert isinstance(
        laud.ask(one, on_infeasible="reject", pictures=pictures).exception(), Infeasible
    )
    assert laud.service.batcher.is_idle
    # Its answer is late anyway, so none of its images hurries past who can be in time.
    late = laud.ask(one, pictures=pictures)
    laud.finish()
    assert [reply.reason for reply in late.result()] == ["late"] * 3


def test_who_is_overtaken_expires_when_its_time_comes_and_not_at_the_end_of_a_batch(
    manual: Manual,
) -> None:
    laud = manual()
    laud.ask()
    begin_s = laud.time()
    refused = laud.ask(0.050, on_infeasible="reject")
    degraded = laud.ask(0.050)
    # The engine hangs: neither is decided for what is handed over comes before.
    laud.ask(0.030)
    laud.advance(0.011)
    laud.decode()
    assert len(laud.engines) == 2
    last_s = 0.050 - MARGIN * SECONDS["small"]
    laud.advance(begin_s + last_s - 0.001 - laud.time())
    assert not refused.done()
    laud.advance(0.005)
    with pytest.raises(Expired):
        refused.result()
    assert not degraded.done()
    laud.finish()
    assert reply(degraded).reason == "late"


def test_a_late_answer_is_given_up_in_the_end(manual: Manual) -> None:
    laud = manual(late_limit_s=2.0)
    laud.ask()
    late = laud.ask(0.001)
    # The engine hangs, and has one more that is timely.
    laud.ask()
    laud.advance(2.0)
    assert not late.done()
    laud.advance(0.005)
    with pytest.raises(Expired):
        late.result()
    laud.finish()


def test_the_queue_is_bounded_in_planned_seconds_but_one_request_always_fits(
    manual: Manual,
) -> None:
    laud = manual(max_queue_s=0.018)
    taken = laud.ask(pictures=[small_pixels()] * 8, pinned="small")
    refused = laud.ask()
    with pytest.raises(QueueFull, match="ms of work are waiting") as full:
        refused.result()
    # What runs is planned by its quantile, what waits by the median: delays of many even out.
    least_s, most_s = 9 * SECONDS["small"], 9 * MARGIN * SECONDS["small"]
    assert least_s < full.value.retry_after_s + 0.018 < most_s
    laud.finish()
    assert len(taken.result()) == 8


def test_late_work_refuses_nobody_who_can_be_in_time(manual: Manual) -> None:
    laud = manual(max_queue_s=0.018)
    late = [laud.ask(0.0001) for _ in range(8)]
    in_time = laud.ask(1.0, pinned="small")
    assert not in_time.done()
    one_more_late = laud.ask(0.0001)
    with pytest.raises(QueueFull):
        one_more_late.result()
    laud.finish()
    assert reply(in_time).reason == "pinned"
    assert all(task.done() for task in late)
