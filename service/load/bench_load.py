"""Parts of `laud bench serve` under open load: goodput against `full`, and a core taken away."""

from __future__ import annotations

import asyncio
import os
import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count

import numpy as np

from service.load.arrivals import Mix, gamma
from service.load.bench_plan import FULL, fastest, of_full, recovery_s
from service.load.bench_report import Capacity, Contention, Goodput
from service.load.bench_steady import Bench
from service.load.client import LoadError
from service.load.closed_loop import search_rates
from service.load.offering import offer, plan_load, warm_up
from service.load.own_server import busy_core
from service.load.records import OK, Ledger, Records
from service.load.report import LoadReport, report_of
from service.load.target import Call, error_of, read_answer

ATTAINMENT = 0.99
OURS = "ours"

# A little above what the server does when it is kept busy: beyond that nothing is in time.
_ABOVE = 1.1
_PAUSE_S = 0.5
_WINDOW_S = 5
_SAME_ACCURACY = 0.001
_PARTS_OF_CONTENTION = 3


async def budget_ms(bench: Bench) -> float:
    """The latency budget of all runs: as asked, or the server's own default."""
    if bench.plan.slo_ms is not None:
        return bench.plan.slo_ms
    response = await bench.client.send(*bench.calls(bench.pictures)[0].parts(None))
    slo_s = read_answer(response).slo_s
    if response.status != OK or slo_s is None:
        raise LoadError(f"the server tells no default budget ({error_of(response)}); give --slo-ms")
    return slo_s * 1e3


@dataclass
class _Probe:
    """Attainment at a rate, each time with arrivals of its own; counts runs of a late client."""

    bench: Bench
    name: str
    slo_ms: float
    seeds: Iterator[int]
    client_was_late: int = 0

    async def __call__(self, rate_hz: float) -> float:
        calls = self.bench.calls(self.bench.pictures, None if self.name == OURS else self.name)
        report = await _offered(self.bench, calls, rate_hz, self.slo_ms, next(self.seeds))
        self.client_was_late += report.client_was_late
        self.bench.say(f"goodput: {self.name} at {rate_hz:.1f}/s: {report.attainment:.2%} in time")
        return report.attainment


async def goodput(bench: Bench, capacity: Capacity) -> Goodput:
    """Search the highest rate in time, for the policy and for `full`, in turns."""
    slo_ms = await budget_ms(bench)
    # The same arrivals for both, as far as their rates allow.
    probes = {name: _Probe(bench, name, slo_ms, count(bench.plan.seed)) for name in (OURS, FULL)}
    highest_hz = {
        OURS: _ABOVE * fastest(capacity.points).throughput_hz,
        FULL: _ABOVE * of_full(capacity.points).throughput_hz,
    }
    searches = [
        await search_rates(probes, highest_hz, attainment=ATTAINMENT, steps=bench.plan.steps)
        for _ in range(bench.plan.rounds)
    ]
    return goodput_of(
        capacity,
        slo_ms,
        [one[OURS] for one in searches],
        [one[FULL] for one in searches],
        sum(probe.client_was_late for probe in probes.values()),
    )


def goodput_of(
    capacity: Capacity,
    slo_ms: float,
    ours_hz: Sequence[float],
    full_hz: Sequence[float],
    client_was_late: int,
) -> Goodput:
    """Medians of the searches beside the bound that CPU times give."""
    # By CPU times: throughput is what noise gets into.
    cheapest = fastest(capacity.bounds)
    quick = next(one for one in capacity.points if one.point == cheapest.point)
    full = of_full(capacity.points)
    ours, theirs = statistics.median(ours_hz), statistics.median(full_hz)
    if theirs <= 0:
        raise LoadError(
            f"'{FULL}' was never in time with {slo_ms:g} ms, at any rate; give more with --slo-ms"
        )
    bound_ratio = cheapest.throughput_hz / of_full(capacity.bounds).throughput_hz
    return Goodput(
        slo_ms=slo_ms,
        attainment=ATTAINMENT,
        ours_hz=ours,
        full_hz=theirs,
        ours_searches_hz=tuple(ours_hz),
        full_searches_hz=tuple(full_hz),
        ratio=ours / theirs,
        bound_ratio=bound_ratio,
        engine_ratio=full.engine_ms / max(quick.engine_ms, 1e-9),
        of_bound=ours / theirs / bound_ratio,
        limiting=cheapest.limiting,
        client_was_late=client_was_late,
    )


