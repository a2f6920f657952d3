"""The batcher owns the queue of all models: admits, decides the next batch, has it decoded and run.

Nothing waits on a timer for company. A batch is decided when the engine is free, or earlier by the
time that its decoding takes: decoding overlaps with the batch before it, points are bound as late
as they can be, and nothing is decoded for a point that is not used. Everything happens on the
event loop, in short steps that an event begins: an arrival, the end of a decode or of a batch, or
one of two alarms (the next batch is due; somebody's time is up).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import ParamSpec, Protocol

import structlog

from engines.core import OperatingPoint
from service.admission import Limits, admit
from service.alarm import Alarm, CallLater
from service.costs import ModelCosts
from service.deciding import Decider, Plan
from service.decoding import Decoded, Preparation
from service.errors import Expired, NotReady
from service.flight import Flight, free_s
from service.policy.queue import DeadlineQueue
from service.request import Batch, Reply, Request

P = ParamSpec("P")

_log = structlog.get_logger("laud")

_GRAIN_S = 0.001
"""Alarms of the event loop are that coarse: what is due so soon is due."""
_INSIDE = 2
"""Batches that the runner has: one runs, and the next begins without waiting for the loop."""
_DECIDED = 3
"""Batches that may be ready or running where the next is still to be decoded meanwhile."""


class Runner(Protocol):
    """What runs batches one after another: the executor."""

    def run(self, batch: Batch) -> asyncio.Future[list[Reply | Exception]]:
        """One outcome per request, in order."""


class Watcher(Protocol):
    """Who wants to know: the metrics."""

    def observe_batch(self, batch: Batch) -> None:
        """A batch was handed to the runner."""

    def observe_service(self, batch: Batch, p50_s: float, p95_s: float, service_s: float) -> None:
        """A batch ran: quantiles of its service time as predicted, and what it took."""


class Batcher:
    """Between admission and the engine. Not for threads: the running event loop's only."""

    def __init__(
        self,
        runner: Runner,
        preparation: Preparation,
        queue: DeadlineQueue[Request],
        decider: Decider,
        costs: Mapping[str, ModelCosts],
        points: Mapping[str, Sequence[OperatingPoint]],
        watcher: Watcher,
        *,
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
        call_later: CallLater | None = None,
    ) -> None:
        """points: of every model, in the order of its dial. call_later: the event loop's, unless a
        test owns the time."""
        self._runner = runner
        self._preparation = preparation
        self._queue = queue
        self._decider = decider
        self._costs = costs
        self._points = points
        self._watcher = watcher
        self._limits = limits
        self._clock = clock
        self._due = Alarm(clock, self._guarded(self._step), call_later)
        self._lapse = Alarm(clock, self._guarded(self._lapsed), call_later)
        self._soon: asyncio.Handle | None = None
        self._ahead: list[Flight] = []
        self._inside: deque[Flight] = deque()
        self._alive = False

    @property
    def is_alive(self) -> bool:
        """Whether requests are being dispatched; false before the start and after a failure."""
        return self._alive

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits, is decoded or runs."""
        return not (len(self._queue) or self._ahead or self._inside)

    @property
    def backlog_s(self) -> float:
        """Planned seconds until all that is here is done, what waits at its fastest."""
        now_s = self._clock()
        return self._queue.backlog_s() + self._free_s(now_s) - now_s

    def depth(self, model: str) -> int:
        """Images of a model that wait to be chosen."""
        return sum(request.model == model for request in self._queue)

    def start(self) -> None:
        """Take requests from now on."""
        self._alive = True

    def stop(self) -> None:
        """Dispatch nothing more; whoever still waits gets NotReady."""
        self._end()

    def submit(self, requests: Sequence[Request]) -> None:
        """Let the images of one HTTP request wait for their replies: all of them, or none.

        Raises NotReady when there never would be one, QueueFull, Infeasible.
        """
        if not self._alive:
            raise NotReady("the batcher is not running")
        now_s = self._clock()
        self._decider.arrived(requests, now_s)
        admit(self._queue, requests, self._fastest_s, now_s, self._free_s(now_s), self._limits)
        for request in requests:
            request.queued_s = now_s
            self._lapse.at_latest(self._lapses_s(request) + _GRAIN_S)
        # One step for all that arrives in this turn of the loop.
        if self._soon is None:
            loop = asyncio.get_running_loop()
            self._soon = loop.call_soon(self._guarded(self._arrived))

    def discard(self, request: Request) -> None:
        """Forget a request whose caller has left, or has its reply.

        One that waits is gone at once; one that is being decoded or runs finishes unheard.
        """
        if request.is_wanted:
            request.reply.cancel()
        elif not request.reply.cancelled():
            request.reply.exception()  # seen: asyncio need not complain that nobody read it
        if request.point is None:
            self._queue.remove(request)
            return
        for flight in self._ahead:
            if request in flight.decoding:
                flight.decoding[request].cancel()

    def _arrived(self) -> None:
        self._soon = None
        self._step()

    def _step(self) -> None:
        """Hand over what is ready, decide what is due, and set the alarm for what comes next."""
        now_s = self._clock()
        self._hand_over()
        while (due_s := self._due_s(now_s)) <= now_s + _GRAIN_S:
            self._decide(now_s)
            self._hand_over()
        self._due.set(due_s - _GRAIN_S)

    def _due_s(self, now_s: float) -> float:
        """When the next batch should be decided, for its pixels to be there when it may run.

        Infinite where an event has to come first: an arrival, or the end of a decode or a batch.
        """
        if not len(self._queue):
            return math.inf
        # Of as many as there may be: how many there will be is open.
        most = max(costs.dial.max_batch for costs in self._costs.values())
        prepare_s = self._preparation.expected_s(islice(self._queue, most))
        decoding = sum(flight.threads for flight in self._ahead)
        ready = len(self._inside) + sum(not flight.decoding for flight in self._ahead)
        is_full = ready >= _DECIDED or decoding >= self._preparation.width
        if is_full if prepare_s > 0.0 else ready >= _INSIDE:
            return math.inf
        if not self._ahead and not self._inside:
            return now_s
        return self._free_s(now_s, expected=True) - prepare_s

    def _free_s(self, now_s: float, *, expected: bool = False) -> float:
        if not (self._inside or self._ahead):
            return now_s
        longest_s = max(costs.longest_s for costs in self._costs.values())
        return free_s(self._inside, self._ahead, now_s, longest_s, expected=expected)

    def _decide(self, now_s: float) -> None:
        """Choose the next batch of those that wait, if anybody is left, and begin to decode it."""
        planned_s = self._free_s(now_s)
        self._expire(now_s, planned_s)
        plan = self._decider.decide(self._queue, now_s, planned_s)
        if plan is None:
            return
        for request, place, reason in zip(plan.requests, plan.places, plan.reasons, strict=True):
            request.point, request.reason = self._points[plan.model][place], reason
        groups = self._preparation.groups(plan.requests)
        flight = self._flight(plan, self._preparation.takes_s(groups), now_s, planned_s)
        if len(plan.requests) == 1 and not self._ahead and not self._inside:
            flight.inline = self._preparation.is_short(plan.requests[0])
        self._ahead.append(flight)
        for request in plan.requests:
            self._queue.remove(request)
        if not flight.inline:
            self._begin_decode(flight, groups)

    def _flight(self, plan: Plan, prepare_s: float, now_s: float, planned_s: float) -> Flight:
        p50_s, p95_s = self._costs[plan.model].predict(plan.places)
        ready_s = now_s + prepare_s
        begin_s = max(self._free_s(now_s, expected=True), ready_s)
        flight = Flight(
            model=plan.model,
            members=list(zip(plan.requests, plan.places, strict=True)),
            p50_s=p50_s,
            p95_s=p95_s,
            ready_s=ready_s,
            begin_s=begin_s,
        )
        for request in plan.requests:
            request.predicted = flight.prediction(request, max(planned_s, ready_s))
        return flight

    def _begin_decode(self, flight: Flight, groups: Sequence[Sequence[Request]]) -> None:
        for request, _ in flight.members:
            request.pixels = self._preparation.ready(request)
        for group in groups:
            try:
                decodes = self._preparation.decode(group)
            except Exception as error:
                for request in group:
                    request.resolve(error)
                continue
            flight.groups.append(group)
            for request, decode in zip(group, decodes, strict=True):
                flight.decoding[request] = decode
                decode.add_done_callback(self._guarded(partial(self._decoded, flight, request)))

    def _decoded(self, flight: Flight, request: Request, decode: asyncio.Future[Decoded]) -> None:
        flight.decoding.pop(request, None)
        if decode.cancelled():
            request.reply.cancel()
        elif (error := decode.exception()) is None:
            decoded = decode.result()
            request.pixels, request.decode_s = decoded.pixels, decoded.seconds
            self._preparation.observe(request)
        else:
            request.resolve(error if isinstance(error, Exception) else RuntimeError(repr(error)))
        if not flight.decoding:
            self._step()

    def _hand_over(self) -> None:
        """Give the runner what is decoded, earliest decision first, while it has room."""
        while len(self._inside) < _INSIDE:
            flight = next((each for each in self._ahead if not each.decoding), None)
            if flight is None:
                return
            self._ahead.remove(flight)
            self._overtaken(flight)
            # Without those who left, and those whose files were damaged.
            planned = len(flight.members)
            flight.members = [
                (request, place)
                for request, place in flight.members
                if request.is_wanted and (flight.inline or request.pixels is not None)
            ]
            if flight.members:
                if len(flight.members) < planned:
                    places = [place for _, place in flight.members]
                    flight.p50_s, flight.p95_s = self._costs[flight.model].predict(places)
                self._dispatch(flight)

    def _overtaken(self, flight: Flight) -> None:
        """Give up those whose deadline passed since they were chosen, and who want no late one."""
        now_s = self._clock()
        for request, _ in flight.members:
            if not request.degrade and now_s > request.deadline_s:
                request.resolve(Expired("its deadline passed before it could run"))

    def _dispatch(self, flight: Flight) -> None:
        points = self._points[flight.model]
        now_s = self._clock()
        flight.begin_s = max(now_s, flight.ready_s) if flight.inline else now_s
        batch = Batch(
            model=flight.model,
            requests=tuple(request for request, _ in flight.members),
            points=tuple(points[place] for _, place in flight.members),
            images=None if flight.inline else flight.stacked(),
            dispatched_s=now_s,
        )
        self._inside.append(flight)
        self._costs[flight.model].began()
        running = self._runner.run(batch)
        if flight.inline:
            release = self._preparation.hold(batch.requests[0])
            running.add_done_callback(lambda _: release())
        running.add_done_callback(self._guarded(partial(self._ran, flight, batch)))
        self._watcher.observe_batch(batch)

    def _ran(
        self, flight: Flight, batch: Batch, running: asyncio.Future[list[Reply | Exception]]
    ) -> None:
        outcomes = running.result()
        now_s = self._clock()
        self._inside.remove(flight)
        if self._inside:
            self._inside[0].begin_s = now_s
        # First of all, the engine has to go on.
        self._hand_over()
        learn = partial(self._learn, flight, batch, outcomes, now_s)
        is_idle = self.is_idle
        if not is_idle:
            learn()
        for request, outcome in zip(batch.requests, outcomes, strict=True):
            request.ended_s = now_s
            request.resolve(outcome)
        if is_idle:
            # Nothing is to be decided: these answers need not wait for what they teach.
            asyncio.get_running_loop().call_soon(self._guarded(learn))
        else:
            self._step()

    def _learn(
        self, flight: Flight, batch: Batch, outcomes: Sequence[Reply | Exception], now_s: float
    ) -> None:
        """Correct predictions by what the batch took, where it ran as one."""
        costs = self._costs[flight.model]
        first = outcomes[0]
        if isinstance(first, Reply) and first.batch_size == len(batch.requests):
            places = [place for _, place in flight.members]
            again = [each.looked_again for each in outcomes if isinstance(each, Reply)]
            costs.observe(places, first.service_s, now_s, again)
            self._watcher.observe_service(batch, flight.p50_s, flight.p95_s, first.service_s)
            if flight.inline:
                self._preparation.observe(batch.requests[0])
        else:
            costs.ended(now_s)
        if any(other.model == flight.model for other in self._inside):
            costs.began()

    def _fastest_s(self, request: Request) -> float:
        return self._costs[request.model].alone_s(request.allowed)

    def _lapses_s(self, request: Request) -> float:
        """The last moment at which it may begin, or still be answered late where that is agreed."""
        if request.degrade:
            return request.deadline_s + self._limits.late_limit_s
        return request.deadline_s - self._fastest_s(request) - request.prepare_s

    def _lapsed(self) -> None:
        now_s = self._clock()
        self._expire(now_s, self._free_s(now_s))
        if len(self._queue):
            next_s = min(map(self._lapses_s, self._queue))
            self._lapse.at_latest(max(next_s, now_s) + _GRAIN_S)

    def _expire(self, now_s: float, planned_s: float) -> None:
        for request in self._queue.sweep(now_s, planned_s, self._limits.late_limit_s):
            over_s = now_s - request.deadline_s
            when = "has passed" if over_s >= 0.0 else "will have passed before its answer"
            request.resolve(Expired(f"its deadline {when}: requests before it took too long"))

    def _guarded(self, callback: Callable[P, None]) -> Callable[P, None]:
        """The callback; should it fail, nobody waits for ever: the batcher ends, and says so."""

        def call(*args: P.args, **kwargs: P.kwargs) -> None:
            if not self._alive:
                return
            try:
                callback(*args, **kwargs)
            except BaseException as error:
                _log.critical("the batcher died, the service is no longer ready", exc_info=error)
                self._end()

        return call

    def _end(self) -> None:
        self._alive = False
        self._due.clear()
        self._lapse.clear()
        flying = [request for each in (*self._ahead, *self._inside) for request, _ in each.members]
        for request in (*self._queue, *flying):
            request.resolve(NotReady("the service stopped before this request was answered"))
            self._queue.remove(request)
        for flight in self._ahead:
            for decode in flight.decoding.values():
                decode.cancel()
        self._ahead.clear()
        self._inside.clear()
