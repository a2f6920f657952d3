"""Queue, batcher and executor together, whatever happens in whatever order, on a manual clock.

Every request has exactly one outcome, nobody is answered after leaving, who is due earlier is not
decided later, and when all is over nothing is held.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engines.core import UInt8Array
from engines.errors import EngineError, ImageError
from service.errors import Expired, Infeasible, NotReady, QueueFull
from service.images import Picture
from service.objectives import OnInfeasible
from service.request import Reply
from tests.service.manual import Crowd, ManualService, picture, small_pixels
from tests.service.scripted import pixels

SERVED = "colours"
MAX_QUEUE = 12
OUTCOMES = (Expired, Infeasible, QueueFull, NotReady, ImageError, EngineError)
PICTURES: Mapping[str, Callable[[], Picture]] = {
    "pixels": lambda: Picture.of_pixels(pixels()),
    "small pixels": small_pixels,
    "file": picture,
    "damaged file": lambda: picture(damaged=True),
}


class Lifecycle(RuleBasedStateMachine):
    """A service that is asked, left, run, delayed and broken at random."""

    def __init__(self) -> None:
        super().__init__()
        self.laud = ManualService(Crowd(), max_queue=MAX_QUEUE, max_queue_s=0.08, late_limit_s=0.5)
        self.asked: list[asyncio.Task[list[Reply]]] = []
        self.left: set[asyncio.Task[list[Reply]]] = set()
        self.ended: dict[asyncio.Task[list[Reply]], str] = {}
        self._watch_decisions()

    def _watch_decisions(self) -> None:
        """Note who is taken, and that nobody who waits was due before who is decided first."""
        batcher = self.laud.service.batcher
        decide = batcher._decider.decide

        def watched(queue: Any, now_s: float, free_s: float) -> Any:
            plan = decide(queue, now_s, free_s)
            timely = queue.timely()
            if plan is not None and timely:
                assert min(r.deadline_s for r in plan.requests) == timely[0].deadline_s
            return plan

        batcher._decider.decide = watched  # type: ignore[method-assign]

    def teardown(self) -> None:
        """All comes to its end; then nothing is held, and the outcomes sum to the requests."""
        self.laud.engine.fault = lambda images: None
        self.laud.finish()
        # Whoever agreed to a late answer is given up after a while, too.
        self.laud.advance(60.0)
        self.laud.finish()
        assert all(task.done() for task in self.asked)
        outcomes = Counter(map(outcome, self.asked))
        assert sum(outcomes.values()) == len(self.asked)
        self.gauges_are_back()
        self.laud.close()
        assert self.laud.complaints == []

    def gauges_are_back(self) -> None:
        """Nothing waits, runs, or is accounted for."""
        service = self.laud.service
        value = service.metrics.registry.get_sample_value
        assert value("laud_images_in_flight") == 0
        assert value("laud_images_in_flight_bytes") == 0
        assert value("laud_queue_depth", {"model": SERVED}) == 0
        assert service.memory.used == 0
        assert service.batcher.is_idle or not service.batcher.is_alive

    @rule(
        slo_s=st.sampled_from([0.004, 0.012, 0.03, 0.1, 5.0]),
        kinds=st.lists(st.sampled_from(sorted(PICTURES)), min_size=1, max_size=3),
        pinned=st.sampled_from([None, None, "full", "small"]),
        on_infeasible=st.sampled_from(["degrade", "reject"]),
    )
    def ask(
        self, slo_s: float, kinds: Sequence[str], pinned: str | None, on_infeasible: OnInfeasible
    ) -> None:
        self.asked.append(
            self.laud.ask(
                slo_s,
                pinned=pinned,
                on_infeasible=on_infeasible,
                pictures=[PICTURES[kind]() for kind in kinds],
            )
        )

    @precondition(lambda self: any(not task.done() for task in self.asked))
    @rule(data=st.data())
    def one_leaves(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from([task for task in self.asked if not task.done()]))
        task.cancel()
        self.laud.settle()
        assert task.cancelled()
        self.left.add(task)

    @rule()
    def the_engine_runs(self) -> None:
        self.laud.run_engine()

    @rule()
    def a_picture_is_decoded(self) -> None:
        self.laud.decode()

    @rule(seconds=st.sampled_from([0.0005, 0.003, 0.01, 0.05, 0.7]))
    def time_passes(self, seconds: float) -> None:
        self.laud.advance(seconds)

    @rule(pace=st.sampled_from([0.2, 1.0, 5.0]))
    def the_machine_changes(self, pace: float) -> None:
        self.laud.engine.pace = pace

    @rule(fails=st.booleans())
    def the_engine_fails_or_is_mended(self, fails: bool) -> None:
        def broken(images: UInt8Array) -> None:
            raise EngineError("broken for a while")

        self.laud.engine.fault = broken if fails else lambda images: None

    @precondition(lambda self: len(self.asked) > 8)
    @rule()
    def the_batcher_fails(self) -> None:
        def broken(*args: object) -> None:
            raise RuntimeError("a bug")

        self.laud.service.batcher._queue.sweep = broken  # type: ignore[assignment, method-assign]

    @invariant()
    def an_outcome_is_one_of_those_there_are_and_stays(self) -> None:
        for task in self.asked:
            if task.done():
                found = outcome(task)
                assert self.ended.setdefault(task, found) == found
                assert (found == "cancelled") == (task in self.left)

    @invariant()
    def no_more_is_held_than_may_be(self) -> None:
        service = self.laud.service
        assert 0 <= service._images <= MAX_QUEUE
        still_open = any(not task.done() for task in self.asked)
        assert (service._images > 0) == still_open
        # What is decoded or runs is held until that ends, whoever left.
        if still_open or service.batcher.is_idle:
            assert (service.memory.used > 0) == still_open

    @invariant()
    def the_death_of_the_batcher_ends_readiness_and_waiting(self) -> None:
        batcher = self.laud.service.batcher
        if not batcher.is_alive:
            assert not self.laud.service.is_ready
            assert batcher.depth(SERVED) == 0


def outcome(task: asyncio.Task[list[Reply]]) -> str:
    """Answered, cancelled, or the error's name, which is one of those that may be."""
    if task.cancelled():
        return "cancelled"
    error = task.exception()
    if error is None:
        return "answered"
    assert isinstance(error, OUTCOMES)
    return type(error).__name__


TestLifecycle = Lifecycle.TestCase
TestLifecycle.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
