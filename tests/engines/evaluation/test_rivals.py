"""Rivals: shuffled masks, fixed masks of equal cost, and who wins beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.core import OperatingPoint, Output, UInt8Array
from engines.errors import InvalidInput
from engines.evaluation.points import BoolArray, Float64Array, PointResult, Trial, infer
from engines.evaluation.rivals import (
    Candidate,
    Comparison,
    best_as_fast,
    compared,
    derangement,
    fixed_mask,
    shuffled,
    told,
)
from tests.engines.evaluation.masking import COUNTS, FIXED_MACS, SKIP, UNIT_MACS, Masking


def result_of(decisions: list[list[bool]]) -> PointResult:
    count = len(decisions)
    return PointResult(
        point=SKIP,
        predictions=np.zeros(count, np.int64),
        losses=np.zeros(count),
        macs=np.ones(count),
        activation=np.ones((count, 2), np.float32),
        decisions=np.array(decisions),
    )


# Shuffled masks


@given(count=st.integers(2, 200), seed=st.integers(0, 99))
def test_a_derangement_moves_every_image(count: int, seed: int) -> None:
    order = derangement(count, seed)
    assert sorted(order) == [*range(count)]
    assert not (order == np.arange(count)).any()
    assert (order == derangement(count, seed)).all()


@pytest.mark.parametrize("count", [0, 1])
def test_one_image_has_nobody_to_exchange_masks_with(count: int) -> None:
    with pytest.raises(InvalidInput, match="fewer than two pictures"):
        derangement(count, 0)


def test_every_image_gets_the_masks_of_another() -> None:
    own = [[True, False, False, True, True], [False] * 5, [True] * 5]
    trial = shuffled(result_of(own), COUNTS, seed=0)
    assert trial.point == SKIP
    assert trial.forced is not None
    assert trial.forced.counts == COUNTS
    assert sorted(trial.forced.units.tolist()) == sorted(own)
    assert all(got != had for got, had in zip(trial.forced.units.tolist(), own, strict=True))


def test_without_decisions_there_is_nothing_to_shuffle() -> None:
    silent = replace(result_of([[True] * 5]), decisions=None)
    with pytest.raises(InvalidInput, match="does not tell what its maskers decide"):
        told(silent)


# Fixed masks


def units_of(trial: Trial) -> list[int]:
    assert trial.forced is not None
    (units,) = trial.forced.units
    return np.flatnonzero(units).tolist()


@pytest.mark.parametrize(
    ("extra_macs", "units"),
    [
        (0.0, []),
        (7.0, []),
        (9.0, [4]),
        (16.0, [4]),
        (16.9, [0, 4]),
        (20.4, [0, 2, 4]),
        (31.0, [0, 1, 2, 3, 4]),
        (500.0, [0, 1, 2, 3, 4]),
    ],
)
def test_a_fixed_mask_has_the_most_frequent_units_that_meet_the_work(
    extra_macs: float, units: list[int]
) -> None:
    """In the order 4 (16 MACs), 0 (1), 2 (4), 1 (2), 3 (8); the nearest number of units counts."""
    often = np.array([0.8, 0.2, 0.5, 0.1, 0.9])
    wanted = FIXED_MACS + extra_macs
    trial = fixed_mask(Masking(), SKIP, often, COUNTS, wanted)
    assert units_of(trial) == units
    assert trial.point.skips_nothing, "its maskers are not asked"
    assert trial.point.image_size == SKIP.image_size


def test_what_objects_cost_is_left_out() -> None:
    """Of an engine that finds an object of 7 MACs for every active unit."""

    class Finding(Masking):
        def infer(
            self,
            images: UInt8Array,
            points: Sequence[OperatingPoint],
            decisions: Sequence[BoolArray] | None = None,
        ) -> Output:
            output = super().infer(images, points, decisions)
            counts = np.asarray(output.arrays["decisions"]).sum(axis=1)
            return replace(
                output, arrays={**output.arrays, "counts": counts}, macs=output.macs + 7 * counts
            )

    often = np.array([0.8, 0.2, 0.5, 0.1, 0.9])
    trial = fixed_mask(Finding(), SKIP, often, COUNTS, FIXED_MACS + 20.4, per_object=7)
    assert units_of(trial) == [0, 2, 4]


def test_of_equally_frequent_units_the_first_are_taken() -> None:
    trial = fixed_mask(Masking(), SKIP, np.full(5, 0.5), COUNTS, FIXED_MACS + 7.0)
    assert units_of(trial) == [0, 1, 2]


@given(seed=st.integers(0, 200), share=st.floats(0, 1))
def test_no_other_number_of_units_is_nearer(seed: int, share: float) -> None:
    often: Float64Array = np.random.default_rng(seed).random(5)
    wanted = FIXED_MACS + share * UNIT_MACS.sum()
    engine = Masking()
    trial = fixed_mask(engine, SKIP, often, COUNTS, wanted)
    blank = np.zeros((1, SKIP.image_size, SKIP.image_size, 3), np.uint8)
    macs = float(infer(engine, trial, blank, slice(0, 1)).macs[0])
    costs = FIXED_MACS + np.cumsum([0.0, *UNIT_MACS[np.argsort(-often)]])
    assert abs(macs - wanted) == pytest.approx(np.abs(costs - wanted).min())


# Who wins


def candidate(name: str, cost: float, *losses: float) -> Candidate:
    return Candidate(name, cost, np.array(losses * 20))


def test_the_best_rival_is_the_best_of_those_that_are_as_fast() -> None:
    point = candidate("skip", 10.0, 0.5)
    slow = candidate("slow", 10.3, 0.1)
    near = candidate("near", 10.19, 0.3, 0.5)
    fast = candidate("fast", 5.0, 0.6)
    assert best_as_fast(point, [slow, near, fast]) is near
    assert best_as_fast(point, [slow]) is None


def test_noise_lets_slower_rivals_in() -> None:
    point, slow = (Candidate(name, cost, np.ones(2)) for name, cost in (("a", 1.0), ("b", 1.05)))
    assert best_as_fast(point, [slow], noise=0.02) is None
    assert best_as_fast(point, [slow], noise=0.03) is slow


@pytest.mark.parametrize(
    ("losses", "wins"), [((0.1, 0.2), "skip"), ((0.8, 0.9), "rival"), ((0.1, 0.9), "neither")]
)
def test_who_wins_is_said_by_intervals(losses: tuple[float, float], wins: str) -> None:
    point, rival = candidate("skip", 1.0, *losses), candidate("rival", 1.0, 0.5, 0.5)
    found = compared(point, rival, "free rival", seed=0)
    assert (found.point, found.against, found.rival) == ("skip", "free rival", "rival")
    assert found.difference == pytest.approx(np.mean(losses) - 0.5)
    assert found.wins == wins
    assert found.low is not None
    assert found.high is not None
    assert (found.low > 0, found.high < 0) == (wins == "rival", wins == "skip")


def test_without_a_rival_nobody_wins() -> None:
    found = compared(candidate("skip", 1.0, 0.5), None, "baseline", seed=0)
    assert found == Comparison("skip", "baseline")
    assert found.wins is None
