"""What a model's images cost: the dial, its corrections, and what a request may be answered at."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.core import static_point
from engines.manifest import Accuracy, PointRecord
from service.costs import FADE_S, ModelCosts, costs_of
from service.errors import BadRequest
from service.model import Model
from service.policy.core import REST_S
from service.profile import Profile
from tests.service.scripted import (
    HASH,
    NUM_MASKERS,
    SIZE,
    ScriptedEngine,
    glancing,
    manifest,
    model,
)

SECONDS = {"full": (0.010, 0.018), "small": (0.004, 0.007), "skip": (0.006, 0.011)}
MEASURED: dict[str, float | None] = {"full": 0.92, "small": 0.87, "skip": 0.91}


class Clock:
    """A clock that only tests move."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def measured_model(accuracies: dict[str, float | None]) -> Model:
    """The scripted model, its points with these accuracies."""

    def record(of: PointRecord) -> PointRecord:
        value = accuracies[of.point.name]
        found = None
        if value is not None:
            found = Accuracy(value=value, low=0.0, high=1.0, images=100, split="validation")
        return of.model_copy(update={"accuracy": found})

    of = manifest()
    points = tuple(record(each) for each in of.points)
    return Model(of.model_copy(update={"points": points}), HASH, ScriptedEngine())


def costs(clock: Clock | None = None, accuracies: dict[str, float | None] = MEASURED) -> ModelCosts:
    return costs_of(
        measured_model(accuracies),
        Profile(SECONDS, ratios=(1.0, 1.0)),
        clock=clock or Clock(),
    )


def run(known: ModelCosts, clock: Clock, service_s: float, *, times: int, rest_s: float) -> None:
    """Calls of `full`, each that long after the one before."""
    for _ in range(times):
        clock.now_s += rest_s
        known.began()
        clock.now_s += service_s
        known.observe((known.full,), service_s, clock.now_s)


def names(known: ModelCosts, places: Sequence[int]) -> list[str]:
    return [known.name(place) for place in places]


def test_the_dial_is_in_order_of_time_and_knows_where_full_is() -> None:
    known = costs()
    assert names(known, range(3)) == ["small", "skip", "full"]
    assert known.dial.points[known.full].name == "full"
    assert known.dial.points[known.index("small")].image_size == 24
    assert [known.accuracy(place) for place in range(3)] == [0.87, 0.91, 0.92]
    assert known.dial.points[0].seconds == (0.004, 0.007)


def glancing_model(again: float = 0.25) -> Model:
    """Its `skip` glances."""
    return Model(glancing(again), HASH, ScriptedEngine())


def glancing_costs(clock: Clock, again: float = 0.25) -> ModelCosts:
    """`skip` takes 4 ms, and 8 more where it looks again."""
    seconds = {**SECONDS, "skip": (0.004 + again * 0.008, 2 * (0.004 + again * 0.008))}
    worst = {"skip": 0.012 / seconds["skip"][0]}
    profile = Profile(seconds, worst=worst, ratios=(1.0, 1.0))
    return costs_of(glancing_model(again), profile, clock=clock)


def test_the_dial_knows_what_a_point_that_glances_may_take() -> None:
    known = glancing_costs(Clock())
    cost = known.dial.points[known.index("skip")]
    assert (cost.seconds[0], cost.again) == (0.006, 0.25)
    assert cost.worst == pytest.approx(2.0)
    assert all(c.again == c.worst == 1.0 for c in known.dial.points if c.name != "skip")


def test_a_surer_point_may_be_chosen_beside_one_that_glances() -> None:
    known = glancing_costs(Clock(), again=0.25)
    assert names(known, known.dial.free)[-1] == "full"
    assert known.allowed(None, None) == known.dial.free


def test_it_is_predicted_by_what_most_images_take_and_planned_by_what_one_may() -> None:
    known = glancing_costs(Clock())
    skip = known.index("skip")
    usual_s, planned_s = known.predict((skip,))
    assert usual_s == pytest.approx(0.004)
    assert planned_s >= 0.012
    assert known.planned_s(skip) == pytest.approx(0.006 * known.margin), "what others wait for it"
    assert known.alone_s((skip,)) == pytest.approx(0.012 * known.margin)
    assert known.alone_s((skip, known.full)) == pytest.approx(0.010 * known.margin)
    assert known.longest_s == pytest.approx(0.012 * known.margin)


