"""`laud bench predictor`: its options, what it prints, and errors as one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import engines.bench.predictor
import engines.latency.host_measuring
from engines.bench.prediction_report import (
    Accuracy,
    AccuracyWithBlocks,
    Case,
    Errors,
    OnlineCoverage,
    PredictorReport,
)
from engines.bench.predictor import NETWORKS, PredictorPlan
from engines.bench.report import Machine
from engines.latency.host import Host, write_host
from tests.engines.latency.cases import host
from tests.service.commands import Laud, assert_one_line

KEYS = {"median_ape", "p95_ape", "rank_correlation", "coverage95", "sharpness", "repeat_ape", "n"}


def accuracy(median_ape: float, **changes: Any) -> dict[str, Any]:
    return {
        "median_ape": median_ape,
        "p95_ape": 0.081,
        "rank_correlation": 0.991,
        "coverage95": 0.952,
        "sharpness": 1.17,
        "repeat_ape": 0.022,
        "n": 28,
        **changes,
    }


def errors(median_ape: float, **changes: Any) -> Errors:
    found = accuracy(median_ape, **changes)
    return Errors(**{key: found[key] for key in Errors.model_fields})


def online(*, busy: bool, **changes: Any) -> OnlineCoverage:
    content: dict[str, Any] = {
        "threads": 2,
        "calls": 2000,
        "coverage95": 0.946,
        "sharpness": 1.21,
        "drift": 1.04,
        "flagged": busy,
        "median_ms": 3.5,
        "p95_ms": 4.1,
        "busy": busy,
        "settled_s": 60.0 if busy else 0.0,
    }
    return OnlineCoverage(**{**content, **changes})


def report() -> PredictorReport:
    """A report in which everything can be told apart."""
    return PredictorReport(
        **accuracy(0.031),
        blocks=errors(0.042, n=4480),
        rates_only=Accuracy(**accuracy(0.053)),
        analytic=AccuracyWithBlocks(**accuracy(0.124), blocks=errors(0.135, n=448)),
        online=(online(busy=False), online(busy=True)),
        microseconds_per_call=11.5,
        passes_apart_s=301.0,
        too_noisy=False,
        machine=Machine(cpu="Abacus 3000", cpus=4, load=0.25),
        cases=(
            Case(
                network="zoo:clothing int8",
                precision="int8",
                threads=1,
                size=128,
                batch=3,
                kind="trained",
                rate=None,
                held_out=("masks", "batch"),
                measured_ms=10.0,
                again_ms=10.2,
                predicted_ms=10.1,
                predicted_p95_ms=11.8,
                rates_only_ms=10.4,
                analytic_ms=9.0,
            ),
        ),
    )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[PredictorPlan, Host]]:
    """Nothing is measured: `report()` is the answer; what was asked of which machine."""
    found: list[tuple[PredictorPlan, Host]] = []

    def answer(plan: PredictorPlan, machine: Host, say: object) -> PredictorReport:
        found.append((plan, machine))
        return report()

    monkeypatch.setattr(engines.bench.predictor, "bench_predictor", answer)
    monkeypatch.setattr(engines.latency.host_measuring, "measure_host", lambda say: host())
    # The machine that runs these tests may lack torch, which only the measuring needs.
    monkeypatch.setattr(engines.bench.predictor, "find_spec", lambda name: object())
    return found


Asked = list[tuple[PredictorPlan, Host]]


def test_options_make_the_plan(laud: Laud, asked: Asked, tmp_path: Path) -> None:
    path = tmp_path / "here.json"
    write_host(path, host(macs_per_s=3e9))
    options = "--network clothing-int8 --network clothing-fp32 --threads 2 --calls 5"
    more = "--online-calls 100 --settling 0 --seed 3"
    done = laud(
        "bench", "predictor", *f"{options} {more}".split(), "--images", tmp_path, "--host", path
    )
    assert done.status == 0, done.err
    assert asked == [
        (
            PredictorPlan(
                images=tmp_path,
                networks=("clothing-int8", "clothing-fp32"),
                threads=2,
                calls=5,
                online_calls=100,
                settling_s=0.0,
                seed=3,
            ),
            host(macs_per_s=3e9),
        )
    ]


def test_unless_said_all_networks_on_this_machine_measured_now(laud: Laud, asked: Asked) -> None:
    assert laud("bench", "predictor").status == 0
    assert asked == [(PredictorPlan(), host())]


def test_json_is_the_report(laud: Laud, asked: Asked) -> None:
    done = laud("bench", "predictor", "--json")
    assert PredictorReport.model_validate_json(done.out) == report()
    found = json.loads(done.out)
    for level in (found, found["analytic"], found["rates_only"]):
        assert level.keys() >= KEYS
    assert found["blocks"].keys() == KEYS - {"coverage95", "sharpness"}


def test_table_has_every_predictor(laud: Laud, asked: Asked) -> None:
    done = laud("bench", "predictor")
    errors = {"3.1%": "measured", "4.2%": "measured, blocks", "5.3%": "rates only"}
    errors |= {"12.4%": "analytic", "13.5%": "analytic, blocks"}
    for error, name in errors.items():
        (row,) = [line for line in done.out.splitlines() if f" {error}" in line]
        assert row.strip("│").split("│")[0].strip() == name
    assert "quiet: 94.6% of 2000 calls" in done.out
    assert "beside a busy process for 60 s" in done.out
    assert "drift 1.04, flagged" in done.out
    assert "11.5 microseconds a prediction; passes 301 s apart; Abacus 3000" in done.out


def test_the_table_is_readable_in_a_narrow_terminal(
    laud: Laud, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = laud("bench", "predictor").out
    assert "…" not in out
    rows = [line for line in out.splitlines() if line.startswith(tuple("┏┃┡│└"))]
    assert max(map(len, rows)) <= 80
    for word in (
        "predictor",
        "error",
        "ranks",
        "in q95",
        "q95/q50",
        "again",
        "4480",
        "measured, blocks",
    ):
        assert any(word in row for row in rows), word


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("--network vgg", "unknown network 'vgg'; there are: clothing-fp32, clothing-int8"),
        ("--calls 2", "at least 3 calls make a median, got 2"),
        ("--online-calls 0", "needs at least one call"),
        ("--settling -1", "no negative time"),
        ("--host none.json", "cannot read 'none.json'"),
    ],
)
def test_bad_input_is_one_line(laud: Laud, options: str, reason: str) -> None:
    assert reason in assert_one_line(laud("bench", "predictor", *options.split()))


def test_a_host_of_another_machine_is_one_line(laud: Laud, tmp_path: Path) -> None:
    write_host(tmp_path / "abacus.json", host())
    done = laud(
        "bench", "predictor", "--host", tmp_path / "abacus.json", "--network", "clothing-fp32"
    )
    assert "not that of abacus-3000-4cpu-avx2" in assert_one_line(done)


def test_help_names_every_network_and_has_examples(laud: Laud) -> None:
    done = laud("bench", "predictor", "--help")
    text = " ".join(done.out.split())
    for name in NETWORKS:
        assert name in text
    lines = [line.strip() for line in done.out.splitlines()]
    assert "laud bench predictor --images DIR/test --json" in lines
    assert "laud bench predictor --network clothing-int8 --online-calls 200" in lines
