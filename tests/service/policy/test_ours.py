"""Foresight: the best that everybody can have. Points take 1, 2 and 4 seconds unless it is said."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.policy.core import Choice, Dial, Host
from service.policy.ours import FAR, NEAR, Foresight
from service.policy.queue import DeadlineQueue
from service.policy.rules import check_decision
from tests.service.policy.waiting import Image, decide, dial, view

OURS = Foresight()


def reasons(*deadlines_s: float | Image, of: Dial | None = None) -> list[str]:
    seen = view(*deadlines_s, of=of)
    decision, _ = OURS.decide(seen, OURS.start())
    return [choice.reason for choice in decision.choices]


def test_alone_it_gets_the_best_that_its_deadline_allows() -> None:
    assert decide(OURS, view(4.0)) == [(0, 2)]
    assert decide(OURS, view(3.9)) == [(0, 1)]
    assert decide(OURS, view(1.0)) == [(0, 0)]


def test_what_is_planned_with_is_the_slow_quantile_from_when_it_can_begin() -> None:
    assert decide(OURS, view(4.0, margin=1.01)) == [(0, 1)]
    assert decide(OURS, view(5.0, now_s=1.0)) == [(0, 2)]
    assert decide(OURS, view(5.0, free_s=1.5)) == [(0, 1)]
    assert decide(OURS, view(Image(5.0, prepare_s=1.5))) == [(0, 1)]


def test_who_waits_behind_it_is_still_in_time() -> None:
    # After 4 s there is no second left for the other; after 2 s there is, and one is left over.
    one_by_one = dial(max_batch=1)
    assert decide(OURS, view(4.0, 4.5, of=one_by_one)) == [(0, 1)]
    assert decide(OURS, view(4.0, 2.5 + 0.4, of=one_by_one)) == [(0, 0)]


def test_nobody_is_better_off_at_the_cost_of_all_others() -> None:
    # The head at its best would leave a second for each of the others: enough, but just so.
    one_by_one = dial(max_batch=1)
    assert decide(OURS, view(9.0, 9.0, 9.0, 9.0, of=one_by_one)) == [(0, 1)]
    assert decide(OURS, view(16.0, 16.0, 16.0, 16.0, of=one_by_one)) == [(0, 2)]


def test_the_busier_the_machine_the_more_is_kept_for_who_will_come() -> None:
    of, deadlines_s = dial(max_batch=1), [9.0] * 4
    assert decide(OURS, view(*deadlines_s, of=of, rate_hz=0.2)) == [(0, 1)]
    assert decide(OURS, view(*deadlines_s, of=of, rate_hz=0.7)) == [(0, 0)]


def test_what_is_kept_does_not_grow_with_the_care_for_one_call() -> None:
    of = dial(max_batch=1)

    def point(margin: float) -> int:
        # As much time as before, by the measure of that care.
        seen = view(*[18.0 * margin] * 4, of=of, margin=margin, usual=1.0, rate_hz=0.3)
        ((_, chosen),) = decide(OURS, seen)
        return chosen

    assert point(1.0) == point(3.0) == 2


def test_one_of_many_takes_his_share_of_the_machine_where_that_is_more() -> None:
    # At p1 the engine takes 2 s, and the whole machine a quarter of that and what is beside it.
    of = dial((1.0, 2.0, 4.0), max_batch=1)

    def point(beside_s: float) -> int:
        host = Host(beside_s=beside_s, engine_share=0.25)
        ((_, chosen),) = decide(OURS, view(*[8.5] * 4, of=of, host=host))
        return chosen

    assert [point(beside_s) for beside_s in (0.0, 1.5, 1.6, 1.7)] == [1, 1, 1, 0]


def test_a_machine_that_is_busy_beside_the_engine_is_busy() -> None:
    def point(beside_s: float, engine_share: float = 1.0) -> int:
        host = Host(beside_s=beside_s, engine_share=engine_share)
        seen = view(*[9.0] * 4, of=dial(max_batch=1), rate_hz=0.2, host=host)
        ((_, chosen),) = decide(OURS, seen)
        return chosen

    assert (point(0.1), point(2.5)) == (1, 0)
    # What one core of many computes leaves the others to the front.
    assert (point(2.0), point(2.0, engine_share=0.0)) == (0, 1)


def test_a_batch_takes_those_whose_pictures_are_there_when_it_begins() -> None:
    """Four pictures of a second each, and two decoders: two are there after one."""
    files = [Image(90.0 + i, prepare_s=1.0) for i in range(4)]
    of = dial(max_batch=4, fixed_s=0.9)
    two = view(*files, of=of, host=Host(decoders=2))
    assert len(decide(OURS, two)) == 2
    assert len(decide(OURS, view(*files, of=of, free_s=2.0, host=Host(decoders=2)))) == 4
    assert len(decide(OURS, view(*files, of=of))) == 4


def test_pictures_are_waited_for_where_the_engine_is_not_what_runs_out() -> None:
    """As before: the fourth is there a second after the call might begin. Of four each takes
    3.325 s of the engine, on one of two cores, and 1.6625 s of all cores."""
    of = dial(max_batch=4, fixed_s=0.9)

    def together(beside_s: float, first_due_s: float = 90.0) -> int:
        files = [Image(first_due_s, prepare_s=1.0), *[Image(91.0, prepare_s=1.0)] * 3]
        host = Host(beside_s=beside_s, engine_share=0.5, decoders=2)
        return len(decide(OURS, view(*files, of=of, host=host)))

    # Four have to leave a second of the engine over, in which the machine is busy with them.
    assert together(1.6625 + 0.24) == 2
    assert together(1.6625 + 0.26) == 4
    # And who is due first has to have time for the wait: decoded after 1 s, 1 s later, 13.3 s.
    assert together(2.1, 15.31) == 4
    assert together(2.1, 15.29) == 2


def test_the_more_unevenly_they_come_the_more_is_kept() -> None:
    of, deadlines_s = dial(max_batch=1), [9.0] * 4
    assert decide(OURS, view(*deadlines_s, of=of, rate_hz=0.55, cv2=1.0)) == [(0, 0)]
    assert decide(OURS, view(*deadlines_s, of=of, rate_hz=0.55, cv2=0.0)) == [(0, 1)]


@pytest.mark.parametrize("rate_hz", [0.0, 1.0, 1e9])
def test_alone_it_may_have_the_best_at_any_rate(rate_hz: float) -> None:
    assert decide(OURS, view(9.0, rate_hz=rate_hz)) == [(0, 2)]


def test_other_models_wait_too() -> None:
    seen = view(9.0)
    assert decide(OURS, replace(seen, others_s=4.0)) == [(0, 2)]
    assert decide(OURS, replace(seen, others_s=6.0)) == [(0, 1)]
    assert decide(OURS, replace(seen, others_s=50.0)) == [(0, 0)]


def test_who_will_be_late_anyway_costs_nobody_his_point() -> None:
    assert decide(OURS, view(0.5, 9.0, of=dial(max_batch=1)))[0][1] == 0
    assert decide(OURS, view(Image(5.0), Image(9.0, prepare_s=20.0), of=dial(max_batch=1))) == [
        (0, 2)
    ]


def test_a_point_below_the_hull_is_used_only_where_a_deadline_forbids_better() -> None:
    # 3 s for what 2 s and 4 s in turns do better.
    of = dial((1.0, 2.0, 3.0, 4.0), (0.7, 0.8, 0.81, 0.9), max_batch=1)
    assert decide(OURS, view(Image(3.5, of.front), of=of)) == [(0, 2)]
    waiting = [Image(9.5, of.front) for _ in range(3)]
    assert decide(OURS, view(*waiting, of=of)) == [(0, 1)]


def test_what_an_image_may_have_is_its_own() -> None:
    assert decide(OURS, view(Image(9.0, allowed=(1,)))) == [(0, 1)]
    assert decide(OURS, view(Image(9.0, allowed=(0, 1)))) == [(0, 1)]
    assert decide(OURS, view(Image(3.0, allowed=(2,)))) == [(0, 2)]


GLANCING = dial((1.0, 2.0, 4.0), again=(1.0, 0.4, 1.0), worst=(1.0, 2.25, 1.0), max_batch=1)
"""p1 is expected to take 2 seconds and may take 4.5: longer than p2."""


def test_who_is_in_a_call_is_held_to_what_it_may_take() -> None:
    either = Image(4.4, allowed=(0, 1))
    assert decide(OURS, view(either, of=GLANCING)) == [(0, 0)]
    assert decide(OURS, view(replace(either, deadline_s=4.5), of=GLANCING)) == [(0, 1)]
    assert decide(OURS, view(4.4, of=GLANCING)) == [(0, 2)], "the sure one is the more accurate"


def test_who_waits_behind_it_to_what_is_expected() -> None:
    waiting = [Image(6.4, allowed=(1,)), Image(6.4, allowed=(0,))]
    assert decide(OURS, view(Image(5.0, allowed=(0, 1)), *waiting, of=GLANCING)) == [(0, 0)]
    waiting = [Image(6.6, allowed=(1,)), Image(6.6, allowed=(0,))]
    assert decide(OURS, view(Image(5.0, allowed=(0, 1)), *waiting, of=GLANCING)) == [(0, 1)]


def test_whose_fastest_point_may_be_too_slow_gets_one_that_is_sure() -> None:
    # Nobody can wait behind it: the head alone is looked at.
    assert decide(OURS, view(Image(4.2, allowed=(1, 2)), 4.3, of=GLANCING)) == [(0, 2)]


def test_a_surer_point_serves_who_has_no_time_for_what_a_better_one_may_take() -> None:
    # p1 is expected to take 2 seconds and may take 4.5; p2 takes 4 and is a little worse.
    of = dial(
        (1.0, 2.0, 4.0),
        (0.7, 0.9, 0.89),
        again=(1.0, 0.4, 1.0),
        worst=(1.0, 2.25, 1.0),
        max_batch=1,
    )
    assert of.free == (0, 1, 2)
    assert decide(OURS, view(9.0, of=of)) == [(0, 1)]
    assert reasons(9.0, of=of) == ["best"]
    assert decide(OURS, view(4.4, of=of)) == [(0, 2)]
    assert reasons(4.4, of=of) == ["deadline"]
    assert decide(OURS, view(3.9, of=of)) == [(0, 0)]
    # It is no level for everybody: turns of p1 are worth more.
    assert decide(OURS, view(9.0, 9.0, 9.0, of=of)) == [(0, 1)]


def test_a_deadline_forbids_what_may_take_too_long() -> None:
    assert reasons(Image(4.4, allowed=(0, 1)), of=GLANCING) == ["deadline"]
    assert reasons(Image(4.6, allowed=(0, 1)), *[6.0] * 4, of=GLANCING) == ["load"]


CHEAPER = dial((2.0, 3.0, 5.0), fixed_s=1.0, max_batch=4)
"""A call costs one second, and every image 1, 2 or 4 more."""


def test_images_run_together_where_that_is_cheaper() -> None:
    assert decide(OURS, view(99.0, 99.0, 99.0, of=CHEAPER)) == [(0, 2), (1, 2), (2, 2)]
    assert decide(OURS, view(99.0, 99.0, 99.0, of=dial(max_batch=4))) == [(0, 2)]


def test_images_of_one_call_have_one_size_and_their_own_points() -> None:
    of = dial((2.0, 3.0, 5.0), fixed_s=1.0, max_batch=4, sizes=(32, 48, 48))
    mixed = [Image(99.0), Image(99.0, allowed=(0,)), Image(99.0, allowed=(1,))]
    assert decide(OURS, view(*mixed, of=of)) == [(0, 2), (2, 1)]


def test_nobody_waits_for_a_picture_that_is_not_there() -> None:
    seen = view(Image(99.0), Image(99.0, prepare_s=3.0), of=CHEAPER)
    assert decide(OURS, seen) == [(0, 2)]


def test_a_call_of_several_leaves_time_for_the_most_urgent_who_may_come() -> None:
    memory = OURS.decide(view(6.0, of=CHEAPER), OURS.start())[1]
    seen = view(99.0, 99.0, of=CHEAPER)
    decision, _ = OURS.decide(replace(seen, dial=CHEAPER), memory)
    assert len(decision.choices) == 1
    assert len(decide(OURS, seen)) == 2


def test_a_batch_is_in_time_for_its_first() -> None:
    assert decide(OURS, view(5.0, 99.0, of=CHEAPER))[0] == (0, 2)
    assert len(decide(OURS, view(5.0, 99.0, of=CHEAPER))) == 1


def test_a_mate_that_may_not_be_as_fast_makes_nobody_late_where_time_was_lost() -> None:
    slower = Image(5.0, allowed=(1,))
    assert decide(OURS, view(3.0, slower, of=CHEAPER, rate_hz=1.0)) == [(0, 0)]
    assert len(decide(OURS, view(4.0, slower, of=CHEAPER, rate_hz=1.0))) == 2


def test_reasons_say_what_forbade_better() -> None:
    assert reasons(9.0) == ["best"]
    assert reasons(2.5) == ["deadline"]
    assert reasons(*[9.0] * 6)[0] == "load"


def test_memory_is_a_value() -> None:
    seen = view(9.0, 9.0)
    decision, memory = OURS.decide(seen, OURS.start())
    assert OURS.decide(seen, memory)[0] == OURS.decide(seen, memory)[0] == decision
    assert decision.choices[0] == Choice(0, 2, "best")


def test_another_dial_is_looked_at_anew() -> None:
    _, memory = OURS.decide(view(9.0), OURS.start())
    fast = dial((0.1, 0.2, 0.4))
    assert OURS.decide(view(0.4, of=fast), memory)[0].choices[0].point == 2


def test_the_last_of_many_is_seen() -> None:
    # 100 in 100 s, each at its fastest: the head has no time to lose, though the near ones have.
    many = [200.0] * 99
    assert len(many) > NEAR + FAR
    one_by_one = dial(max_batch=1)
    assert decide(OURS, view(*many, 200.0, of=one_by_one)) == [(0, 1)]
    assert decide(OURS, view(*[100.0] * 100, of=one_by_one)) == [(0, 0)]


images = st.builds(
    Image,
    deadline_s=st.floats(0.1, 60.0),
    allowed=st.sampled_from([(0, 1, 2), (0, 1), (1,), (2,), (0,), (1, 2)]),
    prepare_s=st.sampled_from([0.0, 0.0, 0.5, 3.0]),
)
dials = st.sampled_from(
    [
        dial(),
        dial(max_batch=1),
        CHEAPER,
        dial(sizes=(24, 32, 32)),
        GLANCING,
        dial((2.0, 3.0, 5.0), fixed_s=1.0, max_batch=4, again=(0.3,) * 3, worst=(1.5, 3.0, 2.0)),
        dial(again=(0.0, 0.5, 1.0), worst=(3.0, 1.2, 1.0)),
        dial(accuracies=(0.7, 0.9, 0.89), again=(1.0, 0.4, 1.0), worst=(1.0, 2.25, 1.0)),
    ]
)


@given(
    waiting=st.lists(images, min_size=1, max_size=90),
    of=dials,
    free_s=st.floats(0.0, 5.0),
    margin=st.floats(1.0, 1.5),
    drift=st.floats(0.0, 1.0),
    rate_hz=st.floats(0.0, 5.0),
)
def test_decisions_can_be_carried_out_and_make_nobody_late(
    waiting: list[Image], of: Dial, free_s: float, margin: float, drift: float, rate_hz: float
) -> None:
    usual = 1.0 + drift * (margin - 1.0)
    waiting.sort(key=lambda image: image.deadline_s)
    seen = view(*waiting, of=of, free_s=free_s, margin=margin, rate_hz=rate_hz, usual=usual)
    decision, _ = OURS.decide(seen, OURS.start())
    check_decision(decision, seen)

    def planned_s(image: Image) -> float:
        return of.alone_s(image.allowed) * margin

    def expected_s(image: Image) -> float:
        return of.points[image.allowed[0]].seconds[0] * margin

    # All that admission would promise, each at its surest and others at their fastest, it keeps.
    queue: DeadlineQueue[Image] = DeadlineQueue(planned_s, expected_s)
    promised = []
    for image in waiting[:NEAR]:
        if image.prepare_s == 0.0 and queue.admission(image, 0.0, free_s).feasible:
            queue.add(image, timely=True)
            promised.append(image)
    if not promised:
        return
    seen = view(*promised, of=of, free_s=free_s, margin=margin, rate_hz=rate_hz, usual=usual)
    decision, _ = OURS.decide(seen, OURS.start())
    points = [choice.point for choice in decision.choices]
    chosen = {choice.position for choice in decision.choices}
    worst_s = free_s + of.worst_call_s(points) * margin
    assert all(worst_s <= promised[i].deadline_s + 1e-9 for i in chosen)
    # Who can only be sure at a slower point holds up others longer than the plan was.
    exact = all(of.surest(image.allowed) == image.allowed[0] for image in promised)
    begin_s = free_s + of.call_s(points) * margin
    for i, image in enumerate(promised):
        if i not in chosen:
            # What the whole batch costs is exact only for batches of one.
            if of.max_batch == 1 and exact:
                assert begin_s + planned_s(image) <= image.deadline_s + 1e-9
            begin_s += expected_s(image)
