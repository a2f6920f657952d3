"""Closed loops: as many requests as answers. For capacity and overhead, never for latency."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from service.load.client import Client, LoadError, Response
from service.load.records import OK
from service.load.target import Call, error_of


@dataclass(frozen=True, slots=True)
class Saturated:
    """What a server answered while it was kept busy."""

    answered: int
    seconds: float

    @property
    def throughput_hz(self) -> float:
        """Results a second."""
        return self.answered / self.seconds


async def saturate(
    client: Client, calls: Sequence[Call], *, in_flight: int, duration_s: float, slo_s: float
) -> Saturated:
    """Keep `in_flight` requests open for `duration_s`, with a budget that none is to miss.

    Raises LoadError where none of them gets a result.
    """
    begin_s = client.clock()
    end_s = begin_s + duration_s
    answered = 0
    refusal = "nothing"
    numbers = count()

    async def keep_asking() -> None:
        nonlocal answered, refusal
        while client.clock() < end_s:
            call = calls[next(numbers) % len(calls)]
            response = await client.send(*call.parts(slo_s))
            if response.status == OK:
                answered += 1
            else:
                refusal = f"{response.status}: {error_of(response)}"

    await asyncio.gather(*(keep_asking() for _ in range(in_flight)))
    if not answered:
        raise LoadError(f"no request of {calls[0].route} got a result; the server said {refusal}")
    return Saturated(answered, client.clock() - begin_s)


async def in_turns(
    contenders: Mapping[str, Callable[[], Awaitable[Response]]],
    repeats: int,
    on_turn: Callable[[int], None] = lambda turn: None,
) -> dict[str, list[Response]]:
    """Answers of each, A B C A B C ..., one request at a time; the first turn does not count."""
    found: dict[str, list[Response]] = {name: [] for name in contenders}
    for turn in range(repeats + 1):
        on_turn(turn)
        for name, ask in contenders.items():
            response = await ask()
            if turn:
                found[name].append(response)
    return found


async def search_rates(
    probes: Mapping[str, Callable[[float], Awaitable[float]]],
    highest_hz: Mapping[str, float],
    *,
    attainment: float,
    steps: int,
) -> dict[str, float]:
    """The highest rate per probe at which it still reaches that attainment, by bisection.

    A probe gives the attainment at a rate. They take turns, so that what disturbs the machine
    disturbs all of them.
    """
    low = dict.fromkeys(probes, 0.0)
    high = {name: highest_hz[name] for name in probes}
    for _ in range(steps):
        for name, probe in probes.items():
            middle = (low[name] + high[name]) / 2
            side = low if await probe(middle) >= attainment else high
            side[name] = middle
    return low