def test_a_second_look_that_is_all_but_never_taken_is_not_planned_for() -> None:
    known = glancing_costs(Clock(), again=0.005)
    assert known.predict((known.index("skip"),))[1] < 0.006
    assert glancing_costs(Clock(), again=0.05).predict((known.index("skip"),))[1] > 0.011


@given(st.lists(st.booleans(), min_size=50, max_size=150), st.sampled_from([1.0, 1.5]))
@settings(max_examples=15, deadline=None)
def test_who_is_looked_at_again_is_neither_drift_nor_noise(
    images: list[bool], slower: float
) -> None:
    clock = Clock()
    known = glancing_costs(clock)
    skip = known.index("skip")
    for again in images:
        known.began()
        taken_s = slower * (0.012 if again else 0.004)
        clock.now_s += taken_s
        known.observe((skip,), taken_s, clock.now_s, (again,))
    assert known.drift == pytest.approx(slower, rel=0.01)
    assert known.summary().coverage is not None
    # Half of the window is its beginning; what is left over of calls is nothing.
    looks_s = slower * 0.004, slower * 0.012
    assert known.looks(skip) == pytest.approx(looks_s, rel=0.01)
    if slower == 1.0:
        assert known.summary().target_ratio == pytest.approx(1.0), "no spread either"


def show(known: ModelCosts, clock: Clock, again: bool, *, times: int) -> None:
    """Images at `skip` that are looked at again, or are not."""
    for _ in range(times):
        taken_s = 0.012 if again else 0.004
        known.began()
        clock.now_s += taken_s
        known.observe((known.index("skip"),), taken_s, clock.now_s, (again,))


def test_harder_pictures_make_points_that_glance_dearer_until_they_are_gone() -> None:
    clock = Clock()
    known = glancing_costs(clock)
    skip, measured = known.index("skip"), known.dial
    assert known.hardness == 0.0
    show(known, clock, again=True, times=400)
    assert known.hardness > 2.0
    assert known.dial.points[skip].seconds[0] == pytest.approx(0.012, rel=0.1)
    assert known.alone_s((skip,)) == pytest.approx(0.012 * known.margin), "at the worst, as before"
    assert [c for k, c in enumerate(known.dial.points) if k != skip] == [
        c for k, c in enumerate(measured.points) if k != skip
    ]
    assert "skip" not in names(known, known.allowed(None, None)), "`full` is faster, and better"
    assert known.allowed("skip", None) == (skip,), "who wants it has it"
    run(known, clock, 0.010, times=1, rest_s=3 * FADE_S)
    assert "skip" in names(known, known.allowed(None, None)), "nobody was there: it is tried again"
    show(known, clock, again=False, times=200)
    assert known.dial.points[skip].seconds[0] < 0.006


def test_pictures_as_measured_leave_the_dial_alone() -> None:
    clock = Clock()
    known = glancing_costs(clock)
    before = known.dial
    for _ in range(100):
        show(known, clock, again=True, times=1)
        show(known, clock, again=False, times=3)
    assert known.dial is before


def test_where_it_is_not_known_who_was_it_is_what_is_expected() -> None:
    clock = Clock()
    known = glancing_costs(clock)
    for again in (None, (None,)):
        for _ in range(100):
            known.began()
            clock.now_s += 0.006
            known.observe((known.index("skip"),), 0.006, clock.now_s, again)
    assert known.drift == pytest.approx(1.0)
    assert known.hardness == 0.0


def test_a_larger_batch_never_takes_less() -> None:
    known = costs_of(model(), dict.fromkeys(SECONDS, (0.01, 0.009, 0.012)))
    assert known.dial.points[0].seconds == (0.010, 0.010, 0.012)


def test_without_measured_accuracy_points_rank_by_their_work_and_none_is_told() -> None:
    known = costs(accuracies={"full": 0.92, "small": None, "skip": None})
    assert [point.accuracy for point in known.dial.points] == [0.5, 0.7, 1.0]
    assert [known.accuracy(place) for place in range(3)] == [None, None, 0.92]


