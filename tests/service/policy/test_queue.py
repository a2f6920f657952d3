"""The queue: earliest deadline first, the lost set apart, admission that hurts nobody."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.policy.queue import Admission, DeadlineQueue
from tests.service.policy.waiting import Image

# Whole numbers of seconds: sums of them are exact, so that a model can be compared exactly.
ALONE_S = {("a", 0): 2.0, ("a", 1): 3.0, ("b", 0): 5.0}
SHARE_S = {("a", 0): 1.0, ("a", 1): 2.0, ("b", 0): 5.0}


def kind(image: Image) -> tuple[str, int]:
    return image.model, image.allowed[0]


def queue_of(
    *images: Image, planned_s: Callable[[Image], float] = lambda image: 1.0
) -> DeadlineQueue[Image]:
    queue: DeadlineQueue[Image] = DeadlineQueue(planned_s)
    for image in images:
        queue.add(image, timely=True)
    return queue


def test_an_empty_queue_takes_what_an_idle_engine_can_do() -> None:
    queue = queue_of()
    assert queue.admission(Image(3.0), now_s=2.0, free_s=0.0) == Admission(True, 3.0, 1.0)
    assert not queue.admission(Image(2.9), now_s=2.0, free_s=0.0).feasible


def test_who_may_have_less_is_planned_for_by_himself() -> None:
    """The same fastest point may take longer than another that only one of them may have."""
    alone_s = {(0,): 5.0, (0, 1): 2.0}
    queue = queue_of(Image(9.0, allowed=(0, 1)), planned_s=lambda image: alone_s[image.allowed])
    queue.add(Image(9.0, allowed=(0,)), timely=True)
    assert queue.backlog_s() == 7.0
    (hopeless,) = queue.sweep(4.5, 4.5, late_limit_s=9.0) or queue.late()
    assert hopeless.allowed == (0,)


def test_the_engine_may_be_busy_and_the_picture_not_decoded() -> None:
    queue = queue_of()
    assert queue.admission(Image(9.0), now_s=0.0, free_s=4.0).done_s == 5.0
    assert queue.admission(Image(9.0, prepare_s=6.0), now_s=0.0, free_s=4.0).done_s == 7.0


def test_who_is_due_later_waits() -> None:
    queue = queue_of(Image(1.0), Image(2.0))
    assert queue.admission(Image(3.0), 0.0, 0.0) == Admission(True, 3.0, 3.0)
    assert not queue.admission(Image(2.5), 0.0, 0.0).feasible


def test_nobody_is_made_late_by_who_is_due_earlier() -> None:
    queue = queue_of(Image(10.0), Image(1.5))
    assert queue.admission(Image(5.0), 0.0, 0.0).feasible
    assert not queue.admission(Image(1.2), 0.0, 0.0).feasible


def test_who_would_be_late_anyway_forbids_nothing() -> None:
    queue = queue_of(Image(1.5), Image(1.6))
    found = queue.admission(Image(2.0), 0.0, 0.0)
    assert found.feasible
    assert found.done_s == 2.0


def test_of_one_deadline_who_came_first_goes_first() -> None:
    first, second = Image(5.0), Image(5.0)
    assert queue_of(first, second).timely() == [first, second]


def test_late_ones_come_after_timely_ones_and_by_arrival() -> None:
    queue = queue_of(Image(9.0, name="timely"))
    for name in ("x", "y"):
        queue.add(Image(-1.0, name=name), timely=False)
    assert [image.name for image in queue] == ["timely", "x", "y"]


def test_what_cannot_be_in_time_any_more_is_set_apart_or_given_up() -> None:
    agreed, refused, fine = Image(1.5), Image(1.6, degrade=False), Image(2.0)
    queue = queue_of(agreed, refused, fine)
    assert queue.sweep(now_s=1.0, free_s=0.0, late_limit_s=10.0) == [refused]
    assert queue.timely() == [fine]
    assert queue.late() == [agreed]


def test_a_late_answer_is_worth_something_for_a_while() -> None:
    image = Image(1.0)
    queue = queue_of(image)
    assert queue.sweep(11.0, 0.0, late_limit_s=10.0) == []
    assert queue.sweep(11.5, 0.0, late_limit_s=10.0) == [image]
    assert len(queue) == 0


def test_one_model_can_be_looked_at() -> None:
    ours, other = Image(2.0), Image(1.0, model="other")
    assert queue_of(ours, other).timely("model") == [ours]


def test_a_slower_machine_counts_at_once() -> None:
    planned = [1.0]
    queue = queue_of(Image(4.0), planned_s=lambda image: planned[0])
    assert queue.admission(Image(4.0), 0.0, 0.0).feasible
    planned[0] = 3.0
    assert not queue.admission(Image(4.0), 0.0, 0.0).feasible
    assert queue.backlog_s() == 3.0


def test_full_batches_leave_room_for_more() -> None:
    alone = DeadlineQueue[Image](lambda image: 2.0)
    together = DeadlineQueue[Image](lambda image: 2.0, lambda image: 1.0)
    for queue in (alone, together):
        for _ in range(3):
            queue.add(Image(9.0), timely=True)
    # Three of a batch with it are done when the fixed part was paid once.
    assert alone.admission(Image(9.5), 0.0, 0.0).done_s == 8.0
    assert together.admission(Image(9.5), 0.0, 0.0).done_s == 5.0


def test_what_does_not_wait_cannot_be_removed() -> None:
    queue, image = queue_of(), Image(1.0)
    assert not queue.remove(image)
    queue.add(image, timely=True)
    assert image in queue
    assert queue.remove(image)
    assert image not in queue


def test_nothing_of_who_left_is_kept() -> None:
    queue = queue_of(Image(1.0, num_bytes=10))
    queue.add(Image(1.0, num_bytes=5), timely=False)
    assert queue.num_bytes == 15
    for image in list(queue):
        queue.remove(image)
    assert queue.num_bytes == 0
    assert queue.backlog_s() == 0.0


class QueueModel(RuleBasedStateMachine):
    """The queue against one that does everything anew, the slow and obvious way."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = 1.0
        self.queue: DeadlineQueue[Image] = DeadlineQueue(
            lambda image: self.scale * ALONE_S[kind(image)],
            lambda image: self.scale * SHARE_S[kind(image)],
        )
        self.timely: list[Image] = []
        self.late: list[Image] = []
        self.now_s = self.free_s = 0.0

    def in_time(self, images: list[Image]) -> dict[Image, float]:
        """Those that are in time, everything at its fastest, and when each is done."""
        at_s, found = max(self.now_s, self.free_s), {}
        for image in sorted(images, key=lambda image: image.deadline_s):
            begin_s = max(at_s, self.now_s + image.prepare_s)
            done_s = begin_s + self.scale * ALONE_S[kind(image)]
            if done_s <= image.deadline_s:
                found[image] = done_s
                at_s = begin_s + self.scale * SHARE_S[kind(image)]
        return found

    @rule(
        of=st.sampled_from(sorted(ALONE_S)),
        slack_s=st.integers(0, 40),
        prepare_s=st.integers(0, 4),
        degrade=st.booleans(),
    )
    def arrive(self, of: tuple[str, int], slack_s: int, prepare_s: int, degrade: bool) -> None:
        image = Image(
            self.now_s + slack_s,
            allowed=(of[1], 7),
            model=of[0],
            degrade=degrade,
            prepare_s=prepare_s,
        )
        before, after = self.in_time(self.timely), self.in_time([*self.timely, image])
        found = self.queue.admission(image, self.now_s, self.free_s)
        assert found.feasible == (image in after and before.keys() <= after.keys())
        if found.feasible:
            assert found.done_s == after[image]
        assert found.backlog_s == self.queue.backlog_s() + self.scale * SHARE_S[of]
        self.queue.add(image, timely=found.feasible)
        (self.timely if found.feasible else self.late).append(image)

    @rule(passed_s=st.integers(0, 5), busy_s=st.integers(0, 5))
    def time_passes(self, passed_s: int, busy_s: int) -> None:
        self.now_s += passed_s
        self.free_s = self.now_s + busy_s

    @rule(scale=st.sampled_from([1.0, 2.0]))
    def the_machine_changes(self, scale: float) -> None:
        self.scale = scale

    @precondition(lambda self: self.timely or self.late)
    @rule(data=st.data())
    def one_leaves(self, data: st.DataObject) -> None:
        image = data.draw(st.sampled_from([*self.timely, *self.late]))
        assert self.queue.remove(image)
        (self.timely if image in self.timely else self.late).remove(image)

    @rule(late_limit_s=st.integers(0, 20))
    def sweep(self, late_limit_s: int) -> None:
        lost = [
            image
            for image in sorted(self.timely, key=lambda image: image.deadline_s)
            if max(self.free_s, self.now_s + image.prepare_s) + self.scale * ALONE_S[kind(image)]
            > image.deadline_s
        ]
        self.timely = [image for image in self.timely if image not in lost]
        self.late += [image for image in lost if image.degrade]
        over = [i for i in self.late if self.now_s > i.deadline_s + late_limit_s]
        self.late = [image for image in self.late if image not in over]
        expired = self.queue.sweep(self.now_s, self.free_s, late_limit_s)
        assert expired == [image for image in lost if not image.degrade] + over

    @invariant()
    def agrees(self) -> None:
        timely = sorted(self.timely, key=lambda image: image.deadline_s)
        assert self.queue.timely() == timely
        assert self.queue.late() == self.late
        assert list(self.queue) == timely + self.late
        assert len(self.queue) == self.queue.num_bytes == len(timely) + len(self.late)
        assert self.queue.backlog_s() == sum(
            self.scale * SHARE_S[kind(image)] for image in self.queue
        )


TestQueueModel = QueueModel.TestCase
TestQueueModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("waiting", [0, 1, 300])
def test_admission_asks_for_each_cost_once_however_many_wait(waiting: int) -> None:
    asked: list[Image] = []

    def planned_s(image: Image) -> float:
        asked.append(image)
        return 0.001

    queue = queue_of(*(Image(1.0 + i) for i in range(waiting)), planned_s=planned_s)
    asked.clear()
    queue.admission(Image(0.5), 0.0, 0.0)
    queue.sweep(0.0, 0.0, 1.0)
    assert len(asked) <= 7
