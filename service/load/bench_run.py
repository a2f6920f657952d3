"""`laud bench serve`: start the server, measure the parts that were asked for, stop it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from engines.bench.report import Machine
from engines.latency.identity import cpu_name
from service.load.bench_agreement import agreement
from service.load.bench_lag import lag
from service.load.bench_load import contention, goodput
from service.load.bench_plan import BenchPlan, check_plan
from service.load.bench_report import Agreement, AgreementCell, ServeBench, Table
from service.load.bench_steady import Bench, Say, capacity, overhead
from service.load.client import Client, run
from service.load.own_server import Process, own_server
from service.load.pictures import described, read_pictures
from service.load.target import Ask, find_model

AGREEMENT = "agreement"


def bench_serve(plan: BenchPlan, say: Say) -> ServeBench:
    """Measure. Raises InvalidInput, LoadError, OSError."""
    check_plan(plan)
    machine = Machine(cpu=cpu_name(), cpus=os.cpu_count() or 1, load=os.getloadavg()[0])
    found = ServeBench(bundle=plan.bundle, machine=machine)
    if set(plan.parts) - {AGREEMENT}:
        with _server(plan, say) as process:
            found = run(_measure(plan, process, machine, say))
    if AGREEMENT in plan.parts:
        found = found.model_copy(update={AGREEMENT: _agreement(plan, say)})
    return found


@contextmanager
def _server(plan: BenchPlan, say: Say, *more: str) -> Iterator[Process]:
    options = (*plan.server_options, *more)
    say(f"starting laud serve {plan.bundle} {' '.join(options)}".rstrip())
    with own_server(plan.bundle, options) as process:
        yield process


@asynccontextmanager
async def _bench(plan: BenchPlan, process: Process, say: Say) -> AsyncIterator[Bench]:
    pictures = read_pictures(plan.images)
    async with Client(process.server) as client:
        model = await find_model(client, Ask())
        yield Bench(plan, process, client, model, pictures, described(pictures, plan.images), say)


def _agreement(plan: BenchPlan, say: Say) -> Agreement:
    """One server for each policy, which is a setting of it."""
    tables: list[Table] = []
    cells: list[AgreementCell] = []

    async def measure(process: Process, policy: str) -> tuple[Table, tuple[AgreementCell, ...]]:
        async with _bench(plan, process, say) as bench:
            return await agreement(bench, policy)

    for policy in plan.policies:
        with _server(plan, say, "--policy", policy) as process:
            table, found = run(measure(process, policy))
        tables.append(table)
        cells.extend(found)
    return Agreement(tables=tuple(tables), cells=tuple(cells))


async def _measure(plan: BenchPlan, process: Process, machine: Machine, say: Say) -> ServeBench:
    async with _bench(plan, process, say) as bench:
        parts = set(plan.parts)
        over = found = late = good = taken = None
        if "overhead" in parts:
            say(f"overhead: {plan.turns} turns")
            over = await overhead(bench)
        # The others need to know what the server can do.
        if parts & {"capacity", "goodput", "contention"}:
            found = await capacity(bench)
        if "lag" in parts:
            late = await lag(bench)
        if "goodput" in parts and found:
            good = await goodput(bench, found)
        if "contention" in parts and found:
            taken = await contention(bench, found)
    return ServeBench(
        bundle=plan.bundle,
        machine=machine,
        overhead=over,
        capacity=found,
        lag=late,
        goodput=good,
        contention=taken,
    )
