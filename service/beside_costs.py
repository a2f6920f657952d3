"""What an image takes of the machine beside the engine: receiving, decoding, deciding, answering.

Where the engine is fast, that and not the engine is what a machine runs out of. CPU time of the
whole process less the engine's, over images and cores, as of late; and more where a machine cannot
give all of its cores: threads wait for the interpreter's lock, or others work here. How much more
is seen while images queue up, and then all of the time is taken. Called from the event loop only.
"""

from __future__ import annotations

import math
from typing import NamedTuple

MEMORY_S = 2.0
"""Time in which what was seen counts for a third."""

CROWD_S = 0.5
"""The same of what is only seen where images queue up: plans that are too bold make it worse."""

FADE_S = 30.0
"""The same of that while none queue up."""

MOST_CROWDED = 4.0
"""What queues up behind something else says nothing about the cores."""

_ENGINE_LIMITS = 0.7
"""Of the time: an engine that computes for longer is what images wait for."""


class Seen(NamedTuple):
    """Counters that only rise: seconds of the clock, CPU seconds beside the engine, those of the
    engine, and images that were done. is_idle: there is no image. is_crowded: more wait than fit
    into a call."""

    now_s: float
    cpu_s: float
    engine_s: float
    images: int
    is_idle: bool
    is_crowded: bool = False


class BesideCosts:
    """Learnt from looking at counters, several times a second."""

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._last: Seen | None = None
        self._cpu_s = self._images = 0.0
        self._crowded = 1.0

    @property
    def seconds(self) -> float:
        """Of all cores together, for one image; 0 until any was seen."""
        if self._images <= 0.0:
            return 0.0
        return max(self._cpu_s, 0.0) / self._images / self._cores * self._crowded

    @property
    def crowded(self) -> float:
        """How many times as long the machine is taken as its cores work beside the engine; 1 where
        nothing is waited for."""
        return self._crowded

    def observe(self, seen: Seen, engine_threads: int = 1) -> None:
        """What was taken since the last time is nobody's where there is no image now, unless one
        was done: a process that rests takes some too. engine_threads: that share its work."""
        last, self._last = self._last, seen
        if last is None:
            return
        passed_s = max(seen.now_s - last.now_s, 0.0)
        cpu_s, images = seen.cpu_s - last.cpu_s, seen.images - last.images
        if images > 0 or not seen.is_idle:
            kept = math.exp(-passed_s / MEMORY_S)
            # A call of the engine counts at its end: what this says is right in the mean.
            self._cpu_s = kept * self._cpu_s + cpu_s
            self._images = kept * self._images + images
        engine_s = seen.engine_s - last.engine_s
        engine_limits = engine_s > _ENGINE_LIMITS * engine_threads * passed_s
        towards, kept = 1.0, math.exp(-passed_s / FADE_S)
        if last.is_crowded and seen.is_crowded and not engine_limits:
            taken_s = self._cores * passed_s - engine_s
            towards = min(max(taken_s / max(cpu_s, 1e-9), 1.0), MOST_CROWDED)
            kept = math.exp(-passed_s / CROWD_S)
        self._crowded = towards + kept * (self._crowded - towards)
