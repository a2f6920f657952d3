"""`laud plan` and `laud bench plan`: what they print, and what they refuse."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import engines.bench.plan_check
import engines.latency.host_measuring
from engines.bench.plan_check import PlanQuestion
from engines.bench.plan_report import Measured, PlanReport, Role, judge
from engines.bench.report import Machine
from engines.bench.timing import Noise, Spread
from engines.latency.candidates import SkipRates
from engines.latency.design import Design, NetworkDesign, design
from engines.latency.design_costs import GpuCosts
from engines.latency.hardware import gpu
from tests.service.commands import Laud, assert_one_line


def planned(laud: Laud, options: str) -> Design:
    done = laud("plan", *options.split(), "--json")
    assert done.status == 0, done.err
    return Design.model_validate_json(done.out)


def test_a_gpu_gets_its_typical_batch_and_one_rate_for_all(laud: Laud) -> None:
    found = planned(laud, "--arch resnet101 --device v100 --rate 0.4")
    of, rates = found.setting, found.rates
    assert (of.arch, of.device, of.batch, of.size, of.model) == (
        *("resnet101", "v100", 128, 224),
        "fixed",
    )
    assert (rates.spatial, rates.channel, rates.layer) == (0.4, 0.4, 0.4)
    assert found.chosen.total_s < found.static.total_s
    assert [stage.chosen.candidate for stage in found.stages] == list(found.chosen.stages)


def test_a_paradigm_may_have_another_rate(laud: Laud) -> None:
    options = "--spatial-rate 0.2 --channel-rate 0.3 --layer-rate 1"
    rates = planned(laud, f"--arch resnet50 --device tx2 {options}").rates
    assert (rates.spatial, rates.channel, rates.layer) == (0.2, 0.3, 1.0)


def test_only_the_granularities_that_are_named_are_tried(laud: Laud) -> None:
    options = "--arch resnet50 --device tx2 --granularity 4-100 --group 32"
    found = planned(laud, options)
    labels = [option.candidate.label for option in found.stages[0].options]
    assert labels == ["static", "spatial S=4", "channel G=32", "layer"]


def test_paper_mode_is_the_published_model(laud: Laud) -> None:
    paper = planned(laud, "--arch resnet50 --device v100 --mode paper")
    fixed = planned(laud, "--arch resnet50 --device v100")
    assert (paper.setting.model, fixed.setting.model) == ("paper", "fixed")
    # Published, milliseconds an image of the static network, without stem and head.
    assert paper.static.total_s / 128 * 1e3 == pytest.approx(0.9079, rel=0.005)


def test_scattered_patches_make_the_first_convolution_dearer(laud: Laud) -> None:
    options = "--arch resnet50 --device v100 --granularity 4"
    apart, together = (planned(laud, f"{options}{more}") for more in (" --scattered", ""))
    assert (apart.setting.clustered, together.setting.clustered) == (False, True)
    assert apart.stages[0].options[1].macs_ratio > together.stages[0].options[1].macs_ratio


def test_the_table_shows_every_candidate_and_what_rates_mean(laud: Laud) -> None:
    done = laud("plan", "--arch", "resnet50", "--device", "v100", "--batch", 16)
    assert done.status == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == "resnet50, 224 px, v100, batch 16, fp32 (predicted)"
    for label in ("static", "spatial S=1", "spatial S=28", "channel G=64", "layer"):
        assert [line for line in lines if f"│ {label}" in line], label
    assert len([line for line in lines if line.rstrip("│ ").endswith("chosen")]) == 4
    assert "fused" in done.out
    assert "equal rates of different paradigms do not mean equal accuracy" in done.out
    assert "Within 1 % the finer granularity is preferred" in done.out
    assert "…" not in done.out


def test_a_picture_is_drawn(laud: Laud, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    png = tmp_path / "plan.png"
    options = "--arch resnet50 --device tx2 --granularity 4 --group 16 --json"
    done = laud("plan", *options.split(), "--png", png)
    assert done.status == 0, done.err
    assert png.read_bytes().startswith(b"\x89PNG")
    assert done.err == f"wrote {png}\n"
    json.loads(done.out)


def test_a_picture_without_matplotlib_says_how_to_install_it(
    laud: Laud, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    options = ("--arch", "resnet50", "--device", "tx2", "--png", tmp_path / "plan.png")
    assert "this command needs matplotlib" in assert_one_line(laud("plan", *options))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("--arch resnet18 --device v100", "unknown network 'resnet18'"),
        ("--arch resnet50 --device k80", "unknown GPU 'k80'; there are v100, "),
        ("--arch resnet50 --device nowhere.json", "cannot read 'nowhere.json'"),
        ("--arch resnet50 --device a100 --mode paper", "unknown GPU 'a100' in the paper's"),
        ("--arch resnet50 --device v100 --mode best", "unknown mode 'best'"),
        ("--arch resnet50 --device v100 --rate 2", "must be 0 to 1, got 2.0"),
        ("--arch resnet50 --device v100 --layer-rate -1", "rate of layer skipping must be"),
        ("--arch resnet50 --device v100 --size 0", "1 to 4096 pixels on a side"),
        ("--arch resnet50 --device v100 --batch 0", "--batch must be at least 1, got 0"),
        ("--arch resnet50 --device v100 --granularity 0", "a patch must be at least 1"),
        ("--arch resnet50 --device v100 --group 4-x", "--group takes the sizes to try"),
        ("--arch resnet50 --device v100 --precision int8", "--precision goes with our own"),
        ("--arch resnet50 --device v100 --threads 2", "--threads goes with our own"),
        ("--arch resnet50 --device this --mode paper", "not 'this'"),
        ("--arch resnet50 --device this --precision fp8", "--precision must be one of"),
        ("--arch regnet_y_400mf --device this", "our engine runs no 'regnet_y_400mf'"),
        ("--arch resnet50 --device v100 --png nowhere/plan.png", "no such folder"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_measured(
    laud: Laud, monkeypatch: pytest.MonkeyPatch, options: str, reason: str
) -> None:
    def measured(*given: object) -> None:
        raise AssertionError("this machine was measured")

    monkeypatch.setattr(engines.latency.host_measuring, "measure_host", measured)
    assert reason in assert_one_line(laud("plan", *options.split()))


def chosen(measured_ms: float, noise: Noise) -> PlanReport:
    """A measurement in which the first alternative took 10 ms."""
    planned = design(GpuCosts("resnet50", 224, gpu("tx2")), SkipRates(), patches=(4,), groups=(16,))
    run = Spread(median_ms=10.0, min_ms=9.0, lower_quartile_ms=9.5, upper_quartile_ms=10.5)
    rows: tuple[tuple[Role, NetworkDesign, float, float], ...] = (
        ("chosen", planned.chosen, 8.0, measured_ms),
        ("alternative", planned.alternatives[0], 9.0, 10.0),
        ("static", planned.static, 18.0, 20.0),
    )
    networks = tuple(
        Measured(
            role=role,
            stages=of.stages,
            predicted_ms=predicted_ms,
            measured_ms=ms,
            macs_ratio=0.5,
            run=run,
        )
        for role, of, predicted_ms, ms in rows
    )
    content: dict[str, Any] = {
        **judge(networks).model_dump(),
        "networks": networks,
        "design": planned,
        "isa": "avx2",
        "masks": "random",
        "images": "made-up pictures",
        "repeats": 32,
        "draws": 8,
        "seed": 0,
        "noise": noise,
        "too_noisy": noise.too_noisy,
        "machine": Machine(cpu="Abacus 3000", cpus=2, load=0.25),
    }
    return PlanReport(**content)


QUIET = Noise(a_ms=10.0, b_ms=10.1, difference=0.01)
NOISY = Noise(a_ms=10.0, b_ms=11.0, difference=0.1)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[PlanQuestion]:
    """Nothing is measured: the choice took 10.4 ms; the questions that were asked."""
    questions: list[PlanQuestion] = []

    def answer(question: PlanQuestion, say: object) -> PlanReport:
        questions.append(question)
        return chosen(10.4, QUIET)

    monkeypatch.setattr(engines.bench.plan_check, "check_plan", answer)
    return questions


def test_options_make_the_question(laud: Laud, asked: list[PlanQuestion], tmp_path: Path) -> None:
    options = "--arch resnet101 --device here.json --rate 0.4 --layer-rate 0.7 --masks clustered"
    more = "--granularity 2-4 --group 16 --precision int8 --threads 2 --batch 4 --size 192"
    rest = "--repeats 8 --seed 3 --json"
    done = laud("bench", "plan", *f"{options} {more} {rest}".split(), "--images", tmp_path)
    assert done.status == 0, done.err
    assert PlanReport.model_validate_json(done.out) == chosen(10.4, QUIET)
    assert asked == [
        PlanQuestion(
            arch="resnet101",
            device="here.json",
            rates=SkipRates(spatial=0.4, channel=0.4, layer=0.7),
            masks="clustered",
            precision="int8",
            threads=2,
            batch=4,
            size=192,
            patches=(2, 4),
            groups=(16,),
            images=tmp_path,
            repeats=8,
            seed=3,
        )
    ]


def test_the_verdict_is_below_the_table(laud: Laud, asked: list[PlanQuestion]) -> None:
    done = laud("bench", "plan", "--arch", "resnet50")
    (question,) = asked
    assert (question.device, question.masks) == ("this", "random")
    assert "chosen 10.40 ms, fastest 10.00 ms: 1.040, within 5 % of it" in done.out
    assert "rank correlation 0.500, median error of predictions 10.0%" in done.out
    (row,) = [line for line in done.out.splitlines() if line.strip().startswith("static")]
    assert "1.923" in row
    assert "…" not in done.out


def test_a_noisy_measurement_is_printed_and_fails(
    laud: Laud, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy = chosen(10.6, NOISY)
    monkeypatch.setattr(engines.bench.plan_check, "check_plan", lambda question, say: noisy)
    done = laud("bench", "plan", "--arch", "resnet50")
    assert done.status == 3
    assert "1.060, more than 5 % off" in done.out
    assert "too noisy: two halves of the runs of the chosen network took 10.00 and 11.00 ms" in (
        done.err
    )


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("--arch resnet18", "our engine runs no 'resnet18'"),
        ("--arch resnet50 --device v100", "a plan for 'v100' cannot be measured here"),
        ("--arch resnet50 --masks trained", "--masks must be one of random, clustered"),
        ("--arch resnet50 --spatial-rate 1.5", "rate of spatial skipping must be 0 to 1"),
        ("--arch resnet50 --size 0", "--size must be 1 to 4096 pixels, got 0"),
        ("--arch resnet50 --images nowhere", "nowhere: no such folder"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    laud: Laud, monkeypatch: pytest.MonkeyPatch, options: str, reason: str
) -> None:
    def measured(*given: object) -> None:
        raise AssertionError("this machine was measured")

    monkeypatch.setattr(engines.latency.host_measuring, "measure_host", measured)
    assert reason in assert_one_line(laud("bench", "plan", *options.split()))