def test_a_free_choice_is_the_front_and_a_floor_cuts_it() -> None:
    known = costs(accuracies={**MEASURED, "skip": 0.93})
    assert names(known, known.allowed(None, None)) == ["small", "skip"]
    assert names(known, known.allowed(None, 0.0)) == ["small", "skip"]
    assert names(known, known.allowed(None, 0.9)) == ["skip"]
    assert names(known, known.allowed(None, 0.93)) == ["skip"]
    assert names(known, known.allowed("full", None)) == ["full"]
    assert names(known, known.allowed("full", 0.92)) == ["full"]


@pytest.mark.parametrize(
    ("accuracies", "pinned", "floor", "said"),
    [
        (MEASURED, None, 0.95, "no operating point has min_accuracy 0.95; the best is 'full' "),
        (MEASURED, "small", 0.9, "contradicts operating point 'small', whose accuracy is 0.8700"),
        (MEASURED, "made-up", None, "unknown operating point 'made-up'; there are: small, skip"),
        (dict.fromkeys(MEASURED), None, 0.5, "cannot be promised"),
        ({**MEASURED, "small": None}, "small", 0.5, "'small', whose accuracy was not measured"),
    ],
)
def test_what_cannot_be_is_refused_and_says_what_there_is(
    accuracies: dict[str, float | None], pinned: str | None, floor: float | None, said: str
) -> None:
    with pytest.raises(BadRequest) as refused:
        costs(accuracies=accuracies).allowed(pinned, floor)
    assert said in str(refused.value)


def test_predictions_follow_what_calls_take() -> None:
    clock = Clock()
    known = costs(clock)
    run(known, clock, 0.010, times=100, rest_s=0.0)
    p50_s, p95_s = known.predict((known.full,))
    assert p50_s == pytest.approx(0.010)
    assert p95_s == pytest.approx(0.010)
    run(known, clock, 0.020, times=200, rest_s=0.0)
    assert known.drift == pytest.approx(2.0, rel=0.01)
    assert known.margin == pytest.approx(2.0)
    assert known.predict((known.full,))[0] == pytest.approx(0.020, rel=0.01)
    assert known.predict((0, 0))[0] == pytest.approx(0.014, rel=0.01)
    assert known.planned_s(0) == pytest.approx(0.004 * known.margin)
    found = known.summary()
    assert found.observed == 299  # the first one came after a rest
    assert found.remeasure is not None


def test_a_faster_machine_changes_predictions_but_not_plans() -> None:
    clock = Clock()
    known = costs(clock)
    run(known, clock, 0.005, times=300, rest_s=0.0)
    assert known.predict((known.full,))[1] < 0.010
    assert known.margin == 1.0
    assert known.planned_s(known.full) == 0.010


def test_calls_after_a_rest_are_another_matter() -> None:
    """Half of the calls take twice as long because the engine's threads slept."""
    clock = Clock()
    known = costs(clock)
    for _ in range(200):
        run(known, clock, 0.020, times=1, rest_s=2 * REST_S)
        run(known, clock, 0.010, times=1, rest_s=0.0)
    assert known.drift == pytest.approx(1.0, rel=0.01)
    assert known.margin == pytest.approx(1.0, rel=0.05)
    assert known.summary().remeasure is None
    clock.now_s += 2 * REST_S
    assert known.predict((known.full,))[0] == pytest.approx(0.020, rel=0.05)
    assert known.margin == pytest.approx(2.0, rel=0.05)


def test_an_engine_that_runs_does_not_rest() -> None:
    clock = Clock()
    known = costs_of(model(), Profile(SECONDS, ratios=(1.0, 1.0), rested_ratio=2.0), clock=clock)
    assert known.margin == pytest.approx(2.0)
    known.began()
    clock.now_s += 0.018
    assert known.margin == pytest.approx(1.0)
    known.observe((known.full, known.full), 0.018, clock.now_s)
    assert known.margin == pytest.approx(1.0)
    clock.now_s += 2 * REST_S
    assert known.margin == pytest.approx(2.0, rel=0.1)


@given(
    taken=st.lists(st.floats(), max_size=60),
    gaps=st.lists(st.floats(0.0, 10.0), min_size=60, max_size=60),
)
def test_whatever_is_observed_plans_stay_finite_and_quantiles_ordered(
    taken: list[float], gaps: list[float]
) -> None:
    clock = Clock()
    known = costs(clock)
    for service_s, gap_s in zip(taken, gaps, strict=False):
        clock.now_s += gap_s
        known.observe((known.full,), service_s, clock.now_s)
        assert 1.0 <= known.margin < math.inf
        p50_s, p95_s = known.predict((0,))
        assert 0.0 < p50_s <= p95_s < math.inf


