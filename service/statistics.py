"""What each model did since the start, as the statistics extension of Triton reports it.

Counts and nanoseconds, cumulative: a load generator asks before and after and takes the difference
(https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md).
Requests of both route families count. For Prometheus there are the metrics, which know more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from service.batcher import Runner
from service.request import Batch, Exchange, Reply

_NONE = {"count": 0, "ns": 0}


@dataclass(slots=True)
class _Spent:
    """How often something happened, and how long that took in all."""

    count: int = 0
    nanoseconds: int = 0

    def add(self, seconds: float) -> None:
        # Unsigned on the wire: a difference of two clocks may be less than nothing by a rounding.
        self.nanoseconds += max(round(seconds * 1e9), 0)
        self.count += 1

    def as_triton(self) -> dict[str, int]:
        return {"count": self.count, "ns": self.nanoseconds}


@dataclass(slots=True)
class _Compute:
    """The three phases of Triton; always of equal counts, which perf_analyzer insists on."""

    before: _Spent = field(default_factory=_Spent)
    infer: _Spent = field(default_factory=_Spent)
    after: _Spent = field(default_factory=_Spent)

    def add(self, before_s: float, infer_s: float, after_s: float) -> None:
        self.before.add(before_s)
        self.infer.add(infer_s)
        self.after.add(after_s)

    def as_triton(self) -> dict[str, Any]:
        return {
            "compute_input": self.before.as_triton(),
            "compute_infer": self.infer.as_triton(),
            "compute_output": self.after.as_triton(),
        }


@dataclass(slots=True)
class _Counts:
    """Of one model. num_images: in requests that succeeded. calls: of the engine, by batch size.

    last_s: when a request last ended, seconds of the epoch.
    """

    num_images: int = 0
    last_s: float = 0.0
    success: _Spent = field(default_factory=_Spent)
    fail: _Spent = field(default_factory=_Spent)
    queue: _Spent = field(default_factory=_Spent)
    compute: _Compute = field(default_factory=_Compute)
    calls: dict[int, _Compute] = field(default_factory=dict)


class ModelStatistics:
    """Counts by model. Not for threads: the event loop's only."""

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        """wall: seconds of the epoch, for the time of the last request and nothing else."""
        self._wall = wall
        self._models: dict[str, _Counts] = {}

    def counting(self, runner: Runner) -> Runner:
        """The same runner, whose calls are counted."""
        return _Counting(runner, self)

    def observe_exchange(self, exchange: Exchange, duration_s: float) -> None:
        """Count an inference request at its end, `duration_s` after its first byte.

        One that did not name a served model belongs to none, and is not counted. Of several images
        the phases are those of the one that came last. What is in no phase (receiving, parsing,
        admission) is what perf_analyzer calls overhead.
        """
        if not exchange.model:
            return
        counts = self._counts(exchange.model)
        counts.last_s = self._wall()
        if exchange.status >= 400:
            counts.fail.add(duration_s)
            return
        phases_s, end_s = exchange.phases_s, exchange.arrived_s + duration_s
        counts.success.add(duration_s)
        counts.queue.add(phases_s.get("queue", 0.0))
        counts.compute.add(
            phases_s.get("decode", 0.0) + phases_s.get("prepare", 0.0),
            phases_s.get("network", 0.0),
            0.0 if exchange.engine_end_s is None else end_s - exchange.engine_end_s,
        )
        counts.num_images += len(exchange.points)

    def observe_calls(self, model: str, outcomes: Sequence[Reply | Exception]) -> None:
        """Count the calls of the engine that a batch took: one, or as many as it has images when
        they had to run singly. Calls that failed are not counted, nor is their time."""
        replies = [each for each in outcomes if isinstance(each, Reply)]
        if replies and replies[0].batch_size > 1:
            replies = replies[:1]
        calls = self._counts(model).calls
        for reply in replies:
            before_s = reply.phases_s.get("prepare", 0.0)
            infer_s = reply.phases_s.get("network", 0.0)
            compute = calls.setdefault(reply.batch_size, _Compute())
            compute.add(before_s, infer_s, reply.service_s - before_s - infer_s)

    def as_triton(self, model: str, version: str) -> dict[str, Any]:
        """The entry of a model in `model_stats`; zeros before its first request."""
        counts = self._models.get(model, _Counts())
        return {
            "name": model,
            "version": version,
            "last_inference": round(counts.last_s * 1e3),
            "inference_count": counts.num_images,
            "execution_count": sum(compute.infer.count for compute in counts.calls.values()),
            "inference_stats": {
                "success": counts.success.as_triton(),
                "fail": counts.fail.as_triton(),
                "queue": counts.queue.as_triton(),
                **counts.compute.as_triton(),
                "cache_hit": _NONE,
                "cache_miss": _NONE,
            },
            "batch_stats": _batch_stats(counts.calls),
            "memory_usage": [],
        }

    def _counts(self, model: str) -> _Counts:
        return self._models.setdefault(model, _Counts())


class _Counting:
    """A runner in front of another."""

    def __init__(self, runner: Runner, statistics: ModelStatistics) -> None:
        self._runner, self._statistics = runner, statistics

    def run(self, batch: Batch) -> asyncio.Future[list[Reply | Exception]]:
        """See `service.batcher.Runner`."""
        running = self._runner.run(batch)
        running.add_done_callback(partial(self._count, batch.model))
        return running

    def _count(self, model: str, running: asyncio.Future[list[Reply | Exception]]) -> None:
        if not running.cancelled() and running.exception() is None:
            self._statistics.observe_calls(model, running.result())


def _batch_stats(calls: Mapping[int, _Compute]) -> list[dict[str, Any]]:
    return [{"batch_size": size, **calls[size].as_triton()} for size in sorted(calls)]
