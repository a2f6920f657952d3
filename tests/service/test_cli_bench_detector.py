"""`laud bench engine` for a bundle that finds objects: what it asks for, prints and refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import engines.bench.detectors.run
from engines.bench.detectors.plan import DetectorPlan
from engines.bench.detectors.report import (
    DetectorReport,
    Form,
    Group,
    Part,
    Ratio,
    Rival,
    Span,
)
from engines.bench.report import Machine
from engines.bench.timing import Noise, Spread
from tests.service.commands import Laud, assert_one_line

EXACT = Form(
    precision="fp32", others="fp32", agreement=1.0, ap50=0.81, loss=0.0, ap=0.52, ap_loss=0.0,
    right=True,
    dense_ms=90.25, whole_ms=99.5,
)  # fmt: skip
WRONG = Form(
    precision="int8",
    others="bf16",
    preset="mixed",
    agreement=0.5,
    ap50=0.71,
    loss=0.1,
    ap=0.41,
    ap_loss=0.11,
    right=False,
)


def spread(median_ms: float) -> Spread:
    return Spread(
        median_ms=median_ms, min_ms=1.0, lower_quartile_ms=1.0, upper_quartile_ms=median_ms
    )


def span(ours_ms: float, **ratios: float) -> Span:
    """Rivals take so many times as long as ours."""
    return Span(
        ours_ms=ours_ms,
        own_dense_ms=ours_ms * ratios["own_dense"],
        openvino_best_ms=ours_ms * ratios["openvino_best"],
        best="openvino_best",
        runs={"ours": spread(ours_ms)},
        ratios={
            name: Ratio(of_medians=value, of_sums=value, lower_quartile=0.25, upper_quartile=4.0)
            for name, value in ratios.items()
        },
    )


def group(chosen: str, ours_ms: float, difference: float = 0.01) -> Group:
    return Group(
        chosen=chosen,
        pictures=81,
        timed=12,
        foreground=0.125,
        objects=43.0,
        activation=0.5,
        macs=4.9e9,
        dense_macs=9.9e9,
        ideal_ratio=2.02,
        dense=span(ours_ms, own_dense=1.51, openvino_same=1.42, openvino_best=0.71),
        everything=span(ours_ms + 5, own_dense=1.33, openvino_same=1.24, openvino_best=0.66),
        noise=Noise(a_ms=10.0, b_ms=10.5, difference=difference),
        too_noisy=difference > 0.03,
    )


def report(**changes: Any) -> DetectorReport:
    content: dict[str, Any] = {
        "arch": "zoo:nuclei",
        "bundle": "abc",
        "point": "skip-384-65",
        "size": 384,
        "against": "zoo:nuclei",
        "against_size": 512,
        "threads": 1,
        "precision": "fp32",
        "isa": "avx512",
        "images": "81 of 81 pictures",
        "repeats": 24,
        "ap50": 0.812,
        "ap": 0.523,
        "every": group("all 81 pictures", 50.0),
        "emptiest": group("the 25% with the least foreground", 20.0),
        "parts": (
            Part(name="heads", macs=3e9, num_bytes=2e7, point_ms=7, ours_ms=33, openvino_ms=11.5),
        ),
        "machine": Machine(cpu="Abacus 3000", cpus=2, load=0.25),
        "baseline": Rival(
            engine="OpenVINO",
            properties={"NUM_STREAMS": "1"},
            input="u8",
            forms=(EXACT, WRONG),
            same=EXACT,
            dense=EXACT,
            whole=EXACT,
            judged_on="81 pictures",
            versions={"openvino": "2026.4.1-abc", "nncf": "3.4.0"},
        ),
    }
    return DetectorReport(**{**content, **changes})


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[DetectorPlan]:
    """Nothing is measured: `report()` is the answer; the plans that were asked."""
    plans: list[DetectorPlan] = []

    def answer(plan: DetectorPlan, say: object) -> DetectorReport:
        plans.append(plan)
        return report()

    monkeypatch.setattr(engines.bench.detectors.run, "bench_detector", answer)
    return plans


def test_a_detector_s_options_make_its_plan(
    laud: Laud, measured: list[DetectorPlan], tmp_path: Path
) -> None:
    options = "--arch zoo:nuclei --point skip-384-65 --precision bf16 --threads 2 --repeats 6"
    more = "--against zoo:nuclei --against-size 512 --emptiest 0.1 --json"
    done = laud(
        *("bench", "engine", *f"{options} {more}".split()),
        *("--images", tmp_path, "--cache", tmp_path / "cache"),
    )
    assert done.status == 0, done.err
    assert measured == [
        DetectorPlan(
            "zoo:nuclei",
            images=tmp_path,
            precision="bf16",
            point="skip-384-65",
            threads=2,
            repeats=6,
            cache=tmp_path / "cache",
            against="zoo:nuclei",
            against_size=512,
            emptiest=0.1,
        )
    ]
    assert DetectorReport.model_validate_json(done.out) == report()


def test_table_has_both_spans_of_both_groups_beside_every_rival(
    laud: Laud, measured: list[DetectorPlan], tmp_path: Path
) -> None:
    done = laud("bench", "engine", "--arch", "zoo:nuclei", "--images", tmp_path)
    assert done.status == 0, done.err
    assert measured[0].emptiest == 0.25
    rows = {
        "dense part: ours, nothing skipped": "1.51",
        "dense part: OpenVINO, same precision": "1.42",
        "dense part: OpenVINO, best here": "0.71",
        "everything: ours, nothing skipped": "1.33",
        "everything: OpenVINO, same precision": "1.24",
        "everything: OpenVINO, best here": "0.66",
    }
    for label, ratio in rows.items():
        found = [line for line in done.out.splitlines() if label in line]
        assert len(found) == 2
        assert all(ratio in line and "0.25-4.00" in line for line in found)
    shown = " ".join(done.out.split())
    for fact in (
        "against zoo:nuclei with nothing skipped at 512 px",
        "the 25% with the least foreground (12 of 81 timed)",
        "0.125 foreground, 43 objects",
        "AP50 with nothing skipped 0.812, AP 0.523",
        "Abacus 3000, load 0.25",
        "11.50",
        "fp32: 90.25 ms dense, 99.50 ms in all",
        "int8 mixed, else bf16: not right, AP50 0.710 (loss +0.100), AP 0.410 (+0.110), agrees",
    ):
        assert fact in shown, fact


def test_a_noisy_measurement_of_either_group_is_printed_and_fails(
    laud: Laud, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    noisy = report(emptiest=group("the emptiest", 20.0, difference=0.05))
    monkeypatch.setattr(engines.bench.detectors.run, "bench_detector", lambda plan, say: noisy)
    done = laud("bench", "engine", "--arch", "zoo:nuclei", "--images", tmp_path)
    assert done.status == 3
    assert "the emptiest" in done.out
    assert "too noisy: two halves of our own runs took 10.00 and 10.50 ms" in done.err


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("", "name annotated ones with --images DIR"),
        ("--images . --masks random --rate 0.5", "leave out --rate, --masks"),
        ("--images . --rivals --batch 2 --size 64", "leave out --size, --batch, --rivals"),
        ("--images . --point gone", "no operating point 'gone'"),
        ("--images nowhere/test", "nowhere"),
    ],
)
def test_what_detectors_do_not_take_is_one_line(
    laud: Laud, monkeypatch: pytest.MonkeyPatch, options: str, reason: str
) -> None:
    monkeypatch.setattr(engines.bench.run, "find_spec", lambda name: object())
    assert reason in assert_one_line(
        laud("bench", "engine", "--arch", "zoo:nuclei", *options.split())
    )
