"""What an image takes of the machine beside the engine: receiving, decoding, deciding, answering.

Where the engine is fast, that and not the engine is what a machine runs out of. CPU time of the
whole process less the engine's, over images and cores, as of late. Called from the event loop only.
"""

from __future__ import annotations

import math

MEMORY_S = 2.0
"""Time in which what was seen counts for a third."""


class BesideCosts:
    """Learnt from three counters that only rise."""

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._last: tuple[float, float, int] | None = None
        self._cpu_s = self._images = 0.0

    @property
    def seconds(self) -> float:
        """Of all cores together, for one image; 0 until any was seen."""
        if self._images <= 0.0:
            return 0.0
        return max(self._cpu_s, 0.0) / self._images / self._cores

    def observe(self, now_s: float, cpu_s: float, images: int, *, is_idle: bool) -> None:
        """By `now_s` so much CPU time had been taken beside the engine, for so many images.

        is_idle: there is none now. What was taken since the last time is nobody's then, unless
        one was done: a process that rests takes some too.
        """
        if self._last is not None:
            last_s, last_cpu_s, last_images = self._last
            if images > last_images or not is_idle:
                kept = math.exp(-max(now_s - last_s, 0.0) / MEMORY_S)
                # A call of the engine counts at its end: what this says is right in the mean.
                self._cpu_s = kept * self._cpu_s + cpu_s - last_cpu_s
                self._images = kept * self._images + images - last_images
        self._last = now_s, cpu_s, images
