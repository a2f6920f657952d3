"""What one observation may do to a correction: drift, its bound, the flag, the start, bad input."""

from __future__ import annotations

import dataclasses
import math
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from engines.errors import InvalidInput
from engines.latency.online import (
    Correction,
    Summary,
    corrected,
    coverage,
    observe,
    remeasure,
    start,
    summary,
)
from engines.latency.online_settings import CorrectionSettings

TABLE = (0.9, 0.95, 0.98, 1.0, 1.02, 1.05, 1.2)
SETTINGS = CorrectionSettings()
PREDICTED_S = 0.01


def after(state: Correction, ratios: list[float], interval_s: float = 0.01) -> Correction:
    """The state once calls took `ratios` times what was predicted, evenly spaced in time."""
    for ratio in ratios:
        state = observe(state, PREDICTED_S, PREDICTED_S * ratio, state.now_s + interval_s)
    return state


def noisy(factor: float, count: int, seed: int = 0) -> list[float]:
    """`factor` with a spread of 8 %."""
    draw = random.Random(seed)
    return [factor * draw.lognormvariate(0.0, 0.08) for _ in range(count)]


# The start.


def test_before_any_call_quantiles_are_those_of_the_table() -> None:
    ratios = noisy(1.0, 4000)
    state = start(ratios, 0.0)
    assert coverage(state) is None
    for quantile in (0.05, 0.25, 0.5, 0.75, 0.95):
        expected = sorted(ratios)[int(quantile * len(ratios))]
        assert corrected(state, 2.0, quantile) == pytest.approx(2.0 * expected, rel=0.01)


def test_a_table_that_is_off_starts_with_its_own_factor() -> None:
    state = start((1.0, 1.1, 1.3), 0.0)
    assert state.drift == pytest.approx(1.1)
    assert corrected(state, 1.0, 0.5) == pytest.approx(1.1, rel=0.01), "and not by twice its factor"


def test_n_scores_cut_what_comes_next_into_n_plus_1_equally_likely_parts() -> None:
    ratios = [0.8, 0.85, 0.9, 0.95, 1.0, 1.1, 1.2, 1.3, 1.5]
    state = start(ratios, 0.0, CorrectionSettings(prior=9))
    for i, ratio in enumerate(ratios):
        assert corrected(state, 1.0, (i + 1) / 10) == pytest.approx(ratio)


def test_measured_scores_gradually_take_the_place_of_the_table() -> None:
    """The table said 30 %, the machine shows 3 %: the 95 % quantile narrows without a jump."""
    draw = random.Random(1)
    state = start([draw.lognormvariate(0.0, 0.3) for _ in range(300)], 0.0)
    upper = [corrected(state, 1.0, 0.95)]
    for _ in range(7):
        state = after(state, [draw.lognormvariate(0.0, 0.03) for _ in range(100)])
        upper.append(corrected(state, 1.0, 0.95))
    assert upper[0] > 1.5
    assert upper[-1] < 1.1
    assert upper[1] > 1.1, "a hundred calls are not enough to forget the table"


def test_what_is_left_of_the_table_still_looks_like_it() -> None:
    """Its scores leave the window mixed, not the smallest first."""
    settings = CorrectionSettings(window=128, prior=128)
    state = after(start(noisy(1.0, 1000), 0.0, settings), [1.0] * 64)
    left = sorted(state.scores[:64])
    assert left[32] == pytest.approx(0.0, abs=0.02)
    assert left[60] == pytest.approx(1.55 * 0.08, abs=0.03)


# Drift.


@pytest.mark.parametrize("factor", [1 / 1.6, 1.2, 1.9, 2.5])
def test_drift_follows_a_lasting_change_within_a_second_of_traffic_and_comes_back(
    factor: float,
) -> None:
    quiet = after(start(TABLE, 0.0), noisy(1.0, 300))
    assert quiet.drift == pytest.approx(1.0, abs=0.06)
    changed = after(quiet, noisy(factor, 100))
    assert changed.drift == pytest.approx(factor, rel=0.06)
    assert after(changed, noisy(1.0, 100)).drift == pytest.approx(1.0, abs=0.06)


def test_drift_follows_within_ten_seconds_where_calls_are_rare() -> None:
    quiet = after(start(TABLE, 0.0), noisy(1.0, 60), interval_s=1.0)
    changed = after(quiet, noisy(1.9, 10), interval_s=1.0)
    assert changed.drift == pytest.approx(1.9, rel=0.1)


def test_after_idle_time_a_few_calls_move_drift_more_than_in_steady_traffic() -> None:
    quiet = after(start(TABLE, 0.0), [1.0] * 100)
    steady = after(quiet, [1.9] * 4)
    rested = after(dataclasses.replace(quiet, now_s=quiet.now_s + 600.0), [1.9] * 4)
    assert steady.drift == 1.0
    assert rested.drift > 1.1