def test_clocks_that_go_back_or_nowhere_do_no_harm() -> None:
    known = costs(Clock())
    for now_s in (1000.0, 5.0, math.inf, math.nan, 1001.0):
        known.observe((known.full,), 0.010, now_s)
    assert known.margin == pytest.approx(1.0, rel=0.05)


def test_points_of_one_size_and_time_are_all_there() -> None:
    """Two points that took equally long keep their names apart."""
    of = manifest()
    twin = of.points[1].model_copy(update={"point": static_point("twin", SIZE, NUM_MASKERS)})
    both = Model(of.model_copy(update={"points": (*of.points, twin)}), HASH, ScriptedEngine())
    known = costs_of(both, {**SECONDS, "twin": SECONDS["small"]})
    assert {known.name(known.index(name)) for name in ("small", "twin")} == {"small", "twin"}


def test_what_each_of_many_adds_is_planned_by_the_median_and_one_alone_by_the_quantile() -> None:
    found = costs()
    assert 1.0 <= found.usual <= found.margin


def test_what_a_busy_time_taught_fades_where_nothing_runs() -> None:
    """Else requests that want no late answer would be refused for ever, and nothing would run."""
    clock = Clock()
    known = costs(clock)
    run(known, clock, 0.080, times=60, rest_s=2 * REST_S)
    clock.now_s += 2 * REST_S
    assert known.planned_s(known.full) > 0.060
    clock.now_s += 10 * FADE_S
    assert known.planned_s(known.full) == pytest.approx(0.010, rel=0.01)
    run(known, clock, 0.080, times=1, rest_s=0.0)
    clock.now_s += 2 * REST_S
    assert known.planned_s(known.full) > 0.060


def beside(known: ModelCosts, clock: Clock, overhead_s: float, *, times: int) -> None:
    """Calls of every point in turn, one after another, each so much longer than measured."""
    for number in range(times):
        place = number % 3
        service_s = (0.004, 0.006, 0.010)[place] + overhead_s
        known.began()
        clock.now_s += service_s
        known.observe((place,), service_s, clock.now_s)


def test_what_calls_take_beside_their_work_is_added_not_multiplied() -> None:
    clock = Clock()
    known = costs(clock)
    assert known.overhead_s == 0.0
    beside(known, clock, 0.004, times=300)
    known.began()
    assert known.overhead_s == pytest.approx(0.004, rel=0.1)
    assert known.drift == pytest.approx(1.0, rel=0.1)
    assert known.predict((0,))[0] == pytest.approx(0.008, rel=0.1)
    assert known.predict((known.full,))[0] == pytest.approx(0.014, rel=0.1)
    # Of the measured share of a pair, and half of what a call takes beside.
    assert known.share_s(known.full) == pytest.approx(0.018 / 2 + 0.002, rel=0.1)
    assert names(known, known.dial.free) == ["small", "skip", "full"]


def test_it_is_gone_when_calls_are_as_measured_again() -> None:
    clock = Clock()
    known = costs(clock)
    beside(known, clock, 0.004, times=300)
    beside(known, clock, 0.0, times=300)
    assert known.overhead_s == pytest.approx(0.0, abs=0.0005)
    assert known.predict((0,))[0] == pytest.approx(0.004, rel=0.1)


def test_a_slower_machine_is_drift_and_no_overhead() -> None:
    clock = Clock()
    known = costs(clock)
    run(known, clock, 0.020, times=300, rest_s=0.0)
    assert known.overhead_s == 0.0
    assert known.drift == pytest.approx(2.0, rel=0.05)


def test_a_call_that_fails_is_over_and_what_was_learnt_before_fades() -> None:
    clock = Clock()
    known = costs(clock)
    run(known, clock, 0.100, times=300, rest_s=0.0)
    known.began()
    known.ended(clock.now_s)
    clock.now_s += 100 * FADE_S
    assert known.alone_s((0,)) == pytest.approx(costs().alone_s((0,)), rel=0.05)
