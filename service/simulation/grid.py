"""Every policy in every cell of loads and burstiness, on the same arrivals; who is first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engines.core import FrozenModel
from engines.errors import InvalidInput
from service.load.arrivals import Mix, first, gamma
from service.policy.baselines import Fixed
from service.policy.core import Policy
from service.simulation.core import Ask, Bounds, CostsOf, Machine, Offered, SteadyCosts
from service.simulation.report import (
    Interval,
    Measures,
    interval,
    measures,
    over_seeds,
    where_known,
)
from service.simulation.run import simulate

LOADS: tuple[float, ...] = (0.5, 0.9, 1.3, 2.0)
CV2S: tuple[float, ...] = (1.0, 8.0)
SEEDS, REQUESTS = 20, 2000

SAME = 1e-4
"""Effective accuracies that differ by less are the same: no validation set tells them apart."""

MIX_SHARES, MIX_TIMES = (0.7, 0.2, 0.1), (15.0, 7.5, 3.75)
"""Budgets of 100, 50 and 25 ms at 70, 20 and 10 %, scaled to the machine: in seconds of one image
at `full`."""

FULL = "full"


@dataclass(frozen=True)
class Plan:
    """loads: of the capacity of `full`, see `reference`. cv2s: of the gaps between arrivals.

    requests: of each run. mix: None is `scaled_mix`.
    """

    loads: tuple[float, ...] = LOADS
    cv2s: tuple[float, ...] = CV2S
    seeds: int = SEEDS
    requests: int = REQUESTS
    mix: Mix | None = None
    decode_s: float = 0.0
    degrade: bool = True

    def __post_init__(self) -> None:
        if not self.loads or not self.cv2s or min(self.seeds, self.requests) < 1:
            raise InvalidInput("a grid needs loads, CV^2, seeds and requests: at least one each")


class PolicyResult(FrozenModel):
    """A policy in one cell, over the seeds.

    behind: effective accuracy of ours minus that of this one, run by run; its interval above 0 is
    where ours is better, below 0 where it is worse.
    """

    name: str
    attainment: Interval
    mean_accuracy: Interval | None
    effective_accuracy: Interval
    goodput_hz: Interval
    p99_over_deadline: Interval | None
    late: float
    refused: float
    expired: float
    busy: float
    points: dict[str, float]
    behind: Interval


class Cell(FrozenModel):
    """One load and burstiness. headroom: capacity of the fastest point over the load.

    first: who has the highest effective accuracy. ours_reaches_first: whether no other is better by
    more than chance, at 95 %, and `SAME`.
    """

    load: float
    cv2: float
    rate_hz: float
    headroom: float
    first: str
    ours_reaches_first: bool
    policies: tuple[PolicyResult, ...]


class GridReport(FrozenModel):
    """The whole grid. ours: the first policy that was given."""

    machine: str
    points: dict[str, float]
    ours: str
    seeds: int
    requests: int
    cells: tuple[Cell, ...]


def scaled_mix(machine: Machine) -> Mix:
    """The mix of deadlines that suits the machine."""
    full_s = machine.dial.points[reference(machine)].seconds[0]
    return Mix(MIX_SHARES, tuple(times * full_s for times in MIX_TIMES))


def reference(machine: Machine) -> int:
    """The point that loads and deadlines are measured by: `full`, or without it the most accurate.

    `full` is the static network, whose capacity is there whatever else a dial has; another point
    may be more accurate and faster by luck of the validation set.
    """
    names = [point.name for point in machine.dial.points]
    return names.index(FULL) if FULL in names else machine.dial.front[-1]


def run_grid(
    name: str,
    machine: Machine,
    policies: Sequence[Policy],
    plan: Plan,
    *,
    costs_of: CostsOf = lambda machine, clock: SteadyCosts(machine),
    bounds: Bounds | None = None,
    advance: Callable[[], None] = lambda: None,
) -> GridReport:
    """Every policy in every cell. advance: called after every run, `num_runs` times in all.

    Fixed points are asked for by the requests, as clients would: admission then knows.
    """
    if not policies:
        raise InvalidInput("at least one policy is needed")
    cells = []
    for load in plan.loads:
        for cv2 in plan.cv2s:
            rate_hz = load * machine.capacity_hz(reference(machine))
            runs: dict[str, list[Measures]] = {policy.name: [] for policy in policies}
            for seed in range(plan.seeds):
                for policy in policies:
                    answers = simulate(
                        machine,
                        policy,
                        offered(machine, plan, rate_hz, cv2, seed, policy),
                        seed=seed,
                        bounds=bounds,
                        costs_of=costs_of,
                    )
                    runs[policy.name].append(measures(machine.dial, answers))
                    advance()
            cells.append(_cell(machine, load, cv2, rate_hz, runs))
    return GridReport(
        machine=name,
        points={point.name: point.accuracy for point in machine.dial.points},
        ours=policies[0].name,
        seeds=plan.seeds,
        requests=plan.requests,
        cells=tuple(cells),
    )


def num_runs(plan: Plan, policies: Sequence[Policy]) -> int:
    """How many runs a grid has."""
    return len(plan.loads) * len(plan.cv2s) * plan.seeds * len(policies)


def offered(
    machine: Machine, plan: Plan, rate_hz: float, cv2: float, seed: int, policy: Policy
) -> Offered:
    """The requests of one run: the same for every policy but for what a fixed one pins."""
    rng = np.random.default_rng([seed, 0])
    at_s = first(gamma(rate_hz, cv2), rng, plan.requests)
    slo_s = (plan.mix or scaled_mix(machine)).draw(rng, plan.requests)
    allowed = (policy.place(machine.dial),) if isinstance(policy, Fixed) else None
    return Offered(at_s, slo_s, (Ask(allowed, plan.degrade),), decode_s=plan.decode_s)


def _cell(
    machine: Machine, load: float, cv2: float, rate_hz: float, runs: Mapping[str, list[Measures]]
) -> Cell:
    ours = next(iter(runs.values()))
    results = tuple(_result(machine, name, found, ours) for name, found in runs.items())
    return Cell(
        load=load,
        cv2=cv2,
        rate_hz=rate_hz,
        headroom=machine.capacity_hz(machine.dial.front[0]) / rate_hz,
        first=max(results, key=lambda result: result.effective_accuracy.mean).name,
        ours_reaches_first=all(result.behind.high >= -SAME for result in results),
        policies=results,
    )


def _result(
    machine: Machine, name: str, runs: Sequence[Measures], ours: Sequence[Measures]
) -> PolicyResult:
    def mean(values: Sequence[float]) -> float:
        return float(np.mean(values))

    return PolicyResult(
        name=name,
        attainment=over_seeds(runs, lambda run: run.attainment),
        mean_accuracy=where_known(runs, lambda run: run.mean_accuracy),
        effective_accuracy=over_seeds(runs, lambda run: run.effective_accuracy),
        goodput_hz=over_seeds(runs, lambda run: run.goodput_hz),
        p99_over_deadline=where_known(runs, lambda run: run.p99_over_deadline),
        late=mean([run.late for run in runs]),
        refused=mean([run.refused for run in runs]),
        expired=mean([run.expired for run in runs]),
        busy=mean([run.busy for run in runs]),
        points={
            point.name: mean([run.points[k] for run in runs])
            for k, point in enumerate(machine.dial.points)
        },
        behind=interval(
            [
                mine.effective_accuracy - run.effective_accuracy
                for mine, run in zip(ours, runs, strict=True)
            ]
        ),
    )