async def contention(bench: Bench, capacity: Capacity) -> Contention:
    """One steady load, a third of it beside a process that takes a core."""
    plan = bench.plan
    slo_ms = await budget_ms(bench)
    rate_hz = plan.share * of_full(capacity.points).throughput_hz
    calls = bench.calls(bench.pictures)
    duration_s = _PARTS_OF_CONTENTION * plan.hog_s
    planned = plan_load(
        gamma(rate_hz), duration_s, len(calls), plan.seed, Mix((1.0,), (slo_ms / 1e3,))
    )
    core = min(os.sched_getaffinity(0))
    bench.say(f"contention: {rate_hz:.1f}/s for {duration_s:.0f} s, core {core} taken in between")
    await warm_up(bench.client, calls, rate_hz, 2.0, plan.seed)
    taken = ExitStack()

    def on_sent(number: int, ledger: Ledger) -> None:
        """At the pace of the load itself, so that seconds of the report are those of the taking."""
        due_s = planned[min(number, len(planned) - 1)].at_s
        if plan.hog_s <= due_s < 2 * plan.hog_s and not busy:
            busy.append(core)
            taken.enter_context(busy_core(core))
            bench.say(f"contention: core {core} is busy")
        elif due_s >= 2 * plan.hog_s and busy:
            busy.clear()
            taken.close()
            bench.say(f"contention: core {core} is free again")

    busy: list[int] = []
    with taken:
        records = await offer(bench.client, calls, planned, on_sent=on_sent)
    return contention_of(records, rate_hz, slo_ms, plan.hog_s)


def contention_of(records: Records, rate_hz: float, slo_ms: float, hog_s: float) -> Contention:
    """What became of three stretches of `hog_s`, the core taken in the middle one."""
    duration_s = _PARTS_OF_CONTENTION * hog_s
    seconds = report_of(records, duration_s=duration_s, bin_s=1.0).bins
    during = [one for one in seconds if hog_s <= one.at_s < 2 * hog_s]
    before_accuracy = _accuracy(records, 0.0, hog_s)
    return Contention(
        rate_hz=rate_hz,
        slo_ms=slo_ms,
        begin_s=hog_s,
        end_s=2 * hog_s,
        attainment_before=_attainment(records, 0.0, hog_s),
        attainment_during=_attainment(records, hog_s, 2 * hog_s),
        attainment_after=_attainment(records, 2 * hog_s, duration_s),
        recovered_s=recovery_s(
            [one.at_s for one in during],
            [one.sent for one in during],
            [one.met for one in during],
            ATTAINMENT,
        ),
        accuracy_before=before_accuracy,
        accuracy_during=_accuracy(records, hog_s, 2 * hog_s),
        accuracy_back_s=_accuracy_back_s(records, before_accuracy, 2 * hog_s, duration_s),
        seconds=seconds,
    )


async def _offered(
    bench: Bench, calls: Sequence[Call], rate_hz: float, slo_ms: float, seed: int
) -> LoadReport:
    seconds = bench.plan.seconds
    mix = Mix((1.0,), (slo_ms / 1e3,))
    planned = plan_load(gamma(rate_hz), seconds, len(calls), seed, mix)
    await warm_up(bench.client, calls, rate_hz, min(1.0, seconds / 5), seed)
    records = await offer(bench.client, calls, planned)
    # What one run left behind is not the next one's to finish.
    await asyncio.sleep(_PAUSE_S)
    return report_of(records, duration_s=seconds)


def _inside(records: Records, begin_s: float, end_s: float) -> np.ndarray:
    return (records.at_s >= begin_s) & (records.at_s < end_s)


def _attainment(records: Records, begin_s: float, end_s: float) -> float:
    inside = _inside(records, begin_s, end_s)
    return float(records.met[inside].mean()) if inside.any() else 0.0


def _accuracy(records: Records, begin_s: float, end_s: float) -> float | None:
    found = records.accuracy[_inside(records, begin_s, end_s) & records.met]
    return float(found.mean()) if found.size and not np.isnan(found).any() else None


def _accuracy_back_s(
    records: Records, before: float | None, begin_s: float, end_s: float
) -> float | None:
    """How long after `begin_s` the accuracy of some seconds in a row is as it was before."""
    if before is None:
        return None
    for second in range(int(end_s - begin_s) - _WINDOW_S + 1):
        at_s = begin_s + second
        found = _accuracy(records, at_s, at_s + _WINDOW_S)
        if found is not None and found >= before - _SAME_ACCURACY:
            return float(second)
    return None
