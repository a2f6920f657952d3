"""A run follows the service's rules to the second; points take 1, 2 and 4 s unless it is said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.load.arrivals import first, gamma
from service.policy import POLICIES, policy_named
from service.policy.core import Choice, Decision, View
from service.simulation.core import NO_POINT, Bounds, Costs, Machine, Offered, Outcome, SteadyCosts
from service.simulation.learning import learnt_costs
from service.simulation.run import simulate as simulate_bounded
from tests.service.policy.waiting import dial
from tests.service.simulation.machines import machine, offered

ROOMY = Bounds(max_queue_s=1e6)
simulate = partial(simulate_bounded, bounds=ROOMY)

OURS = policy_named("foresight")
FULL = policy_named("fixed")


class Script:
    """Chooses one point after another, whatever waits, and remembers what it saw."""

    name = "script"

    def __init__(self, *points: int) -> None:
        self.points = points
        self.seen: list[View] = []

    def start(self) -> int:
        return 0

    def decide(self, view: View, turn: int) -> tuple[Decision, int]:
        self.seen.append(view)
        return Decision((Choice(0, self.points[turn], "load"),)), turn + 1


def test_one_after_another_earliest_deadline_first() -> None:
    answers = simulate(machine(), Script(2, 0, 1), offered((0, 9), (1, 20), (2, 4)))
    # The third is due at 6 and runs before the second, which is due at 21.
    assert answers.done_s.tolist() == [4.0, 7.0, 5.0]
    assert answers.point.tolist() == [2, 1, 0]
    assert answers.outcome.tolist() == [Outcome.MET] * 3
    assert answers.busy_s == 7.0
    assert answers.calls == 3


def test_a_policy_sees_who_waits_when_the_engine_is_free() -> None:
    script = Script(2, 0, 0)
    simulate(machine(), script, offered((0, 9), (1, 20), (2, 9)))
    assert [view.now_s for view in script.seen] == [0.0, 4.0, 5.0]
    assert [image.deadline_s for image in script.seen[1].waiting] == [11.0, 21.0]


def test_decoding_overlaps_with_the_run_before() -> None:
    script = Script(2, 0)
    answers = simulate(machine(), script, offered((0, 99), (0, 99), decode_s=1.0))
    # Decided a second before the engine is free at 5, and run as soon as it is.
    assert [view.now_s for view in script.seen] == [0.0, 4.0]
    assert script.seen[1].free_s == 5.0
    assert answers.done_s.tolist() == [5.0, 6.0]


def glancing(again: float, ratios: tuple[float, ...] = (1.0,)) -> Machine:
    """One point, of a second and 2 more where an image is looked at again."""
    expected_s = 1.0 + again * 2.0
    of = dial((expected_s,), (0.9,), again=(again,), worst=(3.0 / expected_s,), max_batch=1)
    return Machine(of, ratios)


@given(again=st.sampled_from([0.0, 0.25, 0.5, 1.0]), seed=st.integers(0, 5))
@settings(max_examples=10)
def test_images_are_looked_at_again_as_often_as_is_expected(again: float, seed: int) -> None:
    many = offered(*((10.0 * n, 9.0) for n in range(400)))
    answers = simulate(glancing(again), OURS, many, seed=seed)
    taken_s = answers.done_s - many.at_s
    assert set(taken_s.round(9)) <= {1.0, 3.0}
    assert np.mean(taken_s.round(9) == 3.0) == pytest.approx(again, abs=0.1)
    assert answers.busy_s == pytest.approx(400 * (1.0 + 2.0 * again), rel=0.15)


def test_the_same_images_are_hard_whatever_the_policy() -> None:
    many = offered(*((10.0 * n, 9.0) for n in range(50)))
    of = glancing(0.5)
    assert simulate(of, OURS, many).done_s.tolist() == simulate(of, FULL, many).done_s.tolist()


def test_who_has_no_time_to_be_looked_at_again_is_not_taken() -> None:
    answers = simulate(glancing(0.5), OURS, offered((0, 2.9), (9, 3.1), degrade=False))
    assert answers.outcome.tolist() == [Outcome.REJECTED_INFEASIBLE, Outcome.MET]


def test_what_is_learnt_of_a_machine_is_not_what_images_show() -> None:
    many = offered(*((10.0 * n, 9.0) for n in range(200)))
    made: list[Costs] = []

    def costs_of(of: Machine, clock: Callable[[], float]) -> Costs:
        made.append(learnt_costs(of, clock))
        return made[0]

    # Of a half, chance would decide what most images take.
    simulate(glancing(0.25), OURS, many, costs_of=costs_of)
    assert made[0].predict((0,))[0] == pytest.approx(1.0, rel=0.05)
    assert made[0].margin < 1.5


def test_what_calls_take_beside_their_work_is_learnt_and_planned_for() -> None:
    # Milliseconds, as calls are: what is learnt of them is forgotten after half a minute.
    measured = dial((0.001, 0.002, 0.004), max_batch=1)
    slower = Machine(measured, (1.0,), taken=measured.beside(0.001))
    many = offered(*((0.0026 * n, 0.009) for n in range(600)))
    made: list[Costs] = []

    def costs_of(of: Machine, clock: Callable[[], float]) -> Costs:
        made.append(learnt_costs(of, clock))
        return made[0]

    answers = simulate(slower, OURS, many, costs_of=costs_of)
    pairs = zip(made[0].dial.points, measured.points, strict=True)
    assert [known.seconds[0] - own.seconds[0] for known, own in pairs] == pytest.approx(
        [0.001] * 3, rel=0.2
    )
    assert answers.met[-100:].all()


def test_what_waits_late_runs_when_nothing_timely_does() -> None:
    # The first is due before it could be done; the second comes while nothing else waits.
    answers = simulate(machine(), OURS, offered((0, 0.5), (0, 2)))
    assert answers.outcome.tolist() == [Outcome.LATE, Outcome.MET]
    assert answers.done_s.tolist() == [3.0, 2.0]
    assert answers.point.tolist() == [0, 1]


def test_what_cannot_be_in_time_is_refused_where_that_is_wanted() -> None:
    answers = simulate(machine(), OURS, offered((0, 0.5), (0, 2), degrade=False))
    assert answers.outcome.tolist() == [Outcome.REJECTED_INFEASIBLE, Outcome.MET]
    assert answers.point.tolist() == [NO_POINT, 1]


def test_who_is_overtaken_by_slower_calls_than_planned_expires() -> None:
    load = offered((0, 20), (1, 4.5), (2, 4.5), degrade=False)
    assert simulate(machine(), Script(2, 0, 0), load).outcome.tolist() == [Outcome.MET] * 3
    # At 4 the engine is expected to be free, and the second is chosen; it is free at 8.
    answers = simulate(machine(), Script(2, 0), load, disturbed=lambda at_s: 2.0)
    assert answers.outcome.tolist() == [Outcome.MET, Outcome.LATE, Outcome.EXPIRED]


def test_late_ones_are_given_up_after_a_while() -> None:
    # Timely ones without a pause; the late one is due at 0.5 and not wanted after 3.5.
    load = offered((0, 0.5), *[(at_s, 1.5) for at_s in range(8)])
    answers = simulate(machine((1.0,), (0.7,)), OURS, load, bounds=Bounds(late_limit_s=3.0))
    assert answers.outcome.tolist() == [Outcome.EXPIRED, *[Outcome.MET] * 8]


def test_the_queue_is_bounded_in_seconds_of_work() -> None:
    load = offered(*[(0, 99)] * 6)
    answers = simulate(machine((1.0,), (0.7,)), OURS, load, bounds=Bounds(max_queue_s=3.0))
    refused = [outcome == Outcome.REJECTED_QUEUE for outcome in answers.outcome]
    assert refused == [False] * 3 + [True] * 3


def test_the_queue_is_bounded_in_images() -> None:
    answers = simulate(machine(), OURS, offered(*[(0, 99)] * 6), bounds=Bounds(max_queue=2))
    assert answers.outcome.tolist().count(Outcome.REJECTED_QUEUE) == 4


def test_overhead_is_part_of_the_latency() -> None:
    tight = offered((0, 4.5))
    assert simulate(machine(), OURS, tight).point.tolist() == [2]
    answers = simulate(machine(overhead_s=1.0), OURS, tight)
    assert answers.point.tolist() == [1]
    assert answers.done_s.tolist() == [3.0]


def test_after_a_rest_a_call_takes_longer() -> None:
    answers = simulate(machine(rested_ratio=1.5), FULL, offered((0, 99), (6, 99), (50, 99)))
    assert answers.done_s.tolist() == [6.0, 10.0, 56.0]


def test_batches_cost_what_the_dial_says() -> None:
    cheap = machine((2.0,), (0.7,), max_batch=4, fixed_s=1.0)
    # The first runs alone, three come meanwhile and run together.
    answers = simulate(cheap, OURS, offered((0, 9), (1, 9), (1, 9), (1, 9)))
    assert answers.done_s.tolist() == [2.0, 6.0, 6.0, 6.0]
    assert answers.calls == 2


def test_luck_is_of_the_request_and_not_of_the_policy() -> None:
    scattered = machine(ratios=(0.5, 1.0, 3.0))
    load = offered(*[(20.0 * n, 99.0) for n in range(50)])
    taken = [
        simulate(scattered, policy_named(name), load, seed=3).done_s - load.at_s
        for name in ("fixed:p0", "fixed:p2")
    ]
    assert np.allclose(taken[0] * 4, taken[1])
    assert taken[0].std() > 0.1
    other = simulate(scattered, policy_named("fixed:p0"), load, seed=4)
    assert not np.allclose(other.done_s - load.at_s, taken[0])


def test_a_decision_that_cannot_be_carried_out_ends_the_run() -> None:
    with pytest.raises(ValueError, match="point 7 is not allowed"):
        simulate(machine(), Script(7), offered((0, 9)))


class Noting(SteadyCosts):
    """Costs that note what they are told, and when."""

    def __init__(self, of: Machine, clock: Callable[[], float]) -> None:
        super().__init__(of)
        self.told: list[str] = []
        self.clock = clock

    def began(self) -> None:
        self.told.append(f"began {self.clock():g}")

    def observe(self, chosen: object, service_s: float, now_s: float, again: object = None) -> None:
        self.told.append(f"took {service_s:g} until {now_s:g}, known {self.clock():g}")


def test_costs_are_told_what_calls_took_once_they_ended() -> None:
    noting: list[Noting] = []

    def costs_of(of: Machine, clock: Callable[[], float]) -> Costs:
        noting.append(Noting(of, clock))
        return noting[0]

    simulate(machine(), Script(2, 0), offered((0, 99), (1, 99)), costs_of=costs_of)
    assert noting[0].told == ["began 0", "took 4 until 4, known 4", "began 4"]


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("degrade", [True, False])
def test_every_request_has_one_outcome_and_nothing_runs_twice(name: str, degrade: bool) -> None:
    rng = np.random.default_rng(5)
    busy = machine(max_batch=2, ratios=(0.9, 1.0, 1.3))
    load = offered(*zip(first(gamma(1.0, 4.0), rng, 300), rng.uniform(1, 30, 300), strict=True))
    load = Offered(load.at_s, load.slo_s, offered((0, 1), degrade=degrade).asks)
    answers = simulate(busy, POLICIES[name], load, bounds=Bounds(max_queue_s=20.0))
    assert set(answers.outcome) <= set(Outcome)
    done = (answers.outcome == Outcome.MET) | (answers.outcome == Outcome.LATE)
    assert (done == answers.answered).all()
    assert (answers.done_s >= load.at_s).all()
    in_time = answers.done_s <= load.at_s + load.slo_s
    assert (answers.met == (in_time & answers.answered)).all()
    # The engine does one call at a time.
    assert answers.busy_s <= answers.done_s.max()


def test_a_slower_machine_is_answered_by_faster_points_and_the_way_back_is_found() -> None:
    """As in the service: costs are learnt, another process takes half the machine for a while."""
    from service.costs import ModelCosts

    usual = machine((0.001, 0.002, 0.004), ratios=(0.95, 1.0, 1.05))
    load = offered(*[(0.005 * n, 0.02) for n in range(6000)])

    def costs_of(of: Machine, clock: Callable[[], float]) -> Costs:
        return ModelCosts(of.dial, [0.7, 0.8, 0.9], ratios=of.ratios, clock=clock)

    answers = simulate(
        usual, OURS, load, costs_of=costs_of, disturbed=lambda at_s: 2.0 if 10 < at_s < 20 else 1.0
    )
    before, settled, after = (
        (load.at_s >= begin_s) & (load.at_s < end_s)
        for begin_s, end_s in ((1, 10), (12, 20), (25, 30))
    )
    assert (answers.point[before] == 2).all()
    assert answers.met[settled].mean() > 0.99
    assert (answers.point[settled] < 2).mean() > 0.3
    assert (answers.point[after] == 2).all()


def test_answers_that_leave_late_make_decisions_careful_until_they_no_longer_are() -> None:
    # Each answer takes 2 s more than any plan knows, of the 5.5 s that it has.
    of = dial((1.0, 4.0), (0.5, 0.9), max_batch=1)
    many = [(20.0 * n, 5.5) for n in range(60)]
    slow = replace(offered(*many), longer_s=np.full(60, 2.0))
    answers = simulate(Machine(of, (1.0,)), OURS, slow, costs_of=learnt_costs)
    points = answers.point.tolist()
    assert points[:3] == [1, 1, 1]
    assert not answers.met[:3].any()
    assert points[-20:] == [0] * 20
    assert answers.met[-20:].all()
    quick = simulate(Machine(of, (1.0,)), OURS, offered(*many), costs_of=learnt_costs)
    assert quick.point.tolist() == [1] * 60
    assert quick.met.all()
