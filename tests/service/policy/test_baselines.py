"""The policies to beat do what was published, on the service's queue. Points take 1, 2 and 4 s."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.policy import DEFAULT_POLICY, POLICIES, policy_named
from service.policy.baselines import Fixed, MaxAcc, MaxBatch, QueueThresholds, SlackFit, SlackFitN
from service.policy.core import Policy
from service.policy.rules import check_decision
from tests.service.policy.waiting import Image, decide, dial, pairs, view

FOUR = dial(max_batch=4)
"""Calls of up to four images, which take as long as one by one."""


def test_slackfit_spends_the_heads_slack_on_the_largest_batch_it_planned() -> None:
    # Buckets of a second: a call of 4 s is four images at p0, whoever waits.
    policy = SlackFit(buckets=16)
    assert decide(policy, view(4.9, of=FOUR)) == [(0, 0)]
    assert decide(policy, view(4.9, 9.0, of=FOUR)) == [(0, 0), (1, 0)]
    # 16 s are four images at p2 and nothing else.
    assert decide(policy, view(16.0, of=FOUR)) == [(0, 2)]


def test_slackfit_below_its_lowest_bucket_runs_that() -> None:
    assert decide(SlackFit(), view(0.5, of=FOUR)) == [(0, 0)]


def test_slackfit_n_plans_for_those_who_wait() -> None:
    assert decide(SlackFitN(), view(4.9, of=FOUR)) == [(0, 2)]
    assert decide(SlackFitN(), view(4.9, 9.0, of=FOUR)) == [(0, 1), (1, 1)]


def test_maxbatch_plans_for_a_full_batch_of_the_fastest() -> None:
    assert decide(MaxBatch(), view(4.9, of=FOUR)) == [(0, 0)]
    assert decide(MaxBatch(), view(8.0, of=FOUR)) == [(0, 1)]


def test_maxacc_takes_the_best_point_for_the_head_then_its_batch() -> None:
    assert decide(MaxAcc(), view(4.9, 9.0, of=FOUR)) == [(0, 2)]
    assert decide(MaxAcc(), view(9.0, 9.0, 9.0, of=FOUR)) == [(0, 2), (1, 2)]


def test_fixed_never_changes() -> None:
    assert decide(Fixed(), view(0.5)) == [(0, 2)]
    assert decide(Fixed("p1"), view(9.0, 9.0)) == [(0, 1), (1, 1)]
    with pytest.raises(
        ValueError, match=r"no operating point 'p9'; there are: \['p0', 'p1', 'p2'\]"
    ):
        decide(Fixed("p9"), view(9.0))


def test_all_hold_the_head_to_what_a_point_that_glances_may_take() -> None:
    # p1 is expected to take 2 seconds and may take 3.5; p2 takes 4.
    of = dial(again=(1.0, 0.4, 1.0), worst=(1.0, 1.75, 1.0), max_batch=4)
    allowed = (0, 1)
    held: list[Policy] = [SlackFitN(), MaxAcc()]
    for policy in held:
        assert decide(policy, view(Image(3.4, allowed), of=of)) == [(0, 0)]
        assert decide(policy, view(Image(3.5, allowed), of=of)) == [(0, 1)]
    batching: list[Policy] = [MaxAcc(), Fixed("p1")]
    for policy in batching:
        waiting = [Image(7.0, allowed), Image(9.0, allowed), Image(9.0, allowed)]
        assert decide(policy, view(*waiting, of=of)) == [(0, 1), (1, 1)]
    sure = dial(
        accuracies=(0.7, 0.9, 0.89), again=(1.0, 0.4, 1.0), worst=(1.0, 2.25, 1.0), max_batch=1
    )
    for policy in held:
        assert decide(policy, view(4.2, of=sure)) == [(0, 2)]
    for policy in held:
        assert decide(policy, view(4.5, of=sure)) == [(0, 1)]
    # The bucket of p1 alone ends at 3.5 seconds.
    one = dial(again=(1.0, 0.4, 1.0), worst=(1.0, 1.75, 1.0), max_batch=1)
    assert decide(SlackFit(), view(3.4, of=one)) == [(0, 0)]
    assert decide(SlackFit(), view(3.6, of=one)) == [(0, 1)]


THRESHOLDS = QueueThresholds(alpha=0.5, beta=0.25, calm_s=1.0)


def points_used(policy: Policy, *steps: tuple[float, int]) -> list[int]:
    """Point at each time with so many waiting, everybody with 20 s to go when he comes."""
    memory: Any = policy.start()
    used = []
    for now_s, waiting in steps:
        images = [Image(now_s + 20.0, arrived_s=now_s) for _ in range(waiting)]
        decision, memory = policy.decide(view(*images, now_s=now_s), memory)
        used.append(decision.choices[0].point)
    return used


def test_a_longer_queue_gets_a_faster_point_at_once() -> None:
    # (20 - 4) / 4 = 4 can wait at p2, (20 - 2) / 2 = 9 at p1: half of that may.
    assert points_used(THRESHOLDS, (0, 2)) == [2]
    assert points_used(THRESHOLDS, (0, 3)) == [1]
    assert points_used(THRESHOLDS, (0, 5)) == [0]


def test_the_way_back_waits_for_a_calm_and_goes_step_by_step() -> None:
    steps = [(0.0, 5), (1.0, 1), (1.9, 1), (2.0, 1), (2.5, 1), (3.0, 1)]
    assert points_used(THRESHOLDS, *steps) == [0, 0, 0, 1, 1, 2]


def test_a_calm_that_is_interrupted_starts_anew() -> None:
    steps = [(0.0, 5), (1.0, 1), (1.5, 4), (2.0, 1), (2.9, 1), (3.0, 1)]
    assert points_used(THRESHOLDS, *steps) == [0, 0, 0, 0, 0, 1]


def test_thresholds_respect_a_heads_own_deadline() -> None:
    assert decide(THRESHOLDS, view(Image(2.0, arrived_s=-30.0))) == [(0, 1)]


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
@given(
    waiting=st.lists(
        st.builds(
            Image,
            deadline_s=st.floats(0.01, 60.0),
            allowed=st.sampled_from([(0, 1, 2), (0,), (1,), (2,), (1, 2)]),
        ),
        min_size=1,
        max_size=12,
    ),
    of=st.sampled_from([dial(), FOUR, dial(sizes=(24, 32, 32), fixed_s=0.5, max_batch=4)]),
)
def test_any_decision_can_be_carried_out(policy: Policy, waiting: list[Image], of: Any) -> None:
    waiting.sort(key=lambda image: image.deadline_s)
    memory = policy.start()
    for _ in range(3):
        seen = view(*waiting, of=of)
        decision, memory = policy.decide(seen, memory)
        check_decision(decision, seen)
        assert pairs(decision)[0][0] == 0


def test_policies_are_known_by_name() -> None:
    assert next(iter(POLICIES)) == DEFAULT_POLICY == "foresight"
    assert all(policy_named(name).name == name for name in POLICIES)
    assert policy_named("fixed:p1") == Fixed("p1", "fixed:p1")
    with pytest.raises(ValueError, match="no policy 'fifo'; there are: foresight, thresholds, "):
        policy_named("fifo")
