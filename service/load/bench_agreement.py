"""Part of `laud bench serve`: the same requests to the real server and to the simulator.

The simulator is given the machine as the server's own answers told it in runs at every point
before, what the front costs included. It is asked three times: with nothing known of the load; with
what a rehearsal told, a run of other arrivals at the same load, since a machine that has more to do
than it can does everything later; and replaying the luck of the compared run itself, that is how
much longer than usual calls took at that time and how long each request was on its way, so that a
machine whose speed moves is told apart from queue, rules and policies that are not those of the
server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from service.load.arrivals import Mix, gamma
from service.load.bench_plan import FULL
from service.load.bench_report import AgreementCell, Found, Table, TablePoint
from service.load.bench_steady import AMPLE_S, IN_FLIGHT, Bench
from service.load.closed_loop import saturate
from service.load.offering import Planned, offer, plan_load, warm_up
from service.load.records import Floats, Records
from service.load.report import report_of
from service.load.told import (
    Told,
    luck_of,
    planned_s,
    seen_in,
    seen_s,
    told_again,
    told_by,
)
from service.policy import policy_named
from service.policy.baselines import Fixed
from service.policy.core import Policy
from service.simulation.core import Ask, Machine, Offered
from service.simulation.grid import MIX_SHARES, MIX_TIMES
from service.simulation.learning import learnt_costs
from service.simulation.report import measures
from service.simulation.run import simulate

_TOLD_AT = 0.8
# A slow or busy machine takes longer to tell, but not for ever.
_ENOUGH, _MOST_S = 60, 15.0
_PAUSE_S = 0.5
_SEEDS = 10
_LONELY, _ALONE_S = 40, 0.04
_OTHER_ARRIVALS = 1000


async def table_of(bench: Bench) -> Told:
    """The machine as answers at every point tell it, each at 80 % of what it can do."""
    plan, runs = bench.plan, {}
    each_s = plan.seconds / 4
    alone = await _alone(bench)
    front_s, answered, capacity_hz = 0.0, 0, 0.0
    for number, point in enumerate(bench.model.points):
        bench.say(f"agreement: what calls at point {point} take")
        calls = bench.calls(bench.pictures, point)
        most = await saturate(
            bench.client, calls, in_flight=IN_FLIGHT, duration_s=each_s / 2, slo_s=AMPLE_S
        )
        if point == FULL:
            capacity_hz = most.throughput_hz
        rate_hz = _TOLD_AT * most.throughput_hz
        planned = plan_load(
            gamma(rate_hz),
            max(each_s, min(_ENOUGH / rate_hz, _MOST_S)),
            len(calls),
            plan.seed + number,
            Mix((1.0,), (AMPLE_S,)),
        )
        before_s = bench.process.thread_cpu_s()[bench.process.pid]
        runs[point] = await offer(bench.client, calls, planned)
        front_s += bench.process.thread_cpu_s()[bench.process.pid] - before_s
        answered += int(runs[point].answered.sum())
    return told_by(
        bench.model,
        runs,
        alone=alone,
        front_s=front_s / max(answered, 1),
        capacity_hz=capacity_hz,
    )


async def _alone(bench: Bench) -> Records:
    """Requests that meet nobody."""
    calls = bench.calls(bench.pictures, FULL)
    planned = [Planned(k * _ALONE_S, AMPLE_S, k % len(calls)) for k in range(_LONELY)]
    await warm_up(bench.client, calls, 1 / _ALONE_S, 0.5, bench.plan.seed)
    return await offer(bench.client, calls, planned)


async def agreement(bench: Bench, name: str) -> tuple[Table, tuple[AgreementCell, ...]]:
    """Every load and burstiness, with the policy of that name, which the server has."""
    plan, policy = bench.plan, policy_named(name)
    told = await table_of(bench)
    mix = mix_of(told.machine, plan.slo_ms)
    pinned = policy.point or FULL if isinstance(policy, Fixed) else None
    calls = bench.calls(bench.pictures, pinned)
    cells = []
    for load in plan.loads:
        for cv2 in plan.cv2s:
            rate_hz = load * told.capacity_hz
            arrivals = gamma(rate_hz, cv2)
            rehearsal, planned = (
                plan_load(arrivals, plan.seconds, len(calls), seed, mix)
                for seed in (plan.seed + _OTHER_ARRIVALS, plan.seed)
            )
            bench.say(f"agreement: {name} at {rate_hz:.1f}/s, CV^2 {cv2:g}, {len(planned)} sent")
            await warm_up(bench.client, calls, rate_hz, min(1.0, plan.seconds / 5), plan.seed)
            again = told_again(told, await offer(bench.client, calls, rehearsal))
            await asyncio.sleep(_PAUSE_S)
            records = await offer(bench.client, calls, planned)
            await asyncio.sleep(_PAUSE_S)
            cells.append(
                cell_of(policy, (told, again), planned, records, load, cv2, plan.seconds, pinned)
            )
    return table(name, told, mix), tuple(cells)


def cell_of(
    policy: Policy,
    known: tuple[Told, Told],
    planned: Sequence[Planned],
    records: Records,
    load: float,
    cv2: float,
    duration_s: float,
    pinned: str | None = None,
) -> AgreementCell:
    """What the server did with the planned requests beside what the simulator does with them.

    known: the machine as runs at every point told it, and as a rehearsal told it.
    """
    report = report_of(records, duration_s=duration_s)
    told = known[0]
    machine = told.machine
    place = None if pinned is None else place_of(machine, pinned)
    begin_s, ratios = luck_of(records, machine)

    def at_that_time(at_s: float) -> float:
        """As the call that the server began at that time, or last before."""
        return float(ratios[max(int(np.searchsorted(begin_s, at_s, "right")) - 1, 0)])

    at_s = np.array([one.at_s for one in planned])
    due_s = at_s + np.array([one.slo_s for one in planned], np.float64)

    def found(
        told: Told,
        machine: Machine,
        seen: Floats,
        after_s: Sequence[Floats],
        luck: Callable[[float], float] = lambda at_s: 1.0,
    ) -> Found:
        """A run for each of `after_s`, with a seed of its own."""
        order = np.argsort(seen, kind="stable")
        runs = [
            measures(
                machine.dial,
                simulate(
                    machine,
                    policy,
                    Offered(
                        seen[order],
                        (due_s - seen)[order],
                        (Ask(None if place is None else (place,)),),
                        decode_s=told.decode_s,
                        longer_s=(each_s - machine.overhead_s)[order],
                    ),
                    seed=seed,
                    costs_of=lambda _, clock: learnt_costs(told.machine, clock),
                    disturbed=luck,
                ),
            )
            for seed, each_s in enumerate(after_s)
        ]
        means = [run.mean_accuracy for run in runs if run.mean_accuracy is not None]
        return Found(
            attainment=float(np.mean([run.attainment for run in runs])),
            accuracy=float(np.mean(means)) if means else None,
        )

    def drawn(told: Told) -> Found:
        """As that machine, whose luck is drawn anew for each request and call."""
        draws = np.random.default_rng(0).random((_SEEDS, len(planned)))
        after_s = list(np.quantile(told.after_s, draws))
        return found(told, told.machine, seen_s(told, at_s), after_s)

    seen, after_s = seen_in(told, records)
    exact = replace(machine, ratios=(1.0,), rested_ratio=1.0, overhead_s=planned_s(after_s))
    return AgreementCell(
        policy=policy.name,
        load=load,
        cv2=cv2,
        rate_hz=len(planned) / duration_s,
        requests=len(planned),
        server=Found(attainment=report.attainment, accuracy=report.mean_accuracy),
        simulated=drawn(told),
        rehearsed=drawn(known[1]),
        replayed=found(told, exact, seen, [after_s], at_that_time) if ratios.size else None,
        speed=float(np.median(ratios)) if ratios.size else None,
        client_was_late=report.client_was_late,
    )


def mix_of(machine: Machine, slo_ms: float | None) -> Mix:
    """70, 20 and 10 % with a budget, half and a quarter of it; None is 15 images at `full`."""
    most_s = (
        MIX_TIMES[0] * (machine.taken or machine.dial).points[place_of(machine, FULL)].seconds[0]
        if slo_ms is None
        else slo_ms / 1e3
    )
    return Mix(MIX_SHARES, tuple(most_s * times / MIX_TIMES[0] for times in MIX_TIMES))


def place_of(machine: Machine, name: str) -> int:
    """Of the point of that name in the machine's dial."""
    return next(k for k, point in enumerate(machine.dial.points) if point.name == name)


def table(policy: str, told: Told, mix: Mix) -> Table:
    """For the report."""
    machine = told.machine
    return Table(
        policy=policy,
        points=tuple(
            TablePoint(
                point=point.name,
                accuracy=point.accuracy,
                ms=tuple(seconds * 1e3 for seconds in taken.seconds),
                own_ms=point.seconds[0] * 1e3,
            )
            for point, taken in zip(
                machine.dial.points, (machine.taken or machine.dial).points, strict=True
            )
        ),
        p95_ratio=float(np.quantile(machine.ratios, 0.95)),
        rested_ratio=machine.rested_ratio,
        decode_ms=told.decode_s * 1e3,
        front_ms=told.front_s * 1e3,
        entry_ms=told.entry_s * 1e3,
        answer_ms=float(np.median(told.after_s)) * 1e3,
        capacity_hz=told.capacity_hz,
        budgets_ms=tuple(slo_s * 1e3 for slo_s in mix.slos_s),
    )
