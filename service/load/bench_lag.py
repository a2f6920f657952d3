"""Part of `laud bench serve`: how punctual the event loop is under a load that the server bears."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from itertools import count

from service.load.arrivals import Mix, gamma
from service.load.bench_report import Lag
from service.load.bench_steady import AMPLE_S, IN_FLIGHT, Bench
from service.load.client import LoadError
from service.load.closed_loop import saturate, search_rates
from service.load.made_up import made_up_jpeg
from service.load.offering import offer, plan_load, warm_up
from service.load.report import LoadReport, report_of
from service.load.target import Call
from service.load.watching import bucket_counts, quantile_between, read_metrics

SHARE, LEVEL = 0.8, 0.99

# Long beside an image and short beside a run: what piles up misses it.
_SLO_S = 0.25
_PICTURES = 4
_HD = (1920, 1080, 600_000)
_PAUSE_S = 0.5
_NAME = "lag"


async def lag(bench: Bench) -> Lag:
    """The event loop and the policy at 80 % of what the server bears of 1080p JPEGs.

    That is searched in an open loop, below what a closed one gets out of it: client and server
    share the cores, and a closed loop leaves the server no peak to bear.
    """
    plan = bench.plan
    hd = [made_up_jpeg(*_HD, seed=seed) for seed in range(_PICTURES)]
    calls = bench.calls(hd)
    bench.say("lag: what a closed loop gets out of it with 1080p JPEGs")
    most = await saturate(
        bench.client, calls, in_flight=IN_FLIGHT, duration_s=plan.seconds / 4, slo_s=AMPLE_S
    )
    seeds = count(plan.seed)

    async def borne(rate_hz: float) -> float:
        report = await _offered(bench, calls, rate_hz, plan.seconds / 2, next(seeds))
        bench.say(f"lag: {report.attainment:.2%} of {rate_hz:.1f}/s in {_SLO_S * 1e3:.0f} ms")
        return report.attainment

    found = await search_rates(
        {_NAME: borne}, {_NAME: most.throughput_hz}, attainment=LEVEL, steps=plan.steps
    )
    sustained_hz = found[_NAME]
    if sustained_hz <= 0.0:
        raise LoadError("no rate of 1080p JPEGs was borne; is the machine busy?")
    rate_hz = SHARE * sustained_hz
    bench.say(f"lag: {rate_hz:.1f}/s for {2 * plan.seconds:.0f} s")
    before, client_s = await read_metrics(bench.client), time.process_time()
    server_s, begin_s = sum(bench.process.thread_cpu_s().values()), time.monotonic()
    report = await _offered(bench, calls, rate_hz, 2 * plan.seconds, next(seeds))
    took_s = time.monotonic() - begin_s
    server_s = sum(bench.process.thread_cpu_s().values()) - server_s
    client_s = time.process_time() - client_s
    after = await read_metrics(bench.client)

    def p99_ms(name: str) -> float | None:
        found = quantile_between(bucket_counts(before, name), bucket_counts(after, name), 0.99)
        return None if found is None else found * 1e3

    size = sum(len(one.data) for one in hd) / len(hd) / 1e3
    return Lag(
        pictures=f"{len(hd)} made-up JPEGs of {_HD[0]}x{_HD[1]}, {size:.0f} kB on average",
        slo_ms=_SLO_S * 1e3,
        level=LEVEL,
        sustained_hz=sustained_hz,
        share=SHARE,
        rate_hz=rate_hz,
        attainment=report.attainment,
        server_cores=server_s / took_s,
        client_cores=client_s / took_s,
        send_lag_p99_ms=report.send_lag_ms.p99,
        loop_lag_p99_ms=p99_ms("laud_event_loop_lag_seconds"),
        decision_p99_ms=p99_ms("laud_scheduler_decision_seconds"),
    )


async def _offered(
    bench: Bench, calls: Sequence[Call], rate_hz: float, seconds: float, seed: int
) -> LoadReport:
    planned = plan_load(gamma(rate_hz), seconds, len(calls), seed, Mix((1.0,), (_SLO_S,)))
    await warm_up(bench.client, calls, rate_hz, min(1.0, seconds / 5), seed)
    records = await offer(bench.client, calls, planned)
    await asyncio.sleep(_PAUSE_S)
    return report_of(records, duration_s=seconds)