def test_what_idle_time_allows_is_used_up() -> None:
    quiet = after(start(TABLE, 0.0), [1.0] * 100)
    rested = dataclasses.replace(quiet, now_s=quiet.now_s + 600.0)
    assert after(rested, [9.0] * 10, interval_s=0.0).log_drift <= (
        10 * SETTINGS.step + (SETTINGS.most_step - SETTINGS.step) + 1e-9
    )


@pytest.mark.parametrize("idle_s", [0.0, 0.01, 1.0, 3600.0])
@pytest.mark.parametrize("ratio", [100.0, 1e-3, 1e12])
def test_one_outlier_moves_drift_by_at_most_the_bound(ratio: float, idle_s: float) -> None:
    state = after(start(TABLE, 0.0), noisy(1.0, 100))
    moved = observe(state, PREDICTED_S, PREDICTED_S * min(ratio, 1e10), state.now_s + idle_s)
    bound = min(SETTINGS.most_step, SETTINGS.step + SETTINGS.step_per_s * (idle_s + 1.0))
    assert abs(moved.log_drift - state.log_drift) <= bound
    # A lone one is never the median: drift stays among the ratios of the others.
    assert moved.drift == pytest.approx(1.0, abs=0.12)


@given(st.lists(st.tuples(st.floats(1e-6, 1e6), st.floats(0.0, 100.0)), min_size=1, max_size=60))
def test_no_sequence_moves_drift_faster_than_the_bounds(calls: list[tuple[float, float]]) -> None:
    state = start(TABLE, 0.0)
    moved = 0.0
    for ratio, wait_s in calls:
        new = observe(state, 1.0, ratio, state.now_s + wait_s)
        moved = abs(new.log_drift - state.log_drift)
        assert moved <= SETTINGS.most_step + 1e-12
        state = new
    allowed = len(calls) * SETTINGS.step + SETTINGS.step_per_s * state.now_s
    assert abs(state.log_drift) <= allowed + 1e-9


def test_stragglers_widen_the_quantile_and_leave_drift_alone() -> None:
    """A fifth of the calls take three times as long: not a slower machine."""
    draw = random.Random(2)
    ratios = [r * (3.0 if draw.random() < 0.2 else 1.0) for r in noisy(1.0, 2000)]
    state = after(start(TABLE, 0.0), ratios)
    assert state.drift == pytest.approx(1.02, abs=0.06)
    assert corrected(state, 1.0, 0.5) == pytest.approx(1.02, abs=0.06)
    assert corrected(state, 1.0, 0.95) == pytest.approx(3.1, abs=0.3)


# The flag.


def test_flag_rises_when_drift_leaves_a_quarter_and_says_since_when() -> None:
    state = after(start(TABLE, 0.0), noisy(1.0, 200))
    assert remeasure(state) is None
    before_s = state.now_s
    slow = after(state, noisy(1.9, 200))
    flag = remeasure(slow)
    assert flag is not None
    assert before_s < flag.since_s < before_s + 0.5
    assert flag.factor == slow.drift
    later = remeasure(after(slow, noisy(1.9, 200)))
    assert later is not None
    assert later.since_s == flag.since_s
    assert remeasure(after(slow, noisy(1.0, 200))) is None


def test_flag_rises_for_a_machine_that_became_faster() -> None:
    assert remeasure(after(start(TABLE, 0.0), noisy(0.6, 200))) is not None


def test_flag_does_not_flap_at_its_edge() -> None:
    """Drift sways about 1.25: the flag rises once and stays."""
    state = after(start(TABLE, 0.0), noisy(1.0, 100))
    flags = []
    for ratio in noisy(1.25, 3000):
        state = after(state, [ratio])
        flags.append(remeasure(state) is not None)
    assert flags[-1]
    assert sum(a != b for a, b in pairwise(flags)) == 1


# Quantiles.


@given(
    st.lists(st.floats(0.01, 100.0), max_size=150),
    st.lists(st.floats(0.001, 0.999), min_size=2, max_size=20),
)
def test_quantiles_never_cross(ratios: list[float], quantiles: list[float]) -> None:
    state = after(start(TABLE, 0.0), ratios)
    values = [corrected(state, 1.0, q) for q in sorted([*quantiles, 0.5, 0.95, 0.99])]
    assert values == sorted(values)
    assert all(0.0 < v < math.inf for v in values)


def test_prediction_scales_with_what_the_table_says() -> None:
    state = after(start(TABLE, 0.0), noisy(1.3, 300))
    for quantile in (0.5, 0.95, 0.99):
        once = corrected(state, 1.0, quantile)
        assert corrected(state, 0.025, quantile) == pytest.approx(0.025 * once)


@pytest.mark.parametrize(("took", "share"), [(1.0, 1.0), (1e4, 0.0)])
def test_coverage_is_the_share_of_recent_calls_within_the_target(took: float, share: float) -> None:
    settings = CorrectionSettings(covered=20, adaptation=0.0, window=4096, prior=4096)
    state = after(start(TABLE, 0.0, settings), [1e4] * 10 + [1.0] * 10)
    assert coverage(state) == 0.5
    assert coverage(after(state, [took] * 20)) == share


