"""Which operating point a request gets. Pure functions of data; standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen point's name, and why: `pinned` or `full`."""

    name: str
    reason: str


def choose_point(names: Sequence[str], pinned: str | None = None) -> Choice:
    """The pinned point, else the first, which is `full`: nothing asks for less.

    Raises ValueError for an unknown name, listing the known ones.
    """
    if pinned is None:
        return Choice(names[0], "full")
    if pinned not in names:
        raise ValueError(f"unknown operating point '{pinned:.64}'; there are: {', '.join(names)}")
    return Choice(pinned, "pinned")
