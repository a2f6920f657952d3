"""What answers tell of a server's machine, and what the simulator makes of the same requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from service.load.arrivals import gamma
from service.load.bench_agreement import cell_of, mix_of, table
from service.load.client import LoadError
from service.load.offering import Planned, plan_load
from service.load.records import Ledger, Records
from service.load.target import Served
from service.load.told import Told, around, calls_of, luck_of, seen_in, seen_s, told_again, told_by
from service.policy import policy_named
from service.policy.baselines import Fixed
from service.policy.core import Dial, PointCost
from service.simulation.core import Answers, Ask, Machine, Offered, Outcome, SteadyCosts
from service.simulation.learning import learnt_costs
from service.simulation.run import simulate

ACCURACY = {"full": 0.9, "small": 0.85}
MODEL = Served("colours", 32, ("full", "small"), ACCURACY, {"full": 32, "small": 24})
FULL_S, SMALL_S = 0.008, 0.004
DURATION_S = 6.0


def ledger_of(
    calls: Sequence[tuple[float, float, int]],
    point: str = "full",
    again: Sequence[bool | None] | None = None,
) -> Records:
    """Calls of (begin, service, images); a millisecond in, one to decode, two out. again: of each
    call whether its pictures were looked at again."""
    ledger = Ledger()
    looks = [None] * len(calls) if again is None else again
    for (begin_s, service_s, images), looked_again in zip(calls, looks, strict=True):
        for _ in range(images):
            done_s = begin_s + service_s + 0.002
            ledger.add(
                at_s=begin_s - 0.004,
                sent_s=begin_s - 0.004,
                done_s=done_s,
                status=200,
                slo_s=1.0,
                point=point,
                accuracy=ACCURACY[point],
                service_s=service_s,
                receive_s=0.001,
                decode_s=0.001,
                queue_s=0.002,
                looked_again=looked_again,
            )
    return ledger.records()


def in_a_row(service_s: Sequence[float], images: int = 1) -> list[tuple[float, float, int]]:
    ends_s = 1.0 + np.cumsum(service_s)
    return [
        (end_s - each_s, each_s, images)
        for end_s, each_s in zip(ends_s.tolist(), service_s, strict=True)
    ]


def scattered(middle_s: float, number: int = 41) -> list[float]:
    """Around that median, no two alike."""
    return [middle_s + 1e-6 * (k - number // 2) for k in range(number)]


def told(**changes: float) -> Told:
    """As told by calls in a row at both points."""
    runs = {
        "full": ledger_of(in_a_row(scattered(FULL_S))),
        "small": ledger_of(in_a_row(scattered(SMALL_S)), "small"),
    }
    given = {"front_s": 0.0005, "capacity_hz": 100.0, **changes}
    return told_by(MODEL, runs, alone=runs["full"], **given)


def test_calls_are_told_apart_by_what_they_took_and_when_they_came() -> None:
    records = ledger_of([(1.0, 0.01, 2), (1.01, 0.01, 1), (1.5, 0.011, 1)])
    calls = calls_of(records)
    assert calls.number.tolist() == [2, 1, 1]
    assert calls.rested.tolist() == [True, False, True]
    assert calls.begin_s.tolist() == pytest.approx([1.002, 1.012, 1.502])


def test_the_machine_is_what_answers_told() -> None:
    found = told()
    machine = found.machine
    assert [point.name for point in machine.dial.points] == ["small", "full"]
    assert [point.image_size for point in machine.dial.points] == [24, 32]
    assert [point.seconds[0] for point in machine.dial.points] == pytest.approx(
        [SMALL_S, FULL_S], rel=1e-3
    )
    assert machine.dial.max_batch == 1
    assert np.median(machine.ratios) == pytest.approx(1.0)
    # 4 ms of latency are neither decoding, waiting nor running; 1 ms is receiving.
    assert machine.overhead_s == pytest.approx(0.001)
    assert (found.decode_s, found.capacity_hz) == (0.001, 100.0)
    assert found.entry_s == pytest.approx(0.002 - found.front_s)


def test_batches_that_ran_are_known_and_others_gain_nothing() -> None:
    pairs = in_a_row([0.012 + 1e-6 * k for k in range(20)], 2)
    late = [(begin_s + 1.0, each_s, 1) for begin_s, each_s, _ in in_a_row(scattered(FULL_S))]
    runs = {
        "full": ledger_of([*pairs, *late]),
        "small": ledger_of(in_a_row(scattered(SMALL_S)), "small"),
    }
    found = told_by(MODEL, runs, alone=runs["full"], front_s=0.0, capacity_hz=100.0)
    small, full = found.machine.dial.points
    assert full.seconds == pytest.approx((FULL_S, 0.012), rel=0.01)
    assert small.seconds == pytest.approx((SMALL_S, 2 * SMALL_S), rel=1e-3)


def test_where_nothing_runs_alone_an_image_takes_its_share() -> None:
    runs = {"full": ledger_of(in_a_row([0.012 + 1e-6 * k for k in range(21)], 2))}
    found = told_by(MODEL, runs, alone=runs["full"], front_s=0.0, capacity_hz=100.0)
    (full,) = found.machine.dial.points
    assert full.seconds == pytest.approx((0.006, 0.012), rel=0.01)


def test_decisions_are_by_the_server_s_own_table_and_calls_take_what_they_took() -> None:
    """Which says that `full` takes 4 times as long as `small`, and is off by half as a whole."""
    model = replace(MODEL, service_s={"full": 0.016, "small": 0.004})
    runs = {
        "full": ledger_of(in_a_row(scattered(FULL_S))),
        "small": ledger_of(in_a_row(scattered(SMALL_S)), "small"),
    }
    found = told_by(model, runs, alone=runs["full"], front_s=0.0, capacity_hz=1.0).machine
    assert found.taken is not None
    small, full = found.dial.points
    assert full.seconds[0] / small.seconds[0] == pytest.approx(4.0)
    assert [point.seconds[0] for point in found.taken.points] == pytest.approx(
        [SMALL_S, FULL_S], rel=1e-3
    )


GLANCING = replace(
    MODEL,
    service_s={"full": FULL_S, "small": 0.004},
    glances={"small": (0.25, 2.5)},
)


def glancing(again: Sequence[bool | None]) -> Told:
    """As told by a server whose point `small` takes 2 ms, and 10 for who is looked at again."""
    taken = [(0.010 if each else 0.002) + 1e-6 * k for k, each in enumerate(again)]
    runs = {
        "full": ledger_of(in_a_row(scattered(FULL_S))),
        "small": ledger_of(in_a_row(taken), "small", again),
    }
    return told_by(GLANCING, runs, alone=runs["full"], front_s=0.0, capacity_hz=1.0)


def test_how_many_are_looked_at_again_is_the_pictures_and_what_is_expected_the_servers() -> None:
    machine = glancing([True, True, True, False] * 10).machine
    assert machine.taken is not None
    expected, taken = (dial.points[0] for dial in (machine.dial, machine.taken))
    assert (expected.again, expected.worst) == (0.25, 2.5)
    assert taken.again == 0.75
    assert taken.seconds[0] == pytest.approx(0.008, rel=0.01)
    assert taken.seconds[0] * taken.ratio(True) == pytest.approx(0.010, rel=0.01)
    assert taken.seconds[0] * taken.ratio(False) == pytest.approx(0.002, rel=0.05)


@pytest.mark.parametrize(("again", "each_s"), [(True, 0.010), (False, 0.002)])
def test_where_all_pictures_are_alike_each_takes_the_same(
    again: bool, each_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = glancing([again] * 40).machine
    assert machine.taken is not None
    taken = machine.taken.points[0]
    assert (taken.again, taken.worst) == (float(again), 1.0)
    assert taken.seconds[0] * taken.ratio(again) == pytest.approx(each_s, rel=0.02)
    pinned = Offered(np.arange(8.0), np.full(8, 0.5), (Ask(None),))
    seen: list[Sequence[bool | None] | None] = []

    monkeypatch.setattr(SteadyCosts, "observe", lambda self, *call: seen.append(call[-1]))
    simulate(machine, Fixed("small"), pinned)
    assert seen, "or nothing ended"
    assert all(each == (again,) for each in seen)


def test_what_is_not_told_is_the_servers() -> None:
    taken = glancing([None] * 40).machine.taken
    assert taken is not None
    assert (taken.points[0].again, taken.points[0].worst) == (0.25, 2.5)


def test_too_few_answers_and_unknown_accuracies_are_refused() -> None:
    few = {"full": ledger_of(in_a_row(scattered(FULL_S, 5)))}
    with pytest.raises(LoadError, match="only 5 answers told what a call at point 'full' takes"):
        told_by(MODEL, few, alone=few["full"], front_s=0.0, capacity_hz=1.0)
    with pytest.raises(LoadError, match="the accuracy of point 'large' was not measured"):
        told_by(MODEL, {"large": few["full"]}, alone=few["full"], front_s=0.0, capacity_hz=1.0)


def test_the_event_loop_takes_requests_one_after_another() -> None:
    found = told(front_s=0.002)
    seen = seen_s(found, np.array([0.0, 0.0, 0.0, 1.0]))
    assert (seen - found.entry_s).tolist() == pytest.approx([0.002, 0.004, 0.006, 1.002])


def test_the_luck_of_a_run_is_what_its_calls_took_over_the_table() -> None:
    begin_s, ratios = luck_of(ledger_of([(1.0, 0.012, 1), (2.0, 0.008, 1)]), told().machine)
    assert begin_s.tolist() == pytest.approx([1.002, 2.002])
    assert ratios.tolist() == pytest.approx([1.5, 1.0], rel=1e-3)


def test_time_on_the_way_is_divided_before_and_after() -> None:
    before_s, after_s = around(ledger_of([(1.0, 0.01, 1)]))
    # 16 ms in all; 1 receiving, 1 decoding, 2 waiting, 10 running: 2 left.
    assert before_s.tolist() == pytest.approx([0.002])
    assert after_s.tolist() == pytest.approx([0.001])


def test_who_was_not_answered_is_seen_as_planned() -> None:
    ledger = Ledger()
    ledger.add(at_s=1.0, status=429, slo_s=0.1)
    found = told()
    seen, after_s = seen_in(found, ledger.records())
    assert seen.tolist() == seen_s(found, np.array([1.0])).tolist()
    assert after_s.tolist() == [0.0]


@pytest.mark.parametrize("slo_ms", [None, 90.0])
def test_budgets_are_one_a_half_and_a_quarter(slo_ms: float | None) -> None:
    mix = mix_of(told().machine, slo_ms)
    longest_s = 15 * FULL_S if slo_ms is None else 0.09
    assert mix.slos_s == pytest.approx((longest_s, longest_s / 2, longest_s / 4), rel=1e-3)
    assert table("foresight", told(), mix).budgets_ms[0] == pytest.approx(longest_s * 1e3, rel=1e-3)


def machine(slower: float = 1.0) -> Machine:
    points = (
        PointCost("small", 24, ACCURACY["small"], (slower * SMALL_S,)),
        PointCost("full", 32, ACCURACY["full"], (slower * FULL_S,)),
    )
    return Machine(Dial(points), tuple(np.linspace(0.9, 1.1, 21).tolist()))


def served(of: Machine, policy: str, planned: Sequence[Planned]) -> Records:
    """What a server that is exactly as simulated would have answered, with luck of its own."""
    slos_s = np.array([one.slo_s for one in planned], float)
    offered = Offered(np.array([one.at_s for one in planned]), slos_s)
    answers = simulate(of, policy_named(policy), offered, seed=77, costs_of=learnt_costs)
    return records_of(of, answers)


def records_of(of: Machine, answers: Answers) -> Records:
    ledger = Ledger()
    end_s = 0.0
    order = np.argsort(answers.done_s, kind="stable")
    for place in order.tolist():
        at_s, done_s = float(answers.offered.at_s[place]), float(answers.done_s[place])
        slo_s = float(answers.offered.slo_s[place])
        if answers.outcome[place] not in (Outcome.MET, Outcome.LATE):
            ledger.add(at_s=at_s, sent_s=at_s, done_s=done_s, status=429, slo_s=slo_s)
            continue
        begin_s = max(at_s, end_s)
        end_s = done_s
        name = of.dial.points[answers.point[place]].name
        ledger.add(
            at_s=at_s,
            sent_s=at_s,
            done_s=done_s,
            status=200,
            slo_s=slo_s,
            point=name,
            accuracy=ACCURACY[name],
            service_s=done_s - begin_s,
            receive_s=0.0,
            decode_s=0.0,
            queue_s=begin_s - at_s,
        )
    return ledger.records()


def alike(of: Machine) -> Told:
    return Told(of, 0.0, 0.0, 0.0, (0.0,), of.capacity_hz(1))


def known(of: Machine) -> tuple[Told, Told]:
    """Nothing new came of the rehearsal."""
    return alike(of), alike(of)


@pytest.mark.parametrize("policy", ["foresight", "thresholds"])
@pytest.mark.parametrize(("load", "cv2"), [(0.9, 1.0), (1.3, 8.0)])
def test_a_server_that_is_as_simulated_agrees(policy: str, load: float, cv2: float) -> None:
    mix = mix_of(machine(), None)
    planned = plan_load(gamma(load / FULL_S, cv2), DURATION_S, 1, 5, mix)
    records = served(machine(), policy, planned)
    cell = cell_of(policy_named(policy), known(machine()), planned, records, load, cv2, DURATION_S)
    assert cell.agrees
    assert cell.foreseen
    assert cell.requests == len(planned)
    assert cell.speed == pytest.approx(1.0, abs=0.05)


def test_a_machine_that_became_slower_agrees_only_with_its_luck_replayed() -> None:
    planned = plan_load(gamma(1.2 / FULL_S), DURATION_S, 1, 5, mix_of(machine(), None))
    records = served(machine(slower=1.8), "foresight", planned)
    cell = cell_of(
        policy_named("foresight"), known(machine()), planned, records, 1.2, 1.0, DURATION_S
    )
    assert not cell.foreseen
    assert cell.agrees
    assert cell.speed == pytest.approx(1.8, rel=0.05)


def test_a_rehearsal_of_other_arrivals_tells_what_a_load_does_to_the_machine() -> None:
    load = gamma(1.2 / FULL_S)
    other = plan_load(load, DURATION_S, 1, 6, mix_of(machine(), None))
    again = told_again(alike(machine()), served(machine(slower=1.8), "foresight", other))
    planned = plan_load(load, DURATION_S, 1, 5, mix_of(machine(), None))
    records = served(machine(slower=1.8), "foresight", planned)
    cell = cell_of(
        policy_named("foresight"),
        (alike(machine()), again),
        planned,
        records,
        1.2,
        1.0,
        DURATION_S,
    )
    assert not cell.foreseen
    assert cell.rehearsed_well


def test_a_rehearsal_that_few_answered_tells_nothing() -> None:
    records = ledger_of(in_a_row([FULL_S] * 9))
    assert told_again(alike(machine()), records) == alike(machine())


def test_waiting_and_answering_of_a_rehearsal_are_kept() -> None:
    again = told_again(alike(machine()), ledger_of(in_a_row([1.5 * FULL_S] * 40)))
    assert again.machine.ratios == pytest.approx([1.5] * len(again.machine.ratios))
    # Two milliseconds are told by nobody: half of them are before.
    assert again.entry_s == pytest.approx(0.002)
    assert again.after_s == pytest.approx([again.machine.overhead_s] * len(again.after_s))


def test_a_server_with_another_policy_does_not_agree() -> None:
    planned = plan_load(gamma(1.3 / FULL_S), DURATION_S, 1, 5, mix_of(machine(), None))
    records = served(machine(), "maxacc", planned)
    cell = cell_of(
        policy_named("foresight"), known(machine()), planned, records, 1.3, 1.0, DURATION_S
    )
    assert not cell.agrees


def test_a_server_that_answered_nothing_agrees_with_nobody() -> None:
    ledger = Ledger()
    planned = [Planned(0.5, 0.1, 0)]
    ledger.add(at_s=0.5, status=503, slo_s=0.1)
    cell = cell_of(
        policy_named("foresight"), known(machine()), planned, ledger.records(), 0.9, 1.0, 1.0
    )
    assert (cell.replayed, cell.speed, cell.server.accuracy) == (None, None, None)
    assert not cell.agrees
