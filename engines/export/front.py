"""The lower envelope of a dial: which candidates are worth shipping. Pure; measures nothing.

A Pareto front over latency and log-loss, not its convex hull: a service picks one point for an
image, it does not mix two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engines.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a point costs and what it is worth.

    latency_s: of an image, expected; any unit will do. log_loss decides which of two is better,
    accuracy where that is equal, or where there are no losses (None for all). skips: whether
    anything is skipped, so that it competes with mere smaller images. worst_s: of an image that a
    point which glances looks at again; None elsewhere.
    """

    name: str
    latency_s: float
    log_loss: float | None
    accuracy: float
    skips: bool
    worst_s: float | None = None

    @property
    def longest_s(self) -> float:
        """What a deadline has to allow for."""
        return self.latency_s if self.worst_s is None else self.worst_s

    @property
    def quality(self) -> tuple[float, float]:
        """Greater is better."""
        return -(self.log_loss or 0.0), self.accuracy


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a candidate is kept. dominated_by: a kept one that makes it pointless, if any."""

    kept: bool
    dominated_by: str | None = None


def dominates(one: Candidate, other: Candidate, tolerance: float, least_s: float = 0.0) -> bool:
    """Whether nobody who has `one` needs `other`: it is at most as slow and not worse.

    As slow in both senses: a deadline that leaves no time to look again needs points that do not
    glance. tolerance: share of the latency below which a difference is noise; least_s: a difference
    that is too little to matter. Either counts as no difference, except for a point that skips
    against one that does not: skipping has to be faster beyond them, or not slower and better.
    """

    def at_most(one_s: float, other_s: float) -> bool:
        return one_s <= max(other_s * (1 + tolerance), other_s + least_s)

    if one.quality < other.quality or not at_most(one.longest_s, other.longest_s):
        return False
    if one.skips and not other.skips:
        faster = not at_most(other.latency_s, one.latency_s)
        return faster or (one.latency_s <= other.latency_s and one.quality > other.quality)
    return at_most(one.latency_s, other.latency_s)


def front(
    candidates: Sequence[Candidate], tolerance: float, least: float = 0.0
) -> dict[str, Verdict]:
    """The verdict on each candidate, by name; the first is `full`, which is always kept.

    From the best to the worst, a candidate is dropped where one that is kept dominates it. So every
    dropped one has a stand-in, and a chain of points that are each a little faster than the one
    before loses none by the sum of its steps. `full` is told who dominates it, if anybody does.
    least: share of the latency of `full` that is too little to matter.
    Raises InvalidInput for names that are not unique, for no candidate, or a negative tolerance.
    """
    names = [candidate.name for candidate in candidates]
    if not names or len(set(names)) != len(names) or tolerance < 0 or least < 0:
        raise InvalidInput(f"no front of {names} within {tolerance} and {least}")
    full = candidates[0]
    least_s = least * full.latency_s
    kept: list[Candidate] = [full]
    found: dict[str, Verdict] = {}
    for candidate in sorted(candidates[1:], key=lambda c: _order(c, tolerance, least_s)):
        by = next(
            (other for other in kept if dominates(other, candidate, tolerance, least_s)), None
        )
        found[candidate.name] = Verdict(by is None, by.name if by else None)
        if by is None:
            kept.append(candidate)
    above = next((other for other in kept[1:] if dominates(other, full, tolerance, least_s)), None)
    found[full.name] = Verdict(True, above.name if above else None)
    return {name: found[name] for name in names}


def _order(
    candidate: Candidate, tolerance: float, least_s: float
) -> tuple[float, float, float, bool, str]:
    """The best first; of equals that which would dominate the other."""
    latency_s = candidate.latency_s
    if not candidate.skips:
        latency_s = min(latency_s / (1 + tolerance), latency_s - least_s)
    quality = candidate.quality
    return -quality[0], -quality[1], latency_s, candidate.skips, candidate.name
