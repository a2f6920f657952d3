"""A batch on its way, from its decision to the end of its run; and when the engine is free of all.

Pure: who moves batches on is `service.batcher`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from engines.core import UInt8Array
from service.decoding import Decoded
from service.request import Prediction, Request


@dataclass(eq=False, slots=True, kw_only=True)
class Flight:
    """A batch on its way. members: images with the place of their point.

    p50_s, p95_s: predicted service time. ready_s: when decoding should be over. begin_s: when the
    engine began it, or may. inline: its picture is decoded by the runner, whose thread would wait
    for it anyway. decoding: futures of those whose pixels are not there yet. groups: those of them
    that were given to one thread.
    """

    model: str
    members: list[tuple[Request, int]]
    p50_s: float
    p95_s: float
    ready_s: float
    begin_s: float
    inline: bool = False
    decoding: dict[Request, asyncio.Future[Decoded]] = field(default_factory=dict)
    groups: list[Sequence[Request]] = field(default_factory=list)

    @property
    def threads(self) -> int:
        """How many threads decode for it, as far as is known here."""
        return sum(any(each in self.decoding for each in group) for group in self.groups)

    def prediction(self, request: Request, latest_s: float) -> Prediction:
        """Of one of its members; latest_s: when the engine begins at the latest, as planned."""
        p50_s, p95_s = request.answer_s
        return Prediction(
            service_p50_s=self.p50_s,
            service_p95_s=self.p95_s,
            completion_p50_s=self.begin_s + self.p50_s + p50_s - request.arrived_s,
            completion_p95_s=latest_s + self.p95_s + p95_s - request.arrived_s,
        )

    def stacked(self) -> UInt8Array:
        """Its pixels, (N, size, size, 3)."""
        images = [request.pixels for request, _ in self.members if request.pixels is not None]
        return images[0][np.newaxis] if len(images) == 1 else np.stack(images)


def free_s(
    inside: Iterable[Flight],
    ahead: Iterable[Flight],
    now_s: float,
    longest_s: float,
    *,
    expected: bool,
) -> float:
    """When the engine can begin something new: as expected, or by planning quantiles.

    inside: what it was given, in that order; ahead: what was decided after it. A batch whose
    decoding leaves room for the longest call before it, or is overdue by that much, is passed over:
    one large picture must not make the engine wait.
    """
    at_s = now_s
    for place, flight in enumerate(inside):
        begin_s = at_s if place else flight.begin_s
        at_s = max(now_s, begin_s + (flight.p50_s if expected else flight.p95_s))
    for flight in ahead:
        ready_s = flight.ready_s if flight.decoding or flight.inline else now_s
        if flight.decoding and not now_s - longest_s < ready_s < at_s + longest_s:
            continue
        at_s = max(at_s, ready_s) + (flight.p50_s if expected else flight.p95_s)
    return at_s
