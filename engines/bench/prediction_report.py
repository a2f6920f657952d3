"""How good predictions are: errors, rank correlation, coverage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engines.bench.report import Machine
from engines.core import FrozenModel

FloatArray = npt.NDArray[np.float64]


class Errors(FrozenModel):
    """Predictions beside two measurements of the same things, each compared with every prediction.

    median_ape, p95_ape: absolute errors, as shares of a measured median. rank_correlation:
    Spearman's. repeat_ape: median difference between the two measurements. n: how many things.
    """

    median_ape: float
    p95_ape: float
    rank_correlation: float
    repeat_ape: float
    n: int


class Accuracy(Errors):
    """Of whole networks. coverage95: share of calls that took no longer than the predicted 95 %
    quantile. sharpness: that quantile over the predicted median."""

    coverage95: float
    sharpness: float


class AccuracyWithBlocks(Accuracy):
    """Of whole networks; and of single blocks, whose quantiles nobody predicts."""

    blocks: Errors


class OnlineCoverage(FrozenModel):
    """The corrected 95 % quantile over calls in a row, on that many threads.

    busy: beside a process that takes one core, begun `settled_s` before. drift: at the end.
    median_ms, p95_ms: measured.
    """

    threads: int
    calls: int
    coverage95: float
    sharpness: float
    drift: float
    flagged: bool
    median_ms: float
    p95_ms: float
    busy: bool
    settled_s: float


class Case(FrozenModel):
    """One held-out network: what was asked, what was predicted, what it took (medians, ms).

    kind: of masks. rate: of patches and layers, and of channels; None where the network decided.
    held_out: what the table has not seen of it. again_ms: measured once more, minutes later.
    """

    network: str
    precision: str
    threads: int
    size: int
    batch: int
    kind: str
    rate: tuple[float, float] | None
    held_out: tuple[str, ...]
    measured_ms: float
    again_ms: float
    predicted_ms: float
    predicted_p95_ms: float
    rates_only_ms: float
    analytic_ms: float


class PredictorReport(AccuracyWithBlocks):
    """The answer of `laud bench predictor`; the top level is the measured predictor.

    What is given: masks that were forced are known before a call, so is which pixels they make the
    first convolutions need; of a network's own masks only the operating point is. rates_only: of
    forced masks too nothing is known but their rates, and whether they lie together. analytic: the
    model of the native engine, which has seen no network, given the same as the top level. online:
    the measured predictor with the online correction. too_noisy: the two measurements differ by
    more than can be believed.
    """

    rates_only: Accuracy
    analytic: AccuracyWithBlocks
    online: tuple[OnlineCoverage, ...]
    microseconds_per_call: float
    passes_apart_s: float
    too_noisy: bool
    machine: Machine
    cases: tuple[Case, ...]


@dataclass(frozen=True)
class Comparison:
    """Predicted and measured seconds of the same things, and a second measurement."""

    predicted: Sequence[float]
    measured: Sequence[float]
    again: Sequence[float]


def errors(of: Comparison) -> Errors:
    """Errors and correlation of a comparison."""
    predicted, measured, again = (
        np.asarray(values, np.float64) for values in (of.predicted, of.measured, of.again)
    )
    # Each by itself: averaging them first would make little of their noise.
    found = np.concatenate([np.abs(predicted - truth) / truth for truth in (measured, again)])
    return Errors(
        median_ape=float(np.median(found)),
        p95_ape=float(np.quantile(found, 0.95)),
        rank_correlation=spearman(predicted, measured + again),
        repeat_ape=float(np.median(np.abs(again - measured) / measured)),
        n=len(measured),
    )


def spearman(a: Sequence[float] | FloatArray, b: Sequence[float] | FloatArray) -> float:
    """Correlation of ranks, ties sharing their mean rank; 1 where either is constant."""
    ranks = [_ranks(np.asarray(values, np.float64)) for values in (a, b)]
    if any(each.std() == 0.0 for each in ranks):
        return 1.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: FloatArray) -> FloatArray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    middle = last - (counts - 1) / 2.0
    return np.asarray(middle[inverse], np.float64)
