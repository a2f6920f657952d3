"""Which operating point a request gets. Pure functions of data; standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """What the policy knows of an operating point; accuracy is 0 to 1, None where not measured."""

    name: str
    accuracy: float | None


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen point's name, and why: `pinned` or `most_accurate`."""

    name: str
    reason: str


def choose_point(candidates: Sequence[Candidate], pinned: str | None = None) -> Choice:
    """The pinned point, else the most accurate one.

    Earlier candidates win ties, and all of them where nothing was measured: the first is `full`.
    Raises ValueError for an unknown name, listing the known ones.
    """
    if pinned is not None:
        if all(candidate.name != pinned for candidate in candidates):
            known = ", ".join(candidate.name for candidate in candidates)
            raise ValueError(f"unknown operating point '{pinned}'; there are: {known}")
        return Choice(pinned, "pinned")
    best = max(candidates, key=lambda candidate: candidate.accuracy or 0.0)
    return Choice(best.name, "most_accurate")
