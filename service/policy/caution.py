"""How careful plans have to be, learnt from what becomes of them: a value. Standard library only.

Quantiles of service time are kept (`engines.latency.online`), but a request also waits for the
event loop, for a decode thread and for its turn of a core, and plans of many calls add up. Whatever
the cause, its sign is an answer that was planned to be in time and was not. Each makes plans allow
for calls that take longer by `STEP`, each one in time for calls shorter by what balances at
`MISSES`: quantile tracking in log space (Angelopoulos, Candes and Tibshirani 2023,
arXiv:2307.16895, section 2; without its integral, for misses of one burst come together).

Only who decides is more careful, and chooses faster points: nobody is refused for it, and a point
that was asked for is what one gets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MISSES = 0.005
"""The share of plans that may fail."""

STEP = 0.1
"""How far a miss moves it, in log space: four make it `MOST`; at 300 answers a second, all of them
in time, nothing is left of that after three seconds."""

MOST = 1.5
"""What is late although queues are that much shorter is late for other reasons, and faster points
would cost accuracy for nothing."""


@dataclass(frozen=True, slots=True)
class Caution:
    """`factor`, at least 1: what decisions multiply the planning quantile of calls with."""

    factor: float = 1.0

    def observe(self, missed: bool) -> Caution:
        """What is known once an answer that was planned to be in time was (not)."""
        moved = self.factor * math.exp(STEP * (missed - MISSES))
        return Caution(min(max(moved, 1.0), MOST))
