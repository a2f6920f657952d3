"""What a command of `laud` did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Done:
    """Its exit status and what it printed."""

    status: int
    out: str
    err: str


Laud = Callable[..., Done]


def assert_one_line(done: Done) -> str:
    """Refused as the user's to mend; the reason is returned."""
    assert (done.status, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert line.startswith("laud: ")
    return line.removeprefix("laud: ")
