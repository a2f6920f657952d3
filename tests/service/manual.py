"""A service whose time and threads are the test's: nothing happens until the test says so.

The engine's calls take what the script says they take, on a clock that nobody else moves.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from engines.manifest import Manifest
from service.decode_costs import DecodeCosts
from service.executor import Profiler
from service.images import Picture
from service.model import Model
from service.objectives import Objective, OnInfeasible
from service.policy.core import Choice, Decision, Policy, View
from service.request import Exchange, Reply
from service.service import Service
from service.settings import Settings
from service.world import World
from tests.service.scripted import (
    HASH,
    SMALL,
    ScriptedEngine,
    jpeg,
    loader_of,
    manifest,
    pixels,
    profile,
)

T = TypeVar("T")

MARGIN = 1.25
"""Planning quantile over median of calls that nobody measured yet (service.profile)."""


class Crowd:
    """A policy that takes the head and those behind it who may run at the same point with it.

    views: what it was shown.
    """

    name = "crowd"

    def __init__(self) -> None:
        self.views: list[View] = []

    def start(self) -> None:
        """It remembers nothing."""

    def decide(self, view: View, memory: None) -> tuple[Decision, None]:
        """See `service.policy.core.Policy`."""
        self.views.append(view)
        point = view.waiting[0].allowed[-1]
        mates = [place for place, item in enumerate(view.waiting) if point in item.allowed]
        choices = [Choice(place, point, "best") for place in mates[: view.dial.max_batch]]
        return Decision(tuple(choices)), None


class ManualTime:
    """A clock that stands still until it is told to go on, and what is to be called when."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self._calls: list[tuple[float, int, Call]] = []
        self._order = itertools.count()

    def __call__(self) -> float:
        return self.now_s

    def spend(self, seconds: float) -> None:
        """Time passes and nobody is called, as while a thread works."""
        self.now_s += seconds

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Call:
        """As the event loop's."""
        call = Call(callback)
        heapq.heappush(self._calls, (self.now_s + max(delay_s, 0.0), next(self._order), call))
        return call

    @property
    def next_s(self) -> float | None:
        """When the next call is due; None when there is none."""
        while self._calls and self._calls[0][2].is_cancelled:
            heapq.heappop(self._calls)
        return self._calls[0][0] if self._calls else None

    def advance(self, seconds: float) -> None:
        """Time passes, and what becomes due is called, in order and at its time."""
        until_s = self.now_s + seconds
        while (next_s := self.next_s) is not None and next_s <= until_s:
            self.now_s = max(self.now_s, next_s)
            heapq.heappop(self._calls)[2].callback()
        self.now_s = max(self.now_s, until_s)


class Call:
    """Something to be called later."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback = callback
        self.is_cancelled = False

    def cancel(self) -> None:
        """Do not call it."""
        self.is_cancelled = True


class ManualPool(concurrent.futures.Executor):
    """Does the oldest work that was submitted when it is told to, in the thread of the test."""

    def __init__(self) -> None:
        self._works: deque[tuple[concurrent.futures.Future[Any], Callable[[], Any]]] = deque()

    def __len__(self) -> int:
        """Works that wait; cancelled ones do not."""
        return sum(not future.cancelled() for future, _ in self._works)

    def submit(self, work: Any, /, *args: Any, **kwargs: Any) -> Any:
        """See `concurrent.futures.Executor`."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._works.append((future, lambda: work(*args, **kwargs)))
        return future

    def run_next(self) -> bool:
        """Do one work; false when there is none."""
        while self._works:
            future, work = self._works.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = work()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)
            return True
        return False


