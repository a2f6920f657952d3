"""How much harder pictures are than those that a bundle was measured on: a value. Standard library
only.

At points that glance, harder pictures are looked at again more often, and every call takes longer.
All such points look at the same pictures, so what one of them meets is told of all: one shift of
the log odds of being looked at again, as a logistic regression on the measured odds with a
constant alone has it, followed by its gradient (Robbins and Monro 1951, with a step that stays:
what comes in an hour may be other pictures).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

STEP = 0.03
"""How far a picture moves it that nobody expected to be looked at again. Where a third is expected
and nine in ten are, two hundred pictures tell nearly all; by chance it moves by .12."""

FADE_S = 60.0
"""Time in which what was learnt fades to about a third where nothing confirms it: no picture comes,
or none that glances, because such points became too dear to be chosen."""

MOST = 6.0
"""A hundredth becomes four fifths, and the other way round."""


@dataclass(frozen=True, slots=True)
class Hardness:
    """`shift`: of log odds; 0 as measured."""

    shift: float = 0.0

    def share(self, measured: float) -> float:
        """The share of images looked at again now, where `measured` was; 0 and 1 stay."""
        if not 0.0 < measured < 1.0:
            return measured
        odds = measured / (1.0 - measured) * math.exp(self.shift)
        return odds / (1.0 + odds)

    def faded(self, seconds: float) -> Hardness:
        """What is left of it after so long."""
        if not self.shift or seconds <= 0.0:
            return self
        return Hardness(self.shift * math.exp(-seconds / FADE_S))

    def observe(self, measured: float, again: bool) -> Hardness:
        """What is known once an image was looked at again, or was not, where `measured` of them
        were."""
        if not 0.0 < measured < 1.0:
            return self
        moved = self.shift + STEP * (again - self.share(measured))
        return Hardness(min(max(moved, -MOST), MOST))