def test_misses_raise_the_level_and_hits_lower_it() -> None:
    state = start(TABLE, 0.0)
    missed, hit = after(state, [5.0]), after(state, [1.0])
    assert missed.level - state.level == pytest.approx(SETTINGS.adaptation * 0.95)
    assert state.level - hit.level == pytest.approx(SETTINGS.adaptation * 0.05)


def test_level_stays_where_the_window_has_an_answer() -> None:
    """However many misses in a row, hits lower it at once."""
    missed = start(TABLE, 0.0)
    for i in range(100):
        missed = after(missed, [1.08**i])
    assert missed.level == 1.0
    assert after(missed, [1.0] * 20).level == pytest.approx(1.0 - 20 * SETTINGS.adaptation * 0.05)
    assert after(missed, [1.0] * 5000).level >= 0.5


# Values.


def test_observing_is_pure() -> None:
    state = after(start(TABLE, 0.0), noisy(1.1, 50))
    fields = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    first = observe(state, 0.01, 0.02, state.now_s + 1.0)
    assert observe(state, 0.01, 0.02, state.now_s + 1.0) == first
    assert first != state
    assert {f.name: getattr(state, f.name) for f in dataclasses.fields(state)} == fields
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.level = 0.5  # type: ignore[misc]


def test_window_keeps_the_latest_scores_in_order() -> None:
    settings = CorrectionSettings(window=64, prior=1)
    state = start(TABLE, 0.0, settings)
    seen = list(state.scores)
    for ratio in noisy(1.0, 200):
        seen.append(math.log(ratio) - state.log_drift)
        state = after(state, [ratio])
        assert state.scores == pytest.approx(seen[-64:])
        assert state.ordered == tuple(sorted(state.scores))


def test_summary_can_be_written_and_read() -> None:
    slow = after(start(TABLE, 5.0), noisy(1.9, 300))
    told = summary(slow)
    assert Summary.model_validate_json(told.model_dump_json()) == told
    assert told.remeasure == remeasure(slow)
    assert told.target_ratio == corrected(slow, 1.0, 0.95)
    assert told.observed == 300
    assert summary(start(TABLE, 0.0)).coverage is None


# Bad input.

WRONG = [0.0, -0.01, math.nan, math.inf, -math.inf, 1e10]


@pytest.mark.parametrize("value", WRONG)
def test_durations_that_are_none_are_refused(value: float) -> None:
    state = after(start(TABLE, 0.0), [1.0])
    with pytest.raises(InvalidInput, match=r"predicted_s must be above 0"):
        observe(state, value, 0.01, 1.0)
    with pytest.raises(InvalidInput, match=r"measured_s must be above 0"):
        observe(state, 0.01, value, 1.0)
    with pytest.raises(InvalidInput, match=r"predicted_s must be above 0"):
        corrected(state, value, 0.95)
    with pytest.raises(InvalidInput, match=r"a ratio of the table must be above 0"):
        start((1.0, value), 0.0)
    assert state == after(start(TABLE, 0.0), [1.0]), "the state is unharmed"


@pytest.mark.parametrize("now_s", [9.9, -1.0, math.nan, math.inf])
def test_a_clock_that_goes_backwards_is_refused(now_s: float) -> None:
    state = start(TABLE, 10.0)
    with pytest.raises(InvalidInput, match=r"not before the latest observation at 10\.0"):
        observe(state, 0.01, 0.01, now_s)
    assert observe(state, 0.01, 0.01, 10.0).now_s == 10.0


@pytest.mark.parametrize("quantile", [0.0, 1.0, -0.5, 95.0, math.nan])
def test_a_quantile_outside_0_to_1_is_refused(quantile: float) -> None:
    with pytest.raises(InvalidInput, match="quantile must be above 0 and below 1"):
        corrected(start(TABLE, 0.0), 0.01, quantile)


@pytest.mark.parametrize("now_s", [math.nan, math.inf])
def test_a_start_needs_ratios_and_a_clock(now_s: float) -> None:
    with pytest.raises(InvalidInput, match="must not be empty"):
        start((), 0.0)
    with pytest.raises(InvalidInput, match="now_s must be a finite"):
        start(TABLE, now_s)


@pytest.mark.parametrize(
    "wrong",
    [
        {"target": 0.4},
        {"window": 10},
        {"step": 0.2},
        {"recent_least": 40},
        {"prior": 600},
        {"unflag_below": 1.3},
        {"speed": 1.0},
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        CorrectionSettings.model_validate(wrong)


def test_extreme_durations_overflow_nothing() -> None:
    state = start(TABLE, 0.0)
    for i in range(200):
        state = observe(state, 5e-324, 1e9, float(i))
    assert math.isfinite(corrected(state, 1e9, 0.999))
    for i in range(200, 400):
        state = observe(state, 1e9, 5e-324, float(i))
    assert corrected(state, 1.0, 0.5) > 0.0
