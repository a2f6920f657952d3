"""What `laud bench plan` found: a design, predicted and measured."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal

from engines.bench.prediction_report import spearman
from engines.bench.report import Machine
from engines.bench.timing import Noise, Spread
from engines.core import FrozenModel
from engines.latency.candidates import Candidate
from engines.latency.design import Design

NEAR = 1.05
"""A choice that takes at most this much of the fastest's latency is as good as the fastest."""

Role = Literal["chosen", "alternative", "besides", "static"]


class Measured(FrozenModel):
    """One network, predicted and measured, milliseconds a call.

    role: in the design. stages: what each stage skips. measured_ms: the mean over masks of the
    medians of their runs. macs_ratio: executed multiply-accumulates over those of the static one.
    """

    role: Role
    stages: tuple[Candidate, ...]
    predicted_ms: float
    measured_ms: float
    macs_ratio: float
    run: Spread


class Judgement(FrozenModel):
    """Whether the network that was chosen by prediction is the fastest.

    chosen_over_fastest: measured latency over the least of all that were measured.
    within_5_percent: whether that is at most NEAR. median_error: of predictions, as a share of what
    was measured. rank_correlation: Spearman's, of predicted and measured.
    """

    chosen_ms: float
    fastest_ms: float
    fastest: tuple[Candidate, ...]
    chosen_over_fastest: float
    within_5_percent: bool
    rank_correlation: float
    median_error: float


class PlanReport(Judgement):
    """The answer of `laud bench plan`. networks: the chosen one first, the static one last.

    draws: over how many masks and batches the measurement went round. noise: of the chosen one.
    """

    networks: tuple[Measured, ...]
    design: Design
    isa: str
    masks: str
    images: str
    repeats: int
    draws: int
    seed: int
    noise: Noise
    too_noisy: bool
    machine: Machine


def judge(networks: Sequence[Measured]) -> Judgement:
    """What measurements say of the choice, which is the first of the networks."""
    chosen = networks[0]
    fastest = min(networks, key=lambda each: each.measured_ms)
    ratio = chosen.measured_ms / fastest.measured_ms
    return Judgement(
        chosen_ms=chosen.measured_ms,
        fastest_ms=fastest.measured_ms,
        fastest=fastest.stages,
        chosen_over_fastest=ratio,
        within_5_percent=ratio <= NEAR,
        rank_correlation=spearman(
            [each.predicted_ms for each in networks], [each.measured_ms for each in networks]
        ),
        median_error=statistics.median(
            abs(each.predicted_ms - each.measured_ms) / each.measured_ms for each in networks
        ),
    )
