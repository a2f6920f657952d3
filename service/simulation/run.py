"""One engine, one model, one run: the service's queue, rules and policy on a simulated clock.

As in the service, a batch is decided when the engine is free, or earlier by the time its pictures
take to decode, when it is expected to be; it then starts once the engine is free indeed and the
pictures are there. Pictures of one batch are decoded side by side, and cost the engine nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any

import numpy as np

from service.policy.core import REST_S, Dial, Policy, View
from service.policy.queue import DeadlineQueue
from service.policy.rules import ArrivalRate, check_decision, late_batch
from service.simulation.core import (
    NO_POINT,
    Answers,
    Bounds,
    Costs,
    CostsOf,
    Machine,
    Offered,
    Outcome,
    SteadyCosts,
)

_MODEL = "model"


@dataclass(eq=False, slots=True)
class _Image:
    """A request that waits; see `service.policy.core.Waiting`."""

    number: int
    arrived_s: float
    deadline_s: float
    allowed: tuple[int, ...]
    degrade: bool
    prepare_s: float
    model: str = _MODEL
    num_bytes: int = 0


def _undisturbed(at_s: float) -> float:
    return 1.0


def simulate(
    machine: Machine,
    policy: Policy,
    offered: Offered,
    *,
    seed: int = 0,
    bounds: Bounds | None = None,
    costs_of: CostsOf = lambda machine, clock: SteadyCosts(machine),
    disturbed: Callable[[float], float] = _undisturbed,
) -> Answers:
    """What becomes of the requests. Ratios are drawn by `seed` for the request that leads a call,
    and how hard each image is, so that runs of one seed meet the same luck whatever the policy: at
    all points that glance the hardest are looked at again.

    disturbed: factor on calls that begin at that time: another process, say. Raises ValueError
    where the policy decides what cannot be done.
    """
    return _Run(machine, policy, offered, seed, bounds or Bounds(), costs_of, disturbed).run()


class _Run:
    def __init__(
        self,
        machine: Machine,
        policy: Policy,
        offered: Offered,
        seed: int,
        bounds: Bounds,
        costs_of: CostsOf,
        disturbed: Callable[[float], float],
    ) -> None:
        self._machine = machine
        self._taken = machine.taken or machine.dial
        self._policy = policy
        self._memory: Any = policy.start()
        self._offered = offered
        self._bounds = bounds
        self._disturbed = disturbed
        self._now_s = 0.0
        self._costs: Costs = costs_of(machine, lambda: self._now_s)
        self._alone_s: dict[tuple[int, ...], float] = {}
        self._known: Dial = machine.dial
        self._queue: DeadlineQueue[_Image] = DeadlineQueue(
            lambda image: self._alone(image.allowed) * self._costs.margin,
            lambda image: self._costs.share_s(image.allowed[0]) * self._costs.usual,
        )
        self._rate = ArrivalRate()
        number = len(offered)
        draw = np.random.default_rng([seed, 1]).random(number)
        self._ratios = np.quantile(machine.ratios, draw).tolist()
        self._ease = np.random.default_rng([seed, 2]).random(number).tolist()
        longer_s = np.zeros(number) if offered.longer_s is None else offered.longer_s
        self._longer_s = longer_s.tolist()
        self._outcome = [Outcome.EXPIRED] * number
        self._point = [NO_POINT] * number
        self._done_s = [0.0] * number
        self._busy_s = 0.0
        self._calls = 0
        # Of the latest call: when it began, ends, was expected to and planned to end.
        self._begin_s = self._end_s = self._expected_s = self._planned_s = -math.inf
        self._running: list[tuple[float, tuple[int, ...], float, tuple[bool | None, ...]]] = []
        # Answers whose plans are judged, by when they are out: that they are, and whether in time.
        self._judged: list[tuple[float, bool]] = []

    def run(self) -> Answers:
        at_s = self._offered.at_s.tolist()
        asks = self._offered.asks
        if self._offered.ask is not None:
            asks = tuple(asks[place] for place in self._offered.ask.tolist())
        else:
            asks = (asks[0],) * len(at_s)
        front, prepare_s = self._machine.dial.free, self._offered.decode_s
        deadlines = (self._offered.at_s + self._offered.slo_s - self._machine.overhead_s).tolist()
        number = 0
        while True:
            due_s = self._due_s()
            next_s = at_s[number] if number < len(at_s) else math.inf
            self._now_s = min(due_s, next_s)
            if self._now_s == math.inf:
                break
            self._learn()
            if next_s <= due_s:
                self._arrive(
                    _Image(
                        number,
                        next_s,
                        deadlines[number],
                        asks[number].allowed or front,
                        asks[number].degrade,
                        prepare_s,
                    )
                )
                number += 1
            else:
                self._decide()
        return Answers(
            self._offered,
            np.array(self._outcome),
            np.array(self._point),
            np.array(self._done_s) + self._machine.overhead_s,
            self._busy_s,
            self._calls,
        )

    def _due_s(self) -> float:
        """When the next batch is decided: never while one that was decided still has to begin."""
        if not len(self._queue):
            return math.inf
        head = next(iter(self._queue))
        ready_s = min(self._end_s, self._expected_s - head.prepare_s)
        return max(self._now_s, self._begin_s, ready_s)

    def _free_s(self) -> float:
        return self._now_s if self._end_s <= self._now_s else max(self._now_s, self._planned_s)

    def _arrive(self, image: _Image) -> None:
        now_s, free_s = self._now_s, self._free_s()
        self._rate.count(1, now_s)
        found = self._queue.admission(image, now_s, free_s)
        waiting_s = self._queue.backlog_s() + free_s - now_s
        own_s = found.backlog_s + free_s - now_s - waiting_s
        if found.feasible:
            # What is late stands in the way of nobody who is in time.
            waiting_s = self._queue.timely_s() + free_s - now_s
        if len(self._queue) >= self._bounds.max_queue or (
            waiting_s > 0.0 and waiting_s + own_s > self._bounds.max_queue_s
        ):
            self._end(image, Outcome.REJECTED_QUEUE, now_s)
        elif found.feasible or image.degrade:
            self._queue.add(image, timely=found.feasible)
        else:
            self._end(image, Outcome.REJECTED_INFEASIBLE, now_s)

    def _decide(self) -> None:
        now_s, free_s = self._now_s, self._free_s()
        for image in self._queue.sweep(now_s, free_s, self._bounds.late_limit_s):
            self._end(image, Outcome.EXPIRED, now_s)
        waiting = self._queue.timely()
        if waiting:
            view = View(
                now_s,
                free_s,
                waiting,
                self._costs.dial,
                self._costs.careful_margin,
                rate_hz=self._rate.at(now_s),
                cv2=self._rate.cv2(),
                usual=self._costs.usual,
            )
            decision, self._memory = self._policy.decide(view, self._memory)
            check_decision(decision, view)
            images = [waiting[choice.position] for choice in decision.choices]
            self._start(images, tuple(choice.point for choice in decision.choices))
        elif len(self._queue):
            images = late_batch(self._queue.late(), {_MODEL: self._costs.dial})
            self._start(images, tuple(image.allowed[0] for image in images))

    def _start(self, images: list[_Image], points: tuple[int, ...]) -> None:
        for image in images:
            self._queue.remove(image)
        p50_s, p95_s = self._costs.predict(points)
        again = tuple(self._looked_again(*pair) for pair in zip(images, points, strict=True))
        ready_s = self._now_s + max(image.prepare_s for image in images)
        begin_s = max(self._end_s, ready_s)
        rested = begin_s - self._end_s >= REST_S
        service_s = (
            self._taken.known_call_s(points, again)
            * self._ratios[images[0].number]
            * (self._machine.rested_ratio if rested else 1.0)
            * self._disturbed(begin_s)
        )
        self._begin_s, self._end_s = begin_s, begin_s + service_s
        self._expected_s, self._planned_s = begin_s + p50_s, begin_s + p95_s
        self._busy_s += service_s
        self._calls += 1
        self._costs.began()
        self._running.append((self._end_s, points, service_s, again))
        for image, point in zip(images, points, strict=True):
            out_s = self._end_s + self._longer_s[image.number]
            in_time = out_s <= image.deadline_s
            if self._planned_s <= image.deadline_s and len(image.allowed) > 1:
                heappush(self._judged, (out_s, not in_time))
            self._point[image.number] = point
            self._end(image, Outcome.MET if in_time else Outcome.LATE, self._end_s)

    def _alone(self, allowed: tuple[int, ...]) -> float:
        if self._known is not self._costs.dial:
            self._known, self._alone_s = self._costs.dial, {}
        found = self._alone_s.get(allowed)
        if found is None:
            found = self._alone_s[allowed] = self._known.alone_s(allowed)
        return found

    def _looked_again(self, image: _Image, point: int) -> bool | None:
        """None where the point does not glance."""
        if self._machine.dial.points[point].worst == 1.0:
            return None
        return bool(self._ease[image.number] < self._taken.points[point].again)

    def _learn(self) -> None:
        """Tell of the calls that have ended by now, and of the answers that are out."""
        while self._running and self._running[0][0] <= self._now_s:
            end_s, points, service_s, again = self._running.pop(0)
            self._costs.observe(points, service_s, end_s, again)
            if self._running:
                self._costs.began()
        while self._judged and self._judged[0][0] <= self._now_s:
            self._costs.judge(heappop(self._judged)[1])

    def _end(self, image: _Image, outcome: Outcome, at_s: float) -> None:
        self._outcome[image.number] = outcome
        self._done_s[image.number] = at_s
