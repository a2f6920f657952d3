"""What the server's own metrics say while it is under load: CPU seconds, memory, distributions."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np

from service.load.client import Client, Server, Unanswered
from service.load.records import OK
from service.load.target import METRICS, get

CPU = "process_cpu_seconds_total"
MEMORY = "process_resident_memory_bytes"
# What is first touched under load is no leak: the slope is over the last two thirds of a run.
_SETTLING = 1 / 3
_FEWEST_FOR_SLOPE = 4


@dataclass(frozen=True, slots=True)
class Sample:
    """One look: when, on the client's clock; CPU seconds since its start; resident bytes."""

    at_s: float
    cpu_s: float
    rss_bytes: float


@dataclass(slots=True)
class Watched:
    """Looks at one server over time; empty where it publishes no metrics."""

    samples: list[Sample] = field(default_factory=list)

    @property
    def cpu_s(self) -> float | None:
        """CPU seconds that it used between the first look and the last."""
        if len(self.samples) < 2:
            return None
        return self.samples[-1].cpu_s - self.samples[0].cpu_s

    @property
    def rss_bytes_per_s(self) -> float | None:
        """Slope of its memory, by least squares, after the first third; None for too few looks."""
        if not self.samples:
            return None
        begin_s, end_s = self.samples[0].at_s, self.samples[-1].at_s
        kept = [s for s in self.samples if s.at_s >= begin_s + _SETTLING * (end_s - begin_s)]
        if len(kept) < _FEWEST_FOR_SLOPE:
            return None
        times = np.array([one.at_s for one in kept])
        sizes = np.array([one.rss_bytes for one in kept])
        times -= times.mean()
        return float((times * sizes).sum() / (times**2).sum())


@asynccontextmanager
async def watched(
    server: Server, headers: Sequence[tuple[str, str]], every_s: float
) -> AsyncIterator[Watched]:
    """Look at the beginning, every `every_s`, and at the end."""
    found = Watched()
    async with Client(server, connections=1) as client:

        async def look() -> None:
            page = await read_metrics(client, headers)
            values = metric_values(page, (CPU, MEMORY))
            if len(values) == 2:
                found.samples.append(Sample(client.clock(), values[CPU], values[MEMORY]))

        async def keep_looking() -> None:
            while True:
                await asyncio.sleep(every_s)
                await look()

        await look()
        task = asyncio.create_task(keep_looking())
        try:
            yield found
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await look()


async def read_metrics(client: Client, headers: Sequence[tuple[str, str]] = ()) -> str:
    """The page of metrics; empty where there is none, or not for us."""
    try:
        response = await client.send(get(client.server, METRICS, headers))
    except Unanswered:
        return ""
    return response.body.decode("utf-8", "replace") if response.status == OK else ""


def metric_values(page: str, names: Sequence[str]) -> dict[str, float]:
    """Values of metrics without labels; those that are not there are left out."""
    found: dict[str, float] = {}
    for line in page.splitlines():
        name, _, value = line.partition(" ")
        if name in names:
            found[name] = float(value)
    return found


def bucket_counts(page: str, name: str) -> dict[float, float]:
    """Cumulative counts per upper bound of a histogram, over all its labels."""
    from prometheus_client.parser import text_string_to_metric_families

    counts: dict[float, float] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples if family.name == name else ():
            if sample.name == f"{name}_bucket":
                bound = float(sample.labels["le"])
                counts[bound] = counts.get(bound, 0.0) + float(sample.value)
    return counts


def quantile_between(
    before: Mapping[float, float], after: Mapping[float, float], level: float
) -> float | None:
    """A quantile of what a histogram counted between two looks: linear inside its bucket.

    None where nothing was counted. What lies above the last bound is told as that bound.
    """
    bounds = sorted(after)
    counts = [after[bound] - before.get(bound, 0.0) for bound in bounds]
    if not counts or counts[-1] <= 0:
        return None
    wanted = level * counts[-1]
    lower, below = 0.0, 0.0
    for bound, count in zip(bounds, counts, strict=True):
        if count >= wanted:
            if math.isinf(bound):
                return lower
            return lower + (bound - lower) * (wanted - below) / max(count - below, 1e-12)
        lower, below = bound, count
    return lower
