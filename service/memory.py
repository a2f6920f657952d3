"""One account of the bytes that requests hold: bodies being received, images waiting or decoding.

Bounded, so that a crowd cannot fill the machine before admission has seen it. Not for threads: the
event loop's only.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from service.errors import QueueFull


class Memory:
    """How many bytes are held, and no more than `limit`; alone, one holder may exceed it.

    retry_after_s: asked when there is no room, how long until there might be.
    """

    def __init__(self, limit: int, retry_after_s: Callable[[], float] = lambda: 1.0) -> None:
        self.limit = limit
        self._retry_after_s = retry_after_s
        self._used = 0
        self._waiting: deque[tuple[int, asyncio.Future[Reservation]]] = deque()

    @property
    def used(self) -> int:
        """Bytes that are held now."""
        return self._used

    def reserve(self, num_bytes: int = 0) -> Reservation:
        """Room for so many bytes, until it is released. Raises QueueFull when there is none.

        A body that grows as it arrives: `with memory.reserve() as room: ... room.grow(len(chunk))`.
        """
        room = Reservation(self)
        room.grow(num_bytes)
        return room

    async def reserve_in_turn(self, num_bytes: int) -> Reservation:
        """The same once there is room, first come, first served: for what would be lost by a
        refusal. Newcomers are refused as if those who wait had their room already.

        Who waits should hold nothing, or two may wait for each other.
        """
        turn: asyncio.Future[Reservation] = asyncio.get_running_loop().create_future()
        self._waiting.append((num_bytes, turn))
        self._let_in()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._let_in()
            else:
                turn.result().release()
            raise

    def _take(self, num_bytes: int, already: int) -> None:
        promised = self._used + sum(
            wanted for wanted, turn in self._waiting if not turn.cancelled()
        )
        # A holder beside whom there is nobody always fits: others would never be served either.
        if promised > already and promised + num_bytes > self.limit:
            raise QueueFull(
                f"the service holds {promised:,} bytes of images, the limit is {self.limit:,}",
                retry_after_s=self._retry_after_s(),
            )
        self._used += num_bytes

    def _give(self, num_bytes: int) -> None:
        self._used -= num_bytes
        self._let_in()

    def _let_in(self) -> None:
        """Give room to those who wait, as far as there is."""
        while self._waiting:
            num_bytes, turn = self._waiting[0]
            if not turn.cancelled():
                if self._used and self._used + num_bytes > self.limit:
                    return
                self._used += num_bytes
                turn.set_result(Reservation(self, num_bytes))
            self._waiting.popleft()


class Reservation:
    """Bytes held by one request; a context manager. Given back with its last holder."""

    __slots__ = ("_holders", "_memory", "_num_bytes")

    def __init__(self, memory: Memory, num_bytes: int = 0) -> None:
        """num_bytes: what was taken for it already."""
        self._memory = memory
        self._num_bytes = num_bytes
        self._holders = 1

    def grow(self, num_bytes: int) -> None:
        """Hold so many more. Raises QueueFull when there is no room; what is held stays held."""
        self._memory._take(num_bytes, self._num_bytes)
        self._num_bytes += num_bytes

    def share(self) -> Self:
        """The same bytes for one more holder, who releases them too: a decode outlives its request,
        because threads cannot be stopped."""
        self._holders += 1
        return self

    def release(self) -> None:
        """One holder needs it no more."""
        self._holders -= 1
        if self._holders == 0:
            self._memory._give(self._num_bytes)
            self._num_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
