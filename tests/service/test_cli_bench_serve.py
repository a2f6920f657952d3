"""`laud bench serve`: its options, what it prints, and one run of the real thing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import service.load.bench_run
from engines.bench.report import Machine
from engines.bench.timing import Noise
from service.load.bench_plan import PARTS, BenchPlan, bound_of
from service.load.bench_report import (
    Agreement,
    AgreementCell,
    Bound,
    Capacity,
    Contention,
    Found,
    Goodput,
    Lag,
    Overhead,
    PointCapacity,
    ServeBench,
    Table,
    TablePoint,
)
from service.load.report import Bin
from tests.service.commands import Laud, assert_one_line

TOO_NOISY = 3


def overhead(**changes: Any) -> Overhead:
    content: dict[str, Any] = {
        "what": "file",
        "body_bytes": 50_000,
        "end_to_end_ms": 7.0,
        "phases_ms": {"decode": 1.5, "network": 4.0},
        "own_ms": 1.5,
        "bare_ms": 0.75,
        "overhead_ms": 0.75,
        "noise": Noise(a_ms=0.75, b_ms=0.76, difference=0.013),
        **changes,
    }
    return Overhead(**content)


def report(**changes: Any) -> ServeBench:
    full = PointCapacity(
        point="full",
        accuracy=0.9,
        throughput_hz=100.0,
        front_ms=1.0,
        decode_ms=1.0,
        engine_ms=8.0,
        client_ms=0.5,
    )
    content: dict[str, Any] = {
        "bundle": "zoo:clothing",
        "machine": Machine(cpu="some CPU", cpus=2, load=0.1),
        "overhead": (overhead(), overhead(what="tensor", overhead_ms=1.25)),
        "capacity": Capacity(
            points=(full, full.model_copy(update={"point": "small"})),
            bounds=(
                bound_of(full, cores=2, engine_threads=1, decode_threads=2),
                Bound(point="small", throughput_hz=250.0, limiting="all cores"),
            ),
            pictures="two",
            cores=2,
            engine_threads=1,
            decode_threads=2,
            throughput_spread=0.02,
        ),
        "lag": Lag(
            pictures="1080p",
            slo_ms=250.0,
            level=0.99,
            sustained_hz=75.0,
            share=0.8,
            rate_hz=60.0,
            attainment=0.97,
            server_cores=1.25,
            client_cores=0.2,
            send_lag_p99_ms=0.5,
            loop_lag_p99_ms=2.5,
            decision_p99_ms=None,
        ),
        "goodput": Goodput(
            slo_ms=40.0,
            attainment=0.99,
            ours_hz=200.0,
            full_hz=80.0,
            ours_searches_hz=(200.0,),
            full_searches_hz=(80.0,),
            ratio=2.5,
            bound_ratio=2.7,
            engine_ratio=3.6,
            of_bound=0.93,
            limiting="all cores",
            client_was_late=1,
        ),
        "contention": Contention(
            rate_hz=50.0,
            slo_ms=40.0,
            begin_s=30.0,
            end_s=60.0,
            attainment_before=1.0,
            attainment_during=0.98,
            attainment_after=1.0,
            recovered_s=4.0,
            accuracy_before=0.92,
            accuracy_during=0.91,
            accuracy_back_s=None,
            seconds=(
                Bin(at_s=0.0, sent=3, met=3, points={"full": 3}, mean_accuracy=0.92),
                Bin(at_s=30.0, sent=3, met=1, points={"full": 1, "small": 2}, mean_accuracy=0.9),
            ),
        ),
        "agreement": agreement(),
        **changes,
    }
    return ServeBench(**content)


def agreement() -> Agreement:
    table = Table(
        policy="foresight",
        points=(TablePoint(point="full", accuracy=0.9, ms=(8.0, 15.0), own_ms=8.5),),
        p95_ratio=1.2,
        rested_ratio=1.5,
        decode_ms=1.0,
        front_ms=2.0,
        entry_ms=0.25,
        answer_ms=0.5,
        capacity_hz=100.0,
        budgets_ms=(120.0, 60.0, 30.0),
    )
    near = AgreementCell(
        policy="foresight",
        load=0.9,
        cv2=8.0,
        rate_hz=90.0,
        requests=900,
        server=Found(attainment=0.97, accuracy=0.9),
        simulated=Found(attainment=0.995, accuracy=0.901),
        rehearsed=Found(attainment=0.98, accuracy=0.899),
        replayed=Found(attainment=0.96, accuracy=0.902),
        speed=1.1,
        client_was_late=True,
    )
    unknown = near.model_copy(
        update={"server": Found(attainment=0.0, accuracy=None), "replayed": None, "speed": None}
    )
    return Agreement(tables=(table,), cells=(near, unknown))


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[BenchPlan]:
    """Plans that were run; the last entry of `answers` is what they find."""
    plans: list[BenchPlan] = []

    def run(plan: BenchPlan, say: object) -> ServeBench:
        plans.append(plan)
        return report()

    monkeypatch.setattr(service.load.bench_run, "bench_serve", run)
    return plans


def test_everything_is_measured_unless_parts_are_named(
    laud: Laud, planned: list[BenchPlan]
) -> None:
    laud("bench", "serve")
    laud("bench", "serve", "big.laud", "--part", "lag", "--part", "overhead", "--threads", 1)
    assert planned[0].bundle == "zoo:clothing"
    assert planned[0].parts == PARTS
    assert planned[0].server_options == ()
    assert (planned[1].bundle, planned[1].parts) == ("big.laud", ("lag", "overhead"))
    assert planned[1].server_options == ("--threads", "1")
    assert planned[1].engine_threads == 1


def test_what_agreement_compares_can_be_chosen(laud: Laud, planned: list[BenchPlan]) -> None:
    options = ("--policies", "foresight, maxacc", "--loads", "0.5", "--cv2", "1,2")
    laud("bench", "serve", "--part", "agreement", *options)
    (plan,) = planned
    assert (plan.policies, plan.loads, plan.cv2s) == (("foresight", "maxacc"), (0.5,), (1.0, 2.0))
    line = assert_one_line(laud("bench", "serve", "--loads", "much"))
    assert line == "--loads takes numbers with commas, such as 0.5,0.9: 'much'"


def test_people_read_the_figures_and_what_they_should_be(
    laud: Laud, planned: list[BenchPlan]
) -> None:
    done = laud("bench", "serve")
    text = " ".join(done.out.split())
    for fact in (
        "overhead, file of 50 kB: +0.750 ms, at most 1.0 ms",
        "overhead, tensor of 50 kB: +1.250 ms, above 1.0 ms",
        "it runs out of the engine's threads, all cores first",
        "event loop p99 2.50 ms, policy decision p99 unknown",
        "ratio 2.50; bound by CPU times 2.70, reached 0.93 of it; limiting: all cores",
        "policy 0.80 of 250.0/s (small: all cores), full 0.64 of 125.0/s (the engine's threads)",
        "in 1 runs the client itself was late",
        "above 99 % again after 4 s; accuracy 0.9200 before, 0.9100 during, back never",
        "lag at 80% of 75.0/s, the most of which 99% are in time with 250 ms",
        "server 1.25 cores, client 0.20, itself late by 0.5 ms (p99)",
        "foresight, as answers told: 100.0/s at full; ms of calls (by the server's own "
        "table) full 8.00/15.00 (8.50);",
        "97.00% 99.50% (+2.50) 98.00% (+1.00) 96.00% (-1.00) x 1.10 agrees",
        "0.9000 0.9010 (+0.10) 0.8990 (-0.10) 0.9020 (+0.20)",
        "0.00% 99.50% (+99.50) 98.00% (+98.00) - - apart",
        "unknown 0.9010 (-) 0.8990 (-) -",
        "1 of 2 cells with the luck of the run replayed, 1 after a rehearsal of other arrivals, 0 "
        "with nothing known of the load",
        "in 2 cells the client itself was late",
    ):
        assert fact in text
    assert done.status == 0


def test_machines_read_the_same(laud: Laud, planned: list[BenchPlan]) -> None:
    done = laud("bench", "serve", "--json")
    assert ServeBench.model_validate_json(done.out) == report()


def test_a_noisy_machine_is_told_by_the_status(laud: Laud, monkeypatch: pytest.MonkeyPatch) -> None:
    noisy = overhead(noise=Noise(a_ms=0.7, b_ms=0.9, difference=0.28))
    monkeypatch.setattr(
        service.load.bench_run, "bench_serve", lambda plan, say: report(overhead=(noisy,))
    )
    done = laud("bench", "serve")
    assert done.status == TOO_NOISY
    assert "too noisy: two halves of the bare handler's own times (file)" in done.err


@pytest.mark.torch
def test_a_picture_is_drawn(laud: Laud, planned: list[BenchPlan], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "serve.png"
    assert laud("bench", "serve", "--png", picture).status == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    line = assert_one_line(laud("bench", "serve", "--part", "lag", "--png", picture))
    assert line.startswith("--png draws overhead, capacity")


def test_wrong_plans_are_one_line(laud: Laud) -> None:
    line = assert_one_line(laud("bench", "serve", "--part", "speed"))
    assert line == (
        "unknown part 'speed'; there are: overhead, capacity, lag, goodput, contention, agreement"
    )


@pytest.mark.e2e
def test_the_real_server_is_measured(laud: Laud) -> None:
    done = laud("bench", "serve", "--part", "overhead", "--turns", 20, "--threads", 1, "--json")
    assert done.status in (0, TOO_NOISY), done.err
    found = json.loads(done.out)["overhead"]
    assert [one["what"] for one in found] == ["file", "tensor"]
    assert all(one["bare_ms"] > 0 for one in found)
    assert all(one["phases_ms"]["network"] > 0 for one in found)
    assert all(one["end_to_end_ms"] > one["own_ms"] for one in found)
