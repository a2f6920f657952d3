"""Grids compare policies on common load; what-if finds the cliff; measures count every request."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from engines.errors import InvalidInput
from service.load.arrivals import Mix
from service.policy import POLICIES, policy_named
from service.policy.core import Dial, PointCost
from service.simulation.core import NO_POINT, Answers, Machine, Outcome
from service.simulation.grid import Plan, num_runs, offered, reference, run_grid, scaled_mix
from service.simulation.report import interval, measures, where_known
from service.simulation.whatif import ClassShare, Question, what_if
from tests.service.simulation.machines import machine
from tests.service.simulation.machines import offered as laid_out

OURS, FIXED, CHEAP = policy_named("foresight"), policy_named("fixed"), policy_named("fixed:p0")


def fast(max_batch: int = 2) -> Machine:
    """1, 2 and 4 ms an image, with a little scatter."""
    return machine((0.001, 0.002, 0.004), max_batch=max_batch, ratios=(0.95, 1.0, 1.05))


def test_measures_count_refusals_as_misses() -> None:
    load = laid_out((0, 2), (0, 2), (0, 2), (0, 2))
    answers = Answers(
        load,
        np.array([Outcome.MET, Outcome.MET, Outcome.LATE, Outcome.REJECTED_QUEUE]),
        np.array([2, 0, 0, NO_POINT]),
        np.array([1.0, 2.0, 4.0, 0.0]),
        busy_s=3.0,
        calls=3,
    )
    found = measures(machine().dial, answers)
    assert found.attainment == 0.5
    assert found.mean_accuracy == pytest.approx((0.9 + 0.7) / 2)
    assert found.effective_accuracy == pytest.approx((0.9 + 0.7) / 4)
    assert found.goodput_hz == 2 / 4.0
    assert found.p99_over_deadline == pytest.approx(2.0, abs=0.05)
    assert (found.late, found.refused, found.expired) == (0.25, 0.25, 0.0)
    assert found.busy == 0.75
    assert found.points == pytest.approx((2 / 3, 0.0, 1 / 3))


def test_measures_of_nothing_answered() -> None:
    load = laid_out((0, 2))
    refused = np.array([Outcome.REJECTED_INFEASIBLE])
    answers = Answers(load, refused, np.array([NO_POINT]), np.zeros(1), 0.0, 0)
    found = measures(machine().dial, answers)
    assert found.attainment == found.effective_accuracy == 0.0
    assert found.mean_accuracy is None
    assert found.p99_over_deadline is None
    assert where_known([found], lambda run: run.mean_accuracy) is None


def test_intervals_narrow_with_seeds_and_hold_the_mean() -> None:
    values = np.random.default_rng(1).normal(5.0, 1.0, 400).tolist()
    few, many = interval(values[:10]), interval(values)
    assert few.low < few.mean < few.high
    assert many.high - many.low < few.high - few.low
    assert many.low == pytest.approx(5.0 - 0.1, abs=0.1)
    assert interval([3.0]).low == interval([3.0]).high == 3.0


def test_a_grid_has_every_policy_in_every_cell_on_the_same_load() -> None:
    plan = Plan(loads=(0.5, 2.0), cv2s=(1.0,), seeds=3, requests=300)
    advanced: list[None] = []
    report = run_grid(
        "m", fast(), [OURS, FIXED, CHEAP], plan, advance=lambda: advanced.append(None)
    )
    assert [(cell.load, cell.cv2) for cell in report.cells] == [(0.5, 1.0), (2.0, 1.0)]
    assert len(advanced) == num_runs(plan, [OURS, FIXED, CHEAP]) == 18
    calm, busy = report.cells
    # 4 ms each, in batches of 2 that are no cheaper.
    assert calm.rate_hz == pytest.approx(125, rel=0.02)
    assert busy.headroom == pytest.approx(2.0)
    by_name = {result.name: result for result in busy.policies}
    assert list(by_name) == ["foresight", "fixed", "fixed:p0"]
    assert by_name["fixed"].attainment.mean < 0.7
    assert by_name["fixed:p0"].points["p0"] == 1.0
    assert by_name["foresight"].behind.low == by_name["foresight"].behind.high == 0.0
    assert by_name["fixed"].behind.low > 0.1
    assert busy.first == "foresight"
    assert busy.ours_reaches_first
    assert run_grid("m", fast(), [OURS, FIXED, CHEAP], plan) == report


def test_who_is_beaten_does_not_reach_the_first() -> None:
    plan = Plan(loads=(2.0,), cv2s=(1.0,), seeds=3, requests=300)
    (cell,) = run_grid("m", fast(), [FIXED, OURS], plan).cells
    assert cell.first == "foresight"
    assert not cell.ours_reaches_first


def test_a_fixed_point_is_asked_for_by_the_requests() -> None:
    plan = Plan(requests=10)
    free, pinned = (offered(fast(), plan, 100.0, 1.0, 0, policy) for policy in (OURS, CHEAP))
    assert (free.at_s == pinned.at_s).all()
    assert (free.slo_s == pinned.slo_s).all()
    assert free.asks[0].allowed is None
    assert pinned.asks[0].allowed == (0,)


def test_the_usual_mix_of_deadlines_scales_with_the_machine() -> None:
    assert scaled_mix(fast()) == Mix((0.7, 0.2, 0.1), (0.06, 0.03, 0.015))


def test_loads_and_deadlines_are_measured_by_full_even_where_another_point_is_better() -> None:
    small = PointCost("small", 24, 0.9, (0.001,))
    full = PointCost("full", 32, 0.8, (0.004,))
    found = Machine(Dial((small, full)), (1.0,))
    assert (found.dial.front, reference(found)) == ((0,), 1)
    assert scaled_mix(found).slos_s[0] == pytest.approx(15 * 0.004)
    plan = Plan(loads=(0.5,), cv2s=(1.0,), seeds=1, requests=20)
    (cell,) = run_grid("m", found, [OURS], plan).cells
    assert cell.rate_hz == pytest.approx(0.5 / 0.004)


@pytest.mark.parametrize(
    "wrong", [{"loads": ()}, {"cv2s": ()}, {"seeds": 0}, {"requests": 0}], ids=str
)
def test_an_empty_grid_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match="at least one"):
        Plan(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("cv2", [1.0, 8.0])
@pytest.mark.parametrize("load", [1.3, 2.0])
@pytest.mark.parametrize("max_batch", [1, 2])
def test_ours_is_first_and_in_time_where_the_fastest_point_suffices(
    load: float, cv2: float, max_batch: int
) -> None:
    """A small version of the grid that the issue asks for; `laud simulate` is the large one."""
    names = (*POLICIES, "fixed:p0")
    plan = Plan(loads=(load,), cv2s=(cv2,), seeds=4, requests=500)
    wide = machine(
        (0.007, 0.0115, 0.016, 0.0205, 0.025),
        (0.73, 0.7475, 0.765, 0.7825, 0.80),
        max_batch=max_batch,
        fixed_s=0.001,
        ratios=(0.92, 0.97, 1.0, 1.03, 1.1),
    )
    (cell,) = run_grid("wide", wide, [policy_named(name) for name in names], plan).cells
    assert cell.headroom > 1.25
    assert cell.ours_reaches_first, cell.first
    # Few requests: a burst that the fastest point cannot absorb counts for much.
    ours, *_, fastest = (result.attainment.mean for result in cell.policies)
    assert ours >= fastest - 0.005


def question(rate_hz: float = 100.0, slo_s: float = 0.02) -> Question:
    return Question(rate_hz, (ClassShare("default", 1.0, slo_s),), requests=400, seeds=2)


def test_what_if_shows_the_cliff_beside_what_was_asked() -> None:
    found = what_if(fast(), OURS, question(rate_hz=500.0))
    assert [one.rate_hz for one in found.rates] == [250, 375, 500, 625, 750, 1000, 1500]
    assert found.asked == found.rates[2]
    assert found.asked in found.slos
    assert found.asked.attainment.mean > 0.99
    # 1000 a second is all that the fastest point can do.
    assert found.rates[-1].attainment.mean < 0.9
    assert found.most_hz is not None
    assert 500 <= found.most_hz <= 1000
    accuracies = [one.mean_accuracy.mean for one in found.rates if one.mean_accuracy]
    assert all(more >= less for more, less in pairwise(accuracies[:5]))
    assert sum(found.asked.points.values()) == pytest.approx(1.0)


def test_what_is_out_of_reach_is_said() -> None:
    found = what_if(fast(), OURS, question(rate_hz=10_000.0))
    assert found.most_hz is None
    assert found.least_slo_factor is None


def test_classes_have_their_own_time_accuracy_and_manners() -> None:
    classes = (
        ClassShare("accurate", 1.0, 0.1, min_accuracy=0.85),
        ClassShare("quick", 3.0, 0.0005, degrade=False),
    )
    found = what_if(fast(), OURS, Question(50.0, classes, requests=400, seeds=2)).asked
    # Half a millisecond is too short for any point, and those of that class prefer a refusal.
    assert found.refused == pytest.approx(0.75, abs=0.05)
    assert found.points == {"p0": 0.0, "p1": 0.0, "p2": 1.0}
    assert found.late == 0.0


def test_more_accuracy_than_there_is_is_refused() -> None:
    classes = (ClassShare("dream", 1.0, 0.1, min_accuracy=0.99),)
    with pytest.raises(InvalidInput, match=r"'dream': no operating point has min_accuracy 0.99; "):
        what_if(fast(), OURS, Question(50.0, classes))
