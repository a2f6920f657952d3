"""Predictions beside two passes of measurements, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from engines.bench.held_out import Held, Runs, Subject
from engines.bench.judging import Judged, judge_all
from engines.bench.masks import MaskKind
from engines.bench.prediction_report import PredictorReport
from engines.latency.core import Prediction
from engines.latency.predictor import MeasuredPredictor
from engines.latency.rates import RateVector
from tests.engines.latency.cases import (
    ABACUS,
    BLOCKS,
    host,
    of_net,
    profile,
    rates,
    spread,
    table,
)

TABLE = table(profile(batch=1), profile(batch=2, scale=2.0), spreads=[spread(0.9, 1.0, 1.1)])
PREDICTOR = MeasuredPredictor(TABLE, of_net(), device=ABACUS, precision="fp32", threads=1)
FORCED = Held(32, 1, MaskKind.CLUSTERED, 0.5, 0.5, held_out=("rate",))
OWN = Held(32, 2, MaskKind.TRAINED, point="half", held_out=("masks",))
Q95 = 1.09
EXECUTED = rates(0.25, 0.375, 0.5)


def predicted(case: Held, of: RateVector = EXECUTED) -> Prediction:
    return PREDICTOR.breakdown(of, size=case.size, batch=case.batch)


def runs(case: Held, *factors: float, slower: float = 1.0) -> Runs:
    """Calls that took what the table says times each factor, and their parts times `slower`."""
    told = predicted(case)
    parts = np.array([part.total_s for part in told.parts]) * slower
    return Runs(
        seconds=[told.total_s * factor for factor in factors],
        parts=[parts] * len(factors),
        rates=[EXECUTED] * len(factors),
    )


def at_its_point(case: Held) -> Runs:
    """A call that took what is predicted of its operating point, whatever it then executed."""
    told = predicted(case, PREDICTOR.rates("half"))
    parts = np.array([part.total_s for part in told.parts])
    return Runs(seconds=[told.total_s], parts=[parts], rates=[EXECUTED])


def judge(cases: tuple[Held, ...], first: list[Runs], second: list[Runs]) -> PredictorReport:
    subject = Subject("abacus fp32", "fp32", 1, of_net(), (32,), (1, 2), 3, cases)
    judged = Judged(subject=subject, passes=[first, second], predictor=PREDICTOR)
    return judge_all(host(), [judged], (), 300.0, 0.5)


def test_what_is_predicted_exactly_has_no_error() -> None:
    once = [runs(FORCED, 1.0, 1.0, 1.0), at_its_point(OWN)]
    found = judge((FORCED, OWN), once, once)
    for each in (found, found.blocks):
        assert each.median_ape == pytest.approx(0.0, abs=1e-12)
        assert each.repeat_ape == 0.0
        assert each.rank_correlation == pytest.approx(1.0)
    assert (found.n, found.blocks.n) == (2, 2 * BLOCKS)
    for each in (found.analytic, found.analytic.blocks):
        assert each.median_ape > 0.5, "whose machine is another one"


def test_coverage_is_of_single_calls_in_both_passes() -> None:
    found = judge(
        (FORCED,), [runs(FORCED, 1.0, Q95 - 0.01, Q95 + 0.01)], [runs(FORCED, 0.5, 0.9, 1.0)]
    )
    assert found.coverage95 == pytest.approx(5 / 6)
    assert found.sharpness == pytest.approx(Q95)
    assert found.analytic.coverage95 == 0.0, "it predicts next to nothing"


def test_errors_are_of_medians_and_repeats_between_passes() -> None:
    found = judge((FORCED,), [runs(FORCED, 1.0, 1.1, 9.0)], [runs(FORCED, 0.1, 1.3, 1.4)])
    apart = [0.1 / 1.1, 0.3 / 1.3]
    assert found.median_ape == pytest.approx(np.mean(apart))
    assert found.repeat_ape == pytest.approx(0.2 / 1.1)
    (case,) = found.cases
    assert case.measured_ms == pytest.approx(1.1 * case.predicted_ms)
    assert case.again_ms == pytest.approx(1.3 * case.predicted_ms)
    assert case.predicted_p95_ms == pytest.approx(Q95 * case.predicted_ms)


def test_blocks_are_compared_with_blocks() -> None:
    once = [runs(FORCED, 1.0, slower=1.25)]
    found = judge((FORCED,), once, once)
    assert found.blocks.median_ape == found.blocks.p95_ape == pytest.approx(0.2)
    assert found.median_ape == pytest.approx(0.0, abs=1e-12)


def test_a_block_that_some_calls_skip_is_predicted_call_by_call() -> None:
    """Two calls run the layers and one does not: their median is a call that runs them."""
    ones = {name: np.ones(BLOCKS) for name in ("dilated", "channel")}
    asked = np.ones(BLOCKS, np.bool_)
    skipped = np.ones(BLOCKS)
    skipped[4] = 0.0
    each = [RateVector(spatial=s, asked=asked, **ones) for s in (np.ones(BLOCKS), skipped)]
    called = [each[0], each[1], each[0]]
    told = [predicted(FORCED, of) for of in called]
    once = Runs(
        seconds=[one.total_s for one in told],
        parts=[np.array([part.total_s for part in one.parts]) for one in told],
        rates=called,
    )
    found = judge((FORCED,), [once], [once])
    assert found.median_ape == found.blocks.p95_ape == pytest.approx(0.0, abs=1e-12)


def test_before_a_mask_is_seen_only_rates_are_known() -> None:
    once = [runs(FORCED, 1.0), runs(OWN, 1.0)]
    found = judge((FORCED, OWN), once, once)
    forced, own = found.cases
    assert own.rates_only_ms == pytest.approx(PREDICTOR.median("half", batch=2) * 1e3)
    assert own.rate is None
    assert forced.rate == (0.5, 0.5)
    apart = [abs(c.rates_only_ms / c.measured_ms - 1.0) for c in found.cases]
    assert found.rates_only.median_ape == pytest.approx(np.mean(apart))
    assert min(apart) > 0.01
    assert own.predicted_ms == own.rates_only_ms, "a point is all that is known of own masks"


@pytest.mark.parametrize(("again", "noisy"), [(1.02, False), (1.05, True)])
def test_measurements_that_differ_are_too_noisy(again: float, noisy: bool) -> None:
    assert judge((FORCED,), [runs(FORCED, 1.0)], [runs(FORCED, again)]).too_noisy == noisy


def test_it_says_how_it_was_taken() -> None:
    once = [runs(FORCED, 1.0)]
    found = judge((FORCED,), once, once)
    assert (found.passes_apart_s, found.online) == (300.0, ())
    assert (found.machine.cpu, found.machine.load) == ("Abacus 3000", 0.5)
    assert found.microseconds_per_call > 0.0
