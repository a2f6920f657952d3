"""What an answer takes after the engine is done: waking its handler, serialising, sending.

Small beside an image, but it is the event loop's time: under load it grows, and a plan that ends
right at a deadline would be late by it. Called from the event loop only.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import deque

_KEPT = 128
_PRIOR_S = (0.0002,) * 4 + (0.0004,) * 4
_PLANNED = 0.95
MOST_S = 0.1
"""Longer answers are those of clients that do not read, about which nothing can be planned."""


class AnswerCosts:
    """Quantiles of the latest answers."""

    def __init__(self) -> None:
        self._latest = deque(_PRIOR_S, _KEPT)
        self._ordered = sorted(self._latest)

    def predict(self) -> tuple[float, float]:
        """Seconds from engine done to the last byte out: median, and what to plan with."""
        ordered = self._ordered
        return ordered[len(ordered) // 2], ordered[int(_PLANNED * (len(ordered) - 1) + 0.5)]

    def observe(self, seconds: float) -> None:
        """An answer took so long. What is no duration counts as the nearest that is plausible."""
        if math.isnan(seconds):
            return
        if len(self._latest) == _KEPT:
            self._ordered.remove(self._latest[0])
        self._latest.append(min(max(seconds, 0.0), MOST_S))
        insort(self._ordered, self._latest[-1])
