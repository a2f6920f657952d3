"""Whatever happens in whatever order: every request has one outcome, and nothing is left behind."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from prometheus_client import Gauge

from engines.core import UInt8Array
from engines.errors import ImageError
from service.errors import Expired, Infeasible, QueueFull
from service.families import Family
from service.images import Picture
from service.objectives import OnInfeasible
from service.policy.core import Choice, Decision, View
from service.request import Reply, Request
from tests.service.manual import ManualService, picture, small_pixels
from tests.service.scripted import pixels

KINDS: dict[str, Callable[[], list[Picture]]] = {
    "pixels": lambda: [Picture.of_pixels(pixels())],
    "small pixels": lambda: [small_pixels()],
    "file": lambda: [picture()],
    "damaged": lambda: [picture(damaged=True)],
    "three": lambda: [picture("red"), Picture.of_pixels(pixels("green")), picture("blue")],
    "three, one damaged": lambda: [picture(), picture(damaged=True), picture()],
}
FAULTS: tuple[BaseException | None, ...] = (
    None,
    RuntimeError("broken"),
    MemoryError(),
    StopIteration(),
    KeyboardInterrupt(),
)


class Head:
    """A policy that takes whoever is due first, with whom a dial lets run along, anywhere on it."""

    name = "head"

    def __init__(self) -> None:
        self.steps = 0

    def start(self) -> None:
        """It remembers nothing."""

    def decide(self, view: View, memory: None) -> tuple[Decision, None]:
        """See `service.policy.core.Policy`."""
        deadlines = [item.deadline_s for item in view.waiting]
        assert deadlines == sorted(deadlines), "the earliest deadline is first"
        self.steps += 1
        head = view.waiting[0]
        point = head.allowed[self.steps % len(head.allowed)]
        mates = [n for n, item in enumerate(view.waiting) if point in item.allowed]
        count = 1 + self.steps % view.dial.max_batch
        return Decision(tuple(Choice(n, point, "best") for n in mates[:count])), None


class Crowds(RuleBasedStateMachine):
    """Requests of all kinds come and go while threads and the engine do as they like."""

    def __init__(self) -> None:
        super().__init__()
        self.laud = ManualService(Head(), max_queue=12, max_queue_s=0.1, late_limit_s=0.2)
        self.laud.engine.fault = self._break
        self.fault: BaseException | None = None
        self.asked: list[asyncio.Task[list[Reply]]] = []
        self.cancelled: set[asyncio.Task[list[Reply]]] = set()

    def _break(self, images: UInt8Array) -> None:
        if self.fault is not None:
            raise self.fault

    @rule(
        slo_s=st.sampled_from([0.003, 0.012, 0.03, 0.1, 5.0]),
        pinned=st.sampled_from([None, None, "full", "small"]),
        on_infeasible=st.sampled_from(["degrade", "reject"]),
        kind=st.sampled_from(sorted(KINDS)),
    )
    def ask(self, slo_s: float, pinned: str | None, on_infeasible: OnInfeasible, kind: str) -> None:
        """A request of one or three images."""
        pictures = KINDS[kind]()
        asked = self.laud.ask(slo_s, pinned=pinned, on_infeasible=on_infeasible, pictures=pictures)
        self.asked.append(asked)

    @precondition(lambda self: self.live())
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """A client closes its connection."""
        task = data.draw(st.sampled_from(self.live()))
        task.cancel()
        self.laud.settle()
        assert task.cancelled()
        self.cancelled.add(task)

    @rule()
    def run_engine(self) -> None:
        """The engine runs what it was given next."""
        self.laud.run_engine()

    @rule(fault=st.sampled_from(FAULTS))
    def break_engine(self, fault: BaseException | None) -> None:
        """From now on the engine fails, or works again."""
        self.fault = fault

    @rule()
    def decode(self) -> None:
        """A thread decodes the next picture."""
        self.laud.decode()

    @rule(seconds=st.sampled_from([0.001, 0.004, 0.01, 0.05, 0.5]))
    def advance(self, seconds: float) -> None:
        """Time passes."""
        self.laud.advance(seconds)

    @rule(pace=st.sampled_from([0.5, 1.0, 4.0]))
    def change_pace(self, pace: float) -> None:
        """The machine gets slower or faster than it was measured."""
        self.laud.engine.pace = pace

    @rule(seconds=st.sampled_from([0.0003, 0.03]))
    def learn_decoding(self, seconds: float) -> None:
        """Decoding was found to take so long, lately: the engine does short ones itself."""
        header = picture().header
        assert header is not None
        for _ in range(64):
            self.laud.service.decode_costs.observe(header, 32, seconds)

    @invariant()
    def gauges_are_what_is_there(self) -> None:
        """Images in flight are those of the live requests, and hold memory as long as they are."""
        metrics, live = self.laud.service.metrics, len(self.live())
        in_flight = value_of(metrics.in_flight)
        assert live <= in_flight <= 3 * live
        assert value_of(metrics.in_flight_bytes) >= in_flight
        assert 0 <= value_of(metrics.queue_depth) <= in_flight

    @invariant()
    def it_lives(self) -> None:
        """No engine, client or file ends the service."""
        assert self.laud.service.is_ready

    def live(self) -> list[asyncio.Task[list[Reply]]]:
        """Requests without an outcome."""
        return [task for task in self.asked if not task.done()]

    def teardown(self) -> None:
        """In the end everybody has one outcome, and the service is as if nobody had come."""
        self.fault = None
        self.laud.finish()
        self.laud.advance(0.3)
        self.laud.finish()
        outcomes = Counter(outcome(task) for task in self.asked)
        assert sum(outcomes.values()) == len(self.asked)
        assert outcomes["cancelled"] == len(self.cancelled)
        service = self.laud.service
        assert service.batcher.is_idle
        assert service.memory.used == 0
        metrics = service.metrics
        for gauge in (metrics.in_flight, metrics.in_flight_bytes, metrics.queue_predicted):
            assert value_of(gauge) == 0
        assert [task.get_name() for task in asyncio.all_tasks(self.laud.loop)] == ["lag"]
        self.laud.close()
        assert self.laud.complaints == []


def value_of(gauge: Gauge | Family[Gauge]) -> float:
    """Of a gauge with one series."""
    ((sample,),) = (family.samples for family in gauge.collect())
    return float(sample.value)


def outcome(task: asyncio.Task[list[Reply]]) -> str:
    """What became of a request."""
    assert task.done(), "nobody waits for ever"
    if task.cancelled():
        return "cancelled"
    match task.exception():
        case None:
            assert all(isinstance(reply, Reply) for reply in task.result())
            return "answered"
        case Infeasible() | QueueFull() | Expired() as error:
            return error.code
        case ImageError():
            return "damaged"
        case error:
            assert str(error) in ("broken", "") or "the engine raised" in str(error)
            return "error"


TestCrowds = Crowds.TestCase
TestCrowds.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)


def test_a_reply_is_given_once_and_only_to_who_waits() -> None:
    laud = ManualService()
    request = Request(
        model="colours",
        picture=small_pixels(),
        arrived_s=0.0,
        deadline_s=1.0,
        allowed=(0,),
        degrade=True,
        prepare_s=0.0,
        reply=laud.loop.create_future(),
    )
    request.resolve(ValueError("first"))
    request.resolve(ValueError("second"))
    with pytest.raises(ValueError, match="first"):
        request.reply.result()
    left: asyncio.Future[Reply] = laud.loop.create_future()
    left.cancel()
    request.reply = left
    request.resolve(ValueError("nobody listens"))
    assert left.cancelled()
    request.reply = laud.loop.create_future()
    request.resolve(StopIteration())
    with pytest.raises(RuntimeError, match="StopIteration"):
        request.reply.result()
    laud.close()
