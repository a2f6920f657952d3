"""What simulated runs show, in the terms of the literature, with intervals over seeds.

Every share is of all requests that were offered, so that refusing flatters nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from engines.core import FrozenModel
from service.policy.core import Dial
from service.simulation.core import Answers, Floats, Outcome

_RESAMPLED = 2000


@dataclass(frozen=True, slots=True)
class Measures:
    """Of one run.

    attainment: share in time. mean_accuracy: of those in time, None of none. effective_accuracy:
    sum of accuracy over those in time, by all requests. goodput_hz: in time, per second.
    p99_over_deadline: 99th percentile of latency over budget of all that was answered, None of
    nothing. late, refused, expired: shares. busy: share of the time that the engine ran. points:
    share of the answers at each point of the dial.
    """

    attainment: float
    mean_accuracy: float | None
    effective_accuracy: float
    goodput_hz: float
    p99_over_deadline: float | None
    late: float
    refused: float
    expired: float
    busy: float
    points: tuple[float, ...]


class Interval(FrozenModel):
    """A mean over seeds and its 95 % interval; all equal where there was one seed."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


def measures(dial: Dial, answers: Answers) -> Measures:
    """What one run shows."""
    offered, met, answered = answers.offered, answers.met, answers.answered
    accuracy = np.array([point.accuracy for point in dial.points])[answers.point]
    length_s = max(float(answers.done_s.max()), 1e-9)
    over = (answers.done_s - offered.at_s)[answered] / offered.slo_s[answered]
    counts = np.bincount(answers.point[answered], minlength=len(dial.points))

    def share(*outcomes: Outcome) -> float:
        return float(np.isin(answers.outcome, outcomes).mean())

    return Measures(
        attainment=float(met.mean()),
        mean_accuracy=float(accuracy[met].mean()) if met.any() else None,
        effective_accuracy=float(accuracy[met].sum()) / len(offered),
        goodput_hz=float(met.sum()) / length_s,
        p99_over_deadline=float(np.quantile(over, 0.99)) if over.size else None,
        late=share(Outcome.LATE),
        refused=share(Outcome.REJECTED_INFEASIBLE, Outcome.REJECTED_QUEUE),
        expired=share(Outcome.EXPIRED),
        busy=answers.busy_s / length_s,
        points=tuple((counts / max(int(answered.sum()), 1)).tolist()),
    )


def interval(values: Sequence[float]) -> Interval:
    """By bootstrap over at least one value, with a fixed seed of its own."""
    known: Floats = np.array(values)
    rng = np.random.default_rng(0)
    means = known[rng.integers(known.size, size=(_RESAMPLED, known.size))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975)).tolist()
    return Interval(mean=float(known.mean()), low=low, high=high)


def over_seeds(runs: Sequence[Measures], of: Callable[[Measures], float]) -> Interval:
    """One of the measures over the seeds."""
    return interval([of(run) for run in runs])


def where_known(
    runs: Sequence[Measures], of: Callable[[Measures], float | None]
) -> Interval | None:
    """The same of a measure that not every run has; None where none has it."""
    known = [value for value in map(of, runs) if value is not None]
    return interval(known) if known else None
