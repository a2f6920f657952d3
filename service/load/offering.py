"""Offering load: requests leave when they are due, whether or not earlier ones were answered.

Open loop: a server that falls behind finds its requests piling up, as with real clients, and
latency counts from when a request was due, so that no delay hides (coordinated omission).
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from engines.errors import InvalidInput
from service.load.arrivals import Mix, Process, Recorded, first, gamma, within
from service.load.client import Client, LoadError, Unanswered
from service.load.records import OK, Ledger, Records
from service.load.target import Answer, Call, error_of, read_answer

# Time to begin in: nothing is due before everything is set up.
_AHEAD_S = 0.02
_WARM_CONNECTIONS = 8
# Refusals that the same request may not meet the next time.
_PASSING = (OK, 429, 503, 504)


@dataclass(frozen=True, slots=True)
class Planned:
    """A request to come: seconds from the beginning, its own budget if any, which call."""

    at_s: float
    slo_s: float | None
    call: int


def plan_load(
    process: Process, duration_s: float, calls: int, seed: int, mix: Mix | None = None
) -> tuple[Planned, ...]:
    """Requests of `process`, each with a random one of `calls` and a budget from `mix`.

    Times, pictures and budgets have a random stream each: a change of one leaves the others.
    """
    times, pictures, budgets = (np.random.default_rng([seed, k]) for k in range(3))
    at_s = within(process, times, duration_s)
    if not at_s.size:
        raise InvalidInput(f"no request falls into {duration_s:g} s at this rate; take longer")
    slos = mix.draw(budgets, at_s.size).tolist() if mix else [None] * at_s.size
    chosen = pictures.integers(calls, size=at_s.size).tolist()
    return tuple(map(Planned, at_s.tolist(), slos, chosen))


def plan_recorded(
    recorded: Sequence[Recorded], names: Sequence[str], seed: int, duration_s: float | None = None
) -> tuple[Planned, ...]:
    """The requests of a file, as far as `duration_s`. InvalidInput for an unknown picture."""
    places = {name: place for place, name in enumerate(names)}
    anything = np.random.default_rng([seed, 1]).integers(len(names), size=len(recorded)).tolist()
    planned: list[Planned] = []
    for one, any_place in zip(recorded, anything, strict=True):
        if duration_s is not None and one.at_s >= duration_s:
            break
        place = any_place if one.image is None else places.get(one.image)
        if place is None:
            raise InvalidInput(
                f"the recorded traffic names the picture '{one.image}', which is not among the "
                "files that were given"
            )
        planned.append(Planned(one.at_s, one.slo_s, place))
    if not planned:
        raise InvalidInput(f"no recorded request lies in the first {duration_s:g} s")
    return tuple(planned)


async def offer(
    client: Client,
    calls: Sequence[Call],
    planned: Sequence[Planned],
    *,
    patience_s: float = 30.0,
    on_sent: Callable[[int, Ledger], None] = lambda sent, ledger: None,
) -> Records:
    """Send everything that is planned, then wait at most `patience_s` for what is still open.

    on_sent: called with how many requests left, and with what has ended so far, at each.
    """
    ledger = Ledger()
    clock = client.clock
    tasks: set[asyncio.Task[None]] = set()
    with _quiet_collector():
        begin_s = clock() + _AHEAD_S
        for number, one in enumerate(planned, 1):
            # Also where it is overdue: those that left need a turn of the loop to be written.
            await asyncio.sleep(max(begin_s + one.at_s - clock(), 0.0))
            task = asyncio.create_task(_send(client, calls[one.call], one, begin_s, ledger))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            on_sent(number, ledger)
        if tasks:
            await asyncio.wait(tasks, timeout=patience_s)
        given_up = list(tasks)
        for task in given_up:
            task.cancel()
        await asyncio.gather(*given_up, return_exceptions=True)
    return ledger.records()


async def warm_up(
    client: Client, calls: Sequence[Call], rate_hz: float, duration_s: float, seed: int
) -> None:
    """Traffic that is not counted: connections open, and the server has met such requests.

    Raises LoadError where the server takes no such request: then no run makes sense.
    """
    await client.open(_WARM_CONNECTIONS)
    response = await client.send(*calls[0].parts(None))
    if response.status not in _PASSING:
        raise LoadError(f"the server answered {response.status}: {error_of(response)}")
    if duration_s > 0:
        number = max(int(rate_hz * duration_s), 1)
        times = first(gamma(rate_hz), np.random.default_rng([seed, 9]), number).tolist()
        await offer(
            client, calls, [Planned(at, None, k % len(calls)) for k, at in enumerate(times)]
        )


async def _send(client: Client, call: Call, one: Planned, begin_s: float, ledger: Ledger) -> None:
    try:
        response = await client.send(*call.parts(one.slo_s))
    except (Unanswered, asyncio.CancelledError):
        ledger.add(at_s=one.at_s, slo_s=one.slo_s)
        return
    said = read_answer(response) if response.status == OK else Answer()
    ledger.add(
        at_s=one.at_s,
        sent_s=response.sent_s - begin_s,
        done_s=response.done_s - begin_s,
        status=response.status,
        slo_s=one.slo_s if one.slo_s is not None else said.slo_s,
        point=said.point,
        accuracy=said.accuracy,
        outcome=said.outcome,
        service_s=said.service_s,
        receive_s=said.receive_s,
        decode_s=said.decode_s,
        queue_s=said.queue_s,
        looked_again=said.looked_again,
    )


@contextmanager
def _quiet_collector() -> Iterator[None]:
    """No garbage collection of the whole heap while requests must be on time."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