class ManualService:
    """A started service in such a world, and the means to make things happen in it."""

    def __init__(
        self,
        policy: Policy | None = None,
        *,
        served: Manifest | None = None,
        profiler: Profiler = profile,
        **settings: Any,
    ) -> None:
        self.time = ManualTime()
        self.engine = ScriptedEngine()
        self.engines, self.decodes = ManualPool(), ManualPool()
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(self._complain)
        self.complaints: list[str] = []
        self._tasks: list[asyncio.Task[Any]] = []
        self.service = Service(
            Settings(**settings),
            loader_of(Model(served or manifest(), HASH, self.engine)),
            profiler,
            policy=policy,
            decode_costs=DecodeCosts(),
            world=World(
                clock=self.time,
                process_time=lambda: 0.0,
                thread_time=lambda: 0.0,
                call_later=self.time.call_later,
                engine_pool=self.engines,
                decode_pool=self.decodes,
            ),
        )
        start = self.spawn(self.service.start())
        self.engines.run_next()
        self.settle()
        start.result()
        self.engine.batches.clear()
        self.engine.spend = self.time.spend

    def close(self) -> None:
        """Stop the service and the loop."""
        stop = self.spawn(self.service.stop())
        while self.engines.run_next():
            pass
        self.settle()
        stop.result()
        for task in self._tasks:
            # A test need not look at every error; that a reply's error was seen is checked.
            if task.done() and not task.cancelled():
                task.exception()
        gc.collect()
        self.loop.close()

    def settle(self) -> None:
        """Let the event loop do all that can be done now."""
        for _ in range(12):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin something on the loop."""
        task = self.loop.create_task(work)
        self._tasks.append(task)
        self.settle()
        return task

    def ask(
        self,
        slo_s: float = 60.0,
        *,
        pinned: str | None = None,
        min_accuracy: float | None = None,
        on_infeasible: OnInfeasible = "degrade",
        pictures: Sequence[Picture] | None = None,
        exchange: Exchange | None = None,
    ) -> asyncio.Task[list[Reply]]:
        """A request for pixels of the size of `full`, unless other pictures are given."""
        objective = Objective(
            slo_s,
            "custom",
            min_accuracy=min_accuracy,
            pinned=pinned,
            on_infeasible=on_infeasible,
        )
        return self.spawn(
            self.service.answer(
                self.service.find_model(None),
                [Picture.of_pixels(pixels())] if pictures is None else pictures,
                objective,
                exchange or Exchange("test", self.time()),
            )
        )

    def run_engine(self) -> bool:
        """Let the engine run the next batch it was given, which takes its time."""
        ran = self.engines.run_next()
        self.settle()
        return ran

    def decode(self) -> bool:
        """Let a thread decode the next picture."""
        decoded = self.decodes.run_next()
        self.settle()
        return decoded

    def advance(self, seconds: float) -> None:
        """Time passes."""
        self.loop.call_soon(self.time.advance, seconds)
        self.settle()

    def finish(self) -> None:
        """Run everything that was begun to its end."""
        while self.run_engine() or self.decode():
            pass

    def _complain(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.complaints.append(f"{context.get('message')}: {context.get('exception')!r}")


Manual = Callable[..., ManualService]
"""The fixture `manual`: a service of this kind, with a policy and settings."""


def reply(task: asyncio.Task[list[Reply]]) -> Reply:
    """The only one of a request that was answered."""
    (only,) = task.result()
    return only


def ran(service: ManualService) -> list[tuple[str, ...]]:
    """The points of every batch."""
    return service.engine.batches


def picture(colour: str = "red", *, damaged: bool = False) -> Picture:
    """A JPEG, the end of which may be missing."""
    data = jpeg(colour)
    return Picture.encoded(data[:-40] if damaged else data, max_pixels=10_000)


def slow_to_decode(laud: ManualService, seconds: float = 0.1) -> None:
    """Files have taken so long, lately."""
    header = picture().header
    assert header is not None
    for _ in range(4):
        laud.service.decode_costs.observe(header, 32, seconds)


def small_pixels() -> Picture:
    """Pixels of the size of `small`."""
    return Picture.of_pixels(pixels(size=SMALL))
