"""The lower envelope: what is dropped has a stand-in, what is kept is needed. No engine runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import InvalidInput
from engines.export.front import Candidate, Verdict, dominates, front

TOLERANCE = 0.02

# Few values, so that ties and near ties are common.
LATENCIES = st.sampled_from([0.5, 0.505, 0.51, 0.515, 0.52, 0.7, 1.0, 1.01, 1.015])
LOSSES = st.sampled_from([0.2, 0.3, 0.301, 0.5])


@st.composite
def dials(draw: st.DrawFn) -> list[Candidate]:
    count = draw(st.integers(1, 8))
    return [
        Candidate(
            name=f"p{i}" if i else "full",
            latency_s=draw(LATENCIES),
            log_loss=draw(LOSSES),
            accuracy=draw(st.sampled_from([0.8, 0.9])),
            skips=bool(i) and draw(st.booleans()),
        )
        for i in range(count)
    ]


def size(name: str, latency_s: float, log_loss: float, accuracy: float = 0.9) -> Candidate:
    return Candidate(name, latency_s, log_loss, accuracy, skips=False)


def skip(name: str, latency_s: float, log_loss: float, accuracy: float = 0.9) -> Candidate:
    return Candidate(name, latency_s, log_loss, accuracy, skips=True)


FULL = size("full", 1.0, 0.3)


def kept(
    candidates: Sequence[Candidate], tolerance: float = TOLERANCE, least: float = 0.0
) -> list[str]:
    found = front(candidates, tolerance, least)
    return [name for name, verdict in found.items() if verdict.kept]


# Whatever the candidates


LEAST = st.sampled_from([0.0, 0.01, 0.3])


@given(dials(), LEAST)
def test_full_is_always_kept(candidates: list[Candidate], least: float) -> None:
    assert front(candidates, TOLERANCE, least)["full"].kept


@given(dials(), LEAST)
def test_what_is_dropped_is_dominated_by_something_kept(
    candidates: list[Candidate], least: float
) -> None:
    found = front(candidates, TOLERANCE, least)
    by_name = {candidate.name: candidate for candidate in candidates}
    for name, verdict in found.items():
        if not verdict.kept:
            assert verdict.dominated_by is not None
            assert found[verdict.dominated_by].kept
            least_s = least * candidates[0].latency_s
            assert dominates(by_name[verdict.dominated_by], by_name[name], TOLERANCE, least_s)


@given(dials(), LEAST)
def test_nothing_kept_dominates_something_kept_but_full(
    candidates: list[Candidate], least: float
) -> None:
    names = kept(candidates, least=least)
    least_s = least * candidates[0].latency_s
    shipped = [candidate for candidate in candidates if candidate.name in names]
    for other in shipped[1:]:
        assert not [
            one.name
            for one in shipped
            if one is not other and dominates(one, other, TOLERANCE, least_s)
        ]


@given(dials(), st.randoms(use_true_random=False))
def test_order_of_the_candidates_does_not_matter(candidates: list[Candidate], rng: object) -> None:
    full, *rest = candidates
    shuffled = sorted(rest, key=lambda c: rng.random())  # type: ignore[attr-defined]
    distinct = {dataclasses.replace(candidate, name="") for candidate in candidates}
    if len(distinct) == len(candidates):
        assert front([full, *shuffled], TOLERANCE) == front(candidates, TOLERANCE)


@given(dials())
def test_without_tolerance_it_is_the_pareto_front(candidates: list[Candidate]) -> None:
    rest = candidates[1:]
    names = set(kept(candidates, 0.0))
    for one in rest:
        beaten = any(
            (other.latency_s < one.latency_s and other.quality >= one.quality)
            or (other.latency_s <= one.latency_s and other.quality > one.quality)
            for other in candidates
        )
        if beaten:
            assert one.name not in names
    # Every latency and quality on the front has somebody who is there.
    for one in rest:
        assert any(
            c.latency_s <= one.latency_s and c.quality >= one.quality
            for c in candidates
            if c.name in names
        )


# By hand


def test_without_losses_accuracy_decides() -> None:
    def found(name: str, latency_s: float, accuracy: float) -> Candidate:
        return Candidate(name, latency_s, None, accuracy, skips=name.startswith("skip"))

    full, better = found("full", 1.0, 0.8), found("skip-a", 0.7, 0.79)
    assert kept([full, better, found("small", 0.75, 0.7), found("skip-b", 0.3, 0.6)]) == [
        "full", "skip-a", "skip-b",
    ]  # fmt: skip


def test_a_point_off_the_hull_but_on_the_front_is_kept() -> None:
    """Halfway in latency, but far worse than half the way in loss."""
    assert kept([FULL, size("middle", 0.7, 0.58), size("small", 0.4, 0.6)]) == [
        "full",
        "middle",
        "small",
    ]


def test_log_loss_decides_and_accuracy_only_where_it_is_equal() -> None:
    better = size("calibrated", 0.5, 0.40, accuracy=0.85)
    assert kept([FULL, better, size("other", 0.5, 0.41, accuracy=0.95)]) == ["full", "calibrated"]
    assert kept([FULL, better, size("equal", 0.5, 0.40, accuracy=0.95)]) == ["full", "equal"]


def test_a_slower_point_that_is_better_stays_beyond_the_noise_only() -> None:
    """Within it the better one is all that anybody needs."""
    best = size("best", 0.51, 0.4)
    assert kept([FULL, best, size("fast", 0.505, 0.5)]) == ["full", "best"]
    assert kept([FULL, best, size("fast", 0.49, 0.5)]) == ["full", "best", "fast"]


def test_a_chain_of_small_steps_does_not_lose_its_end() -> None:
    """Each is within the noise of its neighbour; the first and the last are not."""
    steps = [size(f"s{i}", 0.6 * 0.99**i, 0.31 + 0.01 * i) for i in range(12)]
    names = kept([FULL, *steps])
    assert "s0" in names
    assert steps[-1].latency_s * 1.02 > min(s.latency_s for s in steps if s.name in names)


def test_a_mere_smaller_image_wins_a_tie() -> None:
    assert kept([FULL, skip("skip", 0.5, 0.4), size("small", 0.5, 0.4)]) == ["full", "small"]
    # Faster within the noise is a tie as well.
    assert kept([FULL, skip("skip", 0.495, 0.4), size("small", 0.5, 0.4)]) == ["full", "small"]


def test_skipping_that_is_better_or_faster_is_kept() -> None:
    """Better at the same latency: the image alone is pointless. Better but slower: both stay."""
    small = size("small", 0.5, 0.4)
    assert kept([FULL, skip("better", 0.5, 0.39), small]) == ["full", "better"]
    assert kept([FULL, skip("better", 0.505, 0.39), small]) == ["full", "better", "small"]
    assert kept([FULL, skip("faster", 0.48, 0.4), small]) == ["full", "faster"]


def test_full_is_kept_and_told_what_dominates_it() -> None:
    found = front([FULL, size("wonder", 0.5, 0.2)], TOLERANCE)
    assert found["full"] == Verdict(True, "wonder")
    assert front([FULL, size("small", 0.5, 0.4)], TOLERANCE)["full"] == Verdict(True)


@pytest.mark.parametrize(
    ("candidates", "tolerance", "least"),
    [([], 0.0, 0.0), ([FULL, FULL], 0.0, 0.0), ([FULL], -0.1, 0.0), ([FULL], 0.0, -0.1)],
)
def test_nonsense_is_refused(candidates: list[Candidate], tolerance: float, least: float) -> None:
    with pytest.raises(InvalidInput, match="no front of"):
        front(candidates, tolerance, least)


def test_a_glance_leaves_sizes_for_deadlines_that_it_cannot_promise() -> None:
    """Faster and better on the average, but some images take longer than any of `small`."""
    glance = Candidate("glance", 0.5, 0.2, 0.9, skips=True, worst_s=1.2)
    assert kept([FULL, size("small", 0.6, 0.25), glance]) == ["full", "small", "glance"]


def test_of_two_glances_the_one_that_is_slower_in_both_senses_goes() -> None:
    good = Candidate("good", 0.5, 0.2, 0.9, skips=True, worst_s=1.2)
    slow = Candidate("slow", 0.6, 0.2, 0.9, skips=True, worst_s=1.3)
    assert kept([FULL, good, slow]) == ["full", "good"]


# What is too little to matter


def test_a_point_that_saves_next_to_nothing_of_full_is_not_worth_its_errors() -> None:
    points = [FULL, size("small", 0.17, 0.4), skip("worse", 0.155, 0.8)]
    assert kept(points) == ["full", "small", "worse"]
    assert kept(points, least=0.02) == ["full", "small"]
    assert kept([*points, skip("faster", 0.14, 0.9)], least=0.02) == ["full", "small", "faster"]


def test_nor_is_skipping_that_is_only_as_much_faster_than_a_smaller_image() -> None:
    smaller = size("small", 0.16, 0.4)
    assert kept([FULL, smaller, skip("skip", 0.15, 0.4)], least=0.02) == ["full", "small"]
    assert kept([FULL, smaller, skip("skip", 0.13, 0.39)], least=0.02) == ["full", "skip"]


def test_it_counts_what_takes_longest_too() -> None:
    glance = dataclasses.replace(skip("glance", 0.5, 0.3), worst_s=1.2)
    assert kept([FULL, glance, size("small", 0.49, 0.4)], least=0.02) == ["full", "glance", "small"]
