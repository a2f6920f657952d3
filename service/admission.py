"""Whether the images of one HTTP request are taken: all together, or none of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from service.errors import Infeasible, QueueFull
from service.policy.queue import Admission, DeadlineQueue
from service.request import Request

_NEVER_S = 60.0
"""When to come back for what is too fast for this machine even when it is idle."""


@dataclass(frozen=True, slots=True)
class Limits:
    """max_queue_s: planned seconds of work that may wait. late_limit_s: how long after its deadline
    an image that agreed to a late answer is still answered."""

    max_queue_s: float = 2.0
    late_limit_s: float = 10.0


def admit(
    queue: DeadlineQueue[Request],
    requests: Sequence[Request],
    planned_s: Callable[[Request], float],
    now_s: float,
    free_s: float,
    limits: Limits,
) -> None:
    """Let them wait in the queue, or raise and leave it as it was.

    planned_s: of an image at its fastest. free_s: when the engine has done what was decided. An
    answer is complete with its last image: where one cannot be in time, none is taken as timely.
    What is late stands in the way of nobody who is in time. Raises QueueFull, or Infeasible for
    those that prefer a refusal to a late answer.
    """
    own_s = sum(map(planned_s, requests))
    busy_s = free_s - now_s
    waiting_s = queue.backlog_s() + busy_s
    full = _is_full(waiting_s, own_s, limits)
    if full and _is_full(queue.timely_s() + busy_s, own_s, limits):
        raise _queue_full(waiting_s, own_s, limits)
    taken: list[Request] = []
    for request in requests:
        found = queue.admission(request, now_s, free_s)
        if not found.feasible:
            for other in taken:
                queue.remove(other)
            if full:
                raise _queue_full(waiting_s, own_s, limits)
            if not request.degrade:
                raise _infeasible(request, found, planned_s(request), now_s)
            for other in requests:
                queue.add(other, timely=False)
            return
        queue.add(request, timely=True)
        taken.append(request)


def _is_full(waiting_s: float, own_s: float, limits: Limits) -> bool:
    # What comes alone is always taken: it could never be otherwise.
    return waiting_s > 0.0 and waiting_s + own_s > limits.max_queue_s


def _queue_full(waiting_s: float, own_s: float, limits: Limits) -> QueueFull:
    return QueueFull(
        f"{waiting_s * 1e3:.0f} ms of work are waiting, with this request more than the limit "
        f"of {limits.max_queue_s * 1e3:.0f} ms",
        retry_after_s=min(waiting_s, waiting_s + own_s - limits.max_queue_s),
    )


def _infeasible(request: Request, found: Admission, own_s: float, now_s: float) -> Infeasible:
    answer_s = request.answer_s[1]
    budget_s = request.deadline_s - request.arrived_s + answer_s
    least_s = now_s - request.arrived_s + request.prepare_s + own_s + answer_s
    if least_s > budget_s:
        return Infeasible(
            f"no allowed operating point answers this image within {budget_s * 1e3:.1f} ms: the "
            f"fastest takes {least_s * 1e3:.1f} ms here, decoding and the time until now included; "
            "ask for more time, or for 'on_infeasible: degrade'",
            retry_after_s=_NEVER_S,
        )
    late_s = max(found.done_s - request.deadline_s, 0.0)
    return Infeasible(
        f"the answer would be {late_s * 1e3:.1f} ms late at the fastest allowed operating point, "
        "or make others late",
        retry_after_s=late_s,
    )
