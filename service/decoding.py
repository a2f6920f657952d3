"""From the picture of a request to the engine's pixels: at once, or on a thread of the decode pool.

A picture is decoded once, for the size of the point it was given, and never on the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from engines.core import UInt8Array
from service.decode_costs import DecodeCosts
from service.images import Picture
from service.request import Request
from service.work_pool import Work, WorkPool

_SHORT_S = 0.003
"""About ten times what it takes to wake a thread and to be woken by it, on a machine that rests."""
_SHARED_S = 0.001
"""What a thread is given at once, where a batch has so much: whatever it decodes, handing over
takes a tenth of that from the event loop and the engine, which need the same interpreter."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Decoded:
    """Pixels (size, size, 3), and the seconds that a thread spent on them."""

    pixels: UInt8Array
    seconds: float


class DecodePool:
    """A bounded number of threads that decode."""

    def __init__(
        self,
        threads: int,
        *,
        pool: Executor | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """pool: instead of threads, where a test decides what is decoded when."""
        self._clock = clock
        self._pool = WorkPool(threads, "laud-decode", pool=pool)

    def decode_all(self, tasks: Sequence[Work[Decoded]]) -> list[asyncio.Future[Decoded]]:
        """Several pictures on one of the threads, told of together.

        Cancelling a future drops its picture before it is begun. on_end of a task: called on the
        loop once no thread holds the picture, which may be after the future was cancelled.
        """
        return self._pool.run_all(tasks)

    def task(
        self, picture: Picture, size: int, crop_ratio: float, on_end: Callable[[], None]
    ) -> Work[Decoded]:
        """`picture.at(size)`, for `decode_all`."""
        return Work(partial(self._decode, picture, size, crop_ratio), on_end)

    def close(self) -> None:
        """Start nothing more; what runs finishes, unless the program ends."""
        self._pool.close()

    def _decode(self, picture: Picture, size: int, crop_ratio: float) -> Decoded:
        begin_s = self._clock()
        pixels = picture.at(size, crop_ratio=crop_ratio)
        return Decoded(pixels, self._clock() - begin_s)


class Preparation:
    """Makes pixels of requests that were chosen, and learns what decoding costs.

    crop_ratio: of a model, by its name. width: threads of the pool.
    """

    def __init__(
        self,
        pool: DecodePool,
        costs: DecodeCosts,
        crop_ratio: Callable[[str], float],
        *,
        width: int,
    ) -> None:
        self._pool = pool
        self.width = width
        self._costs = costs
        self._crop_ratio = crop_ratio

    def predict_s(self, model: str, picture: Picture, size: int) -> float:
        """Seconds to plan for; 0 for pixels."""
        if picture.header is None:
            return 0.0
        return self._costs.predict(
            picture.header,
            size,
            num_bytes=picture.num_bytes,
            crop_ratio=self._crop_ratio(model),
        )

    def groups(self, requests: Iterable[Request]) -> list[list[Request]]:
        """Who has to be decoded, and whose pictures are so short that they share a thread."""
        encoded = [each for each in requests if self.ready(each) is None]
        return grouped(encoded, _prepare_s, _SHARED_S)

    def takes_s(self, groups: Iterable[Sequence[Request]]) -> float:
        """Seconds until all are decoded, if all threads are free."""
        each_s = [sum(request.prepare_s for request in group) for group in groups]
        return max(max(each_s, default=0.0), sum(each_s) / self.width)

    def expected_s(self, requests: Iterable[Request]) -> float:
        """The same of requests that have no points yet; pixels take no time."""
        return self.takes_s(grouped(requests, _prepare_s, _SHARED_S))

    def ready(self, request: Request) -> UInt8Array | None:
        """Its pixels, where they came in the size of its point."""
        return request.picture.ready_at(_size(request))

    def decode(self, group: Sequence[Request]) -> list[asyncio.Future[Decoded]]:
        """Pixels for the requests' points, from one thread.

        A request's memory stays accounted until no thread needs its picture.
        """
        ratio = self._crop_ratio(group[0].model)
        return self._pool.decode_all(
            [self._pool.task(each.picture, _size(each), ratio, self.hold(each)) for each in group]
        )

    def is_short(self, request: Request) -> bool:
        """Whether decoding takes so little time that handing it to a thread is not worth it where
        another thread has to have its pixels, and waits for them."""
        return self.ready(request) is None and request.prepare_s <= _SHORT_S

    def hold(self, request: Request) -> Callable[[], None]:
        """Account its memory until what is returned was called: a thread needs its picture."""
        return (lambda: None) if request.room is None else request.room.share().release

    def observe(self, request: Request) -> None:
        """Its pixels are there, after `decode_s` of a thread."""
        if request.picture.header is not None:
            self._costs.observe(
                request.picture.header,
                _size(request),
                request.decode_s,
                num_bytes=request.picture.num_bytes,
                crop_ratio=self._crop_ratio(request.model),
            )


def grouped(items: Iterable[T], seconds: Callable[[T], float], least_s: float) -> list[list[T]]:
    """Neighbours together, each group but the last of `least_s` or more."""
    groups: list[list[T]] = []
    left_s = 0.0
    for item in items:
        if left_s <= 0.0:
            groups.append([])
            left_s = least_s
        groups[-1].append(item)
        left_s -= seconds(item)
    return groups


def _prepare_s(request: Request) -> float:
    return request.prepare_s


def _size(request: Request) -> int:
    if request.point is None:
        raise TypeError("a request is prepared once it has a point")
    return request.point.image_size
