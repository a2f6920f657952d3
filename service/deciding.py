"""What runs next: asks the policy, holds it to the rules, and does without it when it fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from service.costs import ModelCosts
from service.errors import SettingsError
from service.policy.core import Choice, Host, Policy, View
from service.policy.queue import DeadlineQueue
from service.policy.rules import ArrivalRate, check_decision, late_batch
from service.request import Request

_log = structlog.get_logger("laud")

_LOG_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class Plan:
    """The next batch: images of one model and one size, the place of each one's point, and why."""

    model: str
    requests: tuple[Request, ...]
    places: tuple[int, ...]
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Trial:
    """An image that a policy decides about before any came."""

    model: str
    allowed: tuple[int, ...]
    deadline_s: float
    arrived_s: float = 0.0
    degrade: bool = True
    prepare_s: float = 0.0
    num_bytes: int = 0


class Decider:
    """A policy with its memory per model, and how often images arrive.

    host: what there is beside the engine of a model. on_decision: seconds that the policy took.
    on_failure: it raised, or decided what cannot be done; then the head of the queue runs at its
    fastest.
    """

    def __init__(
        self,
        policy: Policy,
        costs: Mapping[str, ModelCosts],
        *,
        host: Callable[[str], Host] = lambda model: Host(),
        on_decision: Callable[[float], None] = lambda seconds: None,
        on_failure: Callable[[], None] = lambda: None,
        stopwatch: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._policy = policy
        self._costs = costs
        self._host = host
        self._on_decision = on_decision
        self._on_failure = on_failure
        self._stopwatch = stopwatch
        self._memories: dict[str, Any] = {}
        self._rates: dict[str, ArrivalRate] = {}
        self._logged_s: float | None = None

    def try_out(self, model: str) -> None:
        """Let the policy decide about one image of a model, so that one which cannot is told before
        requests come. Raises SettingsError."""
        dial = self._costs[model].dial
        view = View(0.0, 0.0, [_Trial(model, dial.free, 1.0)], dial)
        try:
            decision, _ = self._policy.decide(view, self._policy.start())
            check_decision(decision, view)
        except Exception as error:
            raise SettingsError(
                f"policy '{self._policy.name}' cannot serve model '{model}': {error}"
            ) from error

    def arrived(self, requests: Sequence[Request], now_s: float) -> None:
        """Images of one HTTP request came, whether they are taken or not."""
        model = requests[0].model
        self._rates.setdefault(model, ArrivalRate()).count(len(requests), now_s)

    def decide(self, queue: DeadlineQueue[Request], now_s: float, free_s: float) -> Plan | None:
        """The next batch of those that wait; None when nobody does. Changes nothing in the queue.

        Timely ones of the model whose image is due first; late ones when nothing timely waits.
        """
        timely = queue.timely()
        if not timely:
            return self._late(queue.late())
        model = timely[0].model
        costs = self._costs[model]
        waiting = [request for request in timely if request.model == model]
        others_s = sum(
            self._costs[request.model].planned_s(request.allowed[0])
            for request in timely
            if request.model != model
        )
        rate = self._rates.get(model)
        view = View(
            now_s=now_s,
            free_s=free_s,
            waiting=waiting,
            dial=costs.dial,
            margin=costs.careful_margin,
            rate_hz=0.0 if rate is None else rate.at(now_s),
            cv2=1.0 if rate is None else rate.cv2(),
            others_s=others_s,
            host=self._host(model),
            usual=costs.usual,
        )
        choices = self._choices(view, model)
        chosen = [waiting[choice.position] for choice in choices]
        return Plan(
            model=model,
            requests=tuple(chosen),
            places=tuple(choice.point for choice in choices),
            reasons=tuple(
                "pinned" if request.pinned else choice.reason
                for request, choice in zip(chosen, choices, strict=True)
            ),
        )

    def _choices(self, view: View, model: str) -> tuple[Choice, ...]:
        begin_s = self._stopwatch()
        try:
            memory = self._memories.get(model)
            if memory is None:
                memory = self._policy.start()
            decision, self._memories[model] = self._policy.decide(view, memory)
            check_decision(decision, view)
            choices = decision.choices
        except Exception as error:
            self._failed(error, view.now_s)
            choices = (Choice(0, view.waiting[0].allowed[0], "load"),)
        self._on_decision(self._stopwatch() - begin_s)
        return choices

    def _failed(self, error: Exception, now_s: float) -> None:
        self._on_failure()
        if self._logged_s is None or now_s - self._logged_s >= _LOG_EVERY_S:
            self._logged_s = now_s
            _log.error("the policy failed", policy=self._policy.name, exc_info=error)

    def _late(self, late: Sequence[Request]) -> Plan | None:
        """The first of those who will be late, at its fastest, and who can run with it."""
        if not late:
            return None
        mates = late_batch(late, {model: costs.dial for model, costs in self._costs.items()})
        return Plan(
            model=mates[0].model,
            requests=tuple(mates),
            places=tuple(request.allowed[0] for request in mates),
            reasons=tuple("pinned" if request.pinned else "late" for request in mates),
        )
