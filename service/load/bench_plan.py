"""What `laud bench serve` is asked to measure, and the bounds that follow from what it found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from engines.errors import InvalidInput
from service.load.arrivals import gamma
from service.load.bench_report import Bound, PointCapacity
from service.policy import policy_named

T = TypeVar("T", PointCapacity, Bound)

PARTS = ("overhead", "capacity", "lag", "goodput", "contention", "agreement")
FULL = "full"
COMPARED = ("foresight", "thresholds", f"fixed:{FULL}")
"""Policies of which simulator and server are compared."""

LOADS: tuple[float, ...] = (0.9, 1.3)
CV2S: tuple[float, ...] = (1.0, 8.0)
FEWEST_TURNS = 20
MOST_LOAD = 10.0


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """turns: requests of each contender for overhead. seconds: of one run under load. rounds: how
    often capacity and searches are repeated. hog_s: how long a busy process takes a core. share:
    of the capacity of `full`, the load beside it. slo_ms: None is the server's default.
    policies, loads (of the capacity of `full`), cv2s: of the agreement with the simulator.
    server_options: passed on to `laud serve`.
    """

    bundle: str = "zoo:clothing"
    parts: tuple[str, ...] = PARTS
    images: tuple[Path, ...] = ()
    server_options: tuple[str, ...] = ()
    slo_ms: float | None = None
    turns: int = 300
    seconds: float = 10.0
    rounds: int = 3
    steps: int = 6
    hog_s: float = 30.0
    share: float = 0.6
    policies: tuple[str, ...] = COMPARED
    loads: tuple[float, ...] = LOADS
    cv2s: tuple[float, ...] = CV2S
    engine_threads: int = 1
    decode_threads: int = 2
    seed: int = 0


def check_plan(plan: BenchPlan) -> None:
    """Raises InvalidInput for what cannot be measured."""
    unknown = [part for part in plan.parts if part not in PARTS]
    if unknown:
        raise InvalidInput(f"unknown part '{unknown[0]}'; there are: {', '.join(PARTS)}")
    if plan.turns < FEWEST_TURNS:
        raise InvalidInput(f"--turns must be {FEWEST_TURNS} or more, got {plan.turns}")
    if not 1 <= plan.seconds <= 3600 or not 1 <= plan.hog_s <= 3600:
        raise InvalidInput("a run takes 1 to 3600 seconds")
    if not 1 <= plan.rounds <= 100 or not 1 <= plan.steps <= 20:
        raise InvalidInput("there are 1 to 100 rounds, of searches with 1 to 20 steps")
    if not plan.policies or not plan.loads or not plan.cv2s:
        raise InvalidInput("agreement needs a policy, a load and a CV^2: at least one each")
    for policy in plan.policies:
        _check_policy(policy)
    for load in plan.loads:
        if not 0 < load <= MOST_LOAD:
            raise InvalidInput(f"a load is above 0 and at most {MOST_LOAD:g}, got {load}")
    for cv2 in plan.cv2s:
        gamma(1.0, cv2)
    if not 0 < plan.share < 1:
        raise InvalidInput(f"the share of the capacity is between 0 and 1, got {plan.share}")


def _check_policy(name: str) -> None:
    try:
        policy_named(name)
    except ValueError as error:
        raise InvalidInput(str(error)) from None


def bound_of(
    point: PointCapacity, *, cores: int, engine_threads: int, decode_threads: int
) -> Bound:
    """The most results a second at that point, were every thread busy all the time.

    The event loop is one thread; engine and decode pool have their own; all of them and the client
    share the cores.
    """
    total_ms = point.front_ms + point.decode_ms + point.engine_ms + point.client_ms
    limits = {
        "the event loop": (point.front_ms, 1),
        "the decode pool": (point.decode_ms, min(decode_threads, cores)),
        "the engine's threads": (point.engine_ms, min(engine_threads, cores)),
        "all cores": (total_ms, cores),
    }
    rates = {
        name: threads * 1e3 / each_ms for name, (each_ms, threads) in limits.items() if each_ms > 0
    }
    if not rates:
        raise InvalidInput(f"no CPU time was counted at point '{point.point}'; take longer runs")
    limiting = min(rates, key=lambda name: rates[name])
    return Bound(point=point.point, throughput_hz=rates[limiting], limiting=limiting)


def fastest(points: Sequence[T]) -> T:
    """The point with the highest throughput."""
    return max(points, key=lambda one: one.throughput_hz)


def of_full(points: Sequence[T]) -> T:
    """The point `full`, which every bundle has."""
    return next(one for one in points if one.point == FULL)


LEAST_TAIL_S = 5
"""Seconds that have to be in time to the end before anything has recovered."""


def recovery_s(
    begins_s: Sequence[float], sent: Sequence[int], met: Sequence[int], level: float
) -> float | None:
    """From when on at least that share was in time, to the end; None never, or only for less than
    `LEAST_TAIL_S` before the end, which may be luck.

    The arguments have one entry per second, the first of which is 0.
    """
    for k, begin_s in enumerate(begins_s[: len(begins_s) - LEAST_TAIL_S + 1]):
        if sum(sent[k:]) and sum(met[k:]) >= level * sum(sent[k:]):
            return begin_s - begins_s[0]
    return None
