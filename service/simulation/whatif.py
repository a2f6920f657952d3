"""What to expect of a machine at a rate and latency budget, and beside them: where the cliff is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engines.core import FrozenModel
from engines.errors import InvalidInput
from service.load.arrivals import first, gamma
from service.policy.core import Policy
from service.simulation.core import Ask, Bounds, CostsOf, Machine, Offered, SteadyCosts
from service.simulation.report import Interval, measures, over_seeds, where_known
from service.simulation.run import simulate

RATE_FACTORS: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
SLO_FACTORS: tuple[float, ...] = (0.25, 0.5, 0.75, 1.5, 2.0)
SEEDS, REQUESTS = 4, 500

GOAL = 0.99
"""Attainment that is asked of the rates and budgets that are named as within reach."""


@dataclass(frozen=True, slots=True)
class ClassShare:
    """A latency class and how many of the requests are of it. min_accuracy, on_infeasible: as in
    the service's `slo_classes`."""

    name: str
    share: float
    slo_s: float
    min_accuracy: float | None = None
    degrade: bool = True


class Expected(FrozenModel):
    """What to expect at one rate with all budgets scaled. refused: 429; expired: 504.

    points: share of the answers. busy: share of the time that the engine runs.
    """

    rate_hz: float
    slo_factor: float
    attainment: Interval
    mean_accuracy: Interval | None
    effective_accuracy: Interval
    late: float
    refused: float
    expired: float
    busy: float
    p99_over_deadline: Interval | None
    points: dict[str, float]


class WhatIf(FrozenModel):
    """asked: at the rate and budgets in question. rates, slos: beside them, ascending, it included.

    most_hz: the highest of `rates` with an attainment of `GOAL` there and at all lower ones.
    least_slo_factor: likewise the smallest of the factors on budgets. None where there is none.
    """

    policy: str
    cv2: float
    asked: Expected
    rates: tuple[Expected, ...]
    slos: tuple[Expected, ...]
    most_hz: float | None
    least_slo_factor: float | None


@dataclass(frozen=True)
class Question:
    """classes: at least one; their shares are scaled to sum to 1. decode_s: of each picture."""

    rate_hz: float
    classes: tuple[ClassShare, ...]
    cv2: float = 1.0
    decode_s: float = 0.0
    seeds: int = SEEDS
    requests: int = REQUESTS

    def __post_init__(self) -> None:
        if not self.classes or min(self.seeds, self.requests) < 1:
            raise InvalidInput("a question needs classes, seeds and requests: at least one each")


def what_if(
    machine: Machine,
    policy: Policy,
    question: Question,
    *,
    costs_of: CostsOf = lambda machine, clock: SteadyCosts(machine),
    bounds: Bounds | None = None,
) -> WhatIf:
    """Simulate the question and its neighbours. InvalidInput where a class asks for accuracy that
    no point has."""
    asks = tuple(_ask(machine, one) for one in question.classes)

    def expect(rate_factor: float, slo_factor: float) -> Expected:
        runs = []
        for seed in range(question.seeds):
            rate_hz = question.rate_hz * rate_factor
            offered = _offered(question, asks, rate_hz, slo_factor, seed)
            answers = simulate(
                machine, policy, offered, seed=seed, costs_of=costs_of, bounds=bounds
            )
            runs.append(measures(machine.dial, answers))
        return Expected(
            rate_hz=question.rate_hz * rate_factor,
            slo_factor=slo_factor,
            attainment=over_seeds(runs, lambda run: run.attainment),
            mean_accuracy=where_known(runs, lambda run: run.mean_accuracy),
            effective_accuracy=over_seeds(runs, lambda run: run.effective_accuracy),
            late=float(np.mean([run.late for run in runs])),
            refused=float(np.mean([run.refused for run in runs])),
            expired=float(np.mean([run.expired for run in runs])),
            busy=float(np.mean([run.busy for run in runs])),
            p99_over_deadline=where_known(runs, lambda run: run.p99_over_deadline),
            points={
                point.name: float(np.mean([run.points[k] for run in runs]))
                for k, point in enumerate(machine.dial.points)
            },
        )

    rates = tuple(expect(factor, 1.0) for factor in RATE_FACTORS)
    asked = rates[RATE_FACTORS.index(1.0)]
    slos = sorted(
        (asked, *(expect(1.0, factor) for factor in SLO_FACTORS)), key=lambda one: one.slo_factor
    )
    reached = [one.rate_hz for one in _while_met(rates)]
    enough = [one.slo_factor for one in _while_met(tuple(reversed(slos)))]
    return WhatIf(
        policy=policy.name,
        cv2=question.cv2,
        asked=asked,
        rates=rates,
        slos=tuple(slos),
        most_hz=max(reached, default=None),
        least_slo_factor=min(enough, default=None),
    )


def _while_met(ordered: tuple[Expected, ...]) -> list[Expected]:
    """Those before the first that misses the goal."""
    found: list[Expected] = []
    for one in ordered:
        if one.attainment.mean < GOAL:
            break
        found.append(one)
    return found


def _ask(machine: Machine, one: ClassShare) -> Ask:
    dial = machine.dial
    least = one.min_accuracy or 0.0
    allowed = tuple(k for k in dial.free if dial.points[k].accuracy >= least)
    if not allowed:
        best = max(point.accuracy for point in dial.points)
        raise InvalidInput(
            f"class '{one.name}': no operating point has min_accuracy {least:g}; the best has "
            f"{best:.4f}"
        )
    return Ask(allowed, one.degrade)


def _offered(
    question: Question, asks: tuple[Ask, ...], rate_hz: float, slo_factor: float, seed: int
) -> Offered:
    rng = np.random.default_rng([seed, 0])
    at_s = first(gamma(rate_hz, question.cv2), rng, question.requests)
    shares = np.array([one.share for one in question.classes])
    which = rng.choice(len(shares), size=question.requests, p=shares / shares.sum())
    slos_s = np.array([one.slo_s for one in question.classes]) * slo_factor
    return Offered(at_s, slos_s[which], asks, which, question.decode_s)
