"""One moment at which to be woken, on an injected clock: set, brought forward, or taken back."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Protocol


class Cancellable(Protocol):
    """What `call_later` returns."""

    def cancel(self) -> None:
        """Do not call it."""


CallLater = Callable[[float, Callable[[], None]], Cancellable]
"""Call something so many seconds from now, as `asyncio.AbstractEventLoop.call_later` does."""


class Alarm:
    """Calls `ring` once its moment has come, from the event loop; never from within `set`."""

    def __init__(
        self,
        clock: Callable[[], float],
        ring: Callable[[], None],
        call_later: CallLater | None = None,
    ) -> None:
        """call_later: the running loop's where it is None."""
        self._clock = clock
        self._ring = ring
        self._call_later = call_later
        self._at_s = math.inf
        self._handle: Cancellable | None = None

    @property
    def at_s(self) -> float:
        """When it rings; infinite when it does not."""
        return self._at_s

    def set(self, at_s: float) -> None:
        """Ring then, and not when it was to ring before."""
        if at_s == self._at_s:
            return
        self.clear()
        if math.isinf(at_s):
            return
        call_later = self._call_later or asyncio.get_running_loop().call_later
        self._at_s = at_s
        self._handle = call_later(max(at_s - self._clock(), 0.0), self._rung)

    def at_latest(self, at_s: float) -> None:
        """Ring then, unless it rings earlier anyway."""
        if at_s < self._at_s:
            self.set(at_s)

    def clear(self) -> None:
        """Do not ring."""
        if self._handle is not None:
            self._handle.cancel()
        self._at_s, self._handle = math.inf, None

    def _rung(self) -> None:
        self._at_s, self._handle = math.inf, None
        self._ring()
