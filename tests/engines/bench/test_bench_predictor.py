"""`laud bench predictor`: what it refuses at once, and one short real run on the demo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.bench import predictor as bench
from engines.bench.held_out import demo
from engines.bench.prediction_report import PredictorReport
from engines.bench.predictor import NETWORKS, PredictorPlan, bench_predictor
from engines.errors import ConfigError, EngineError, InvalidInput
from engines.latency.identity import this_device
from engines.latency.measuring import MeasurePlan, measure
from tests.engines.latency.cases import ABACUS, host

HERE = host(this_device(), macs_per_s=1e10)
TINY = PredictorPlan(networks=("clothing-fp32",), calls=3, online_calls=20, settling_s=0.0)


@pytest.fixture(scope="module")
def told() -> list[str]:
    return []


@pytest.fixture(scope="module")
def report(told: list[str]) -> PredictorReport:
    """Of the demo alone, its table taken in a hurry: 3 repeats, 20 calls, no batch of four."""
    hurried = pytest.MonkeyPatch()

    def quick(bundle: Any, plan: MeasurePlan, say: Any) -> Any:
        assert plan.precisions == ("fp32",)
        assert len(plan.threads or ()) == 1
        fields = {**vars(plan), "repeats": 3, "calls": 20}
        return measure(bundle, MeasurePlan(**fields), say)

    hurried.setattr(bench, "measure", quick)
    try:
        return bench_predictor(TINY, HERE, told.append)
    finally:
        hurried.undo()


CASES = demo("fp32", 1).cases


def test_every_case_is_told_with_what_was_predicted_and_what_it_took(
    report: PredictorReport,
) -> None:
    assert len(report.cases) == len(CASES)
    for told, case in zip(report.cases, CASES, strict=True):
        assert (told.size, told.batch, told.kind) == (case.size, case.batch, case.kind)
        assert told.held_out == case.held_out
        assert (told.rate is None) == (case.point is not None)
        for ms in (told.measured_ms, told.again_ms, told.predicted_ms, told.analytic_ms):
            assert ms > 0.0
        assert told.predicted_p95_ms >= told.predicted_ms


def test_the_top_level_is_the_measured_predictor(report: PredictorReport) -> None:
    for errors, of in (
        (report, [c.predicted_ms for c in report.cases]),
        (report.rates_only, [c.rates_only_ms for c in report.cases]),
        (report.analytic, [c.analytic_ms for c in report.cases]),
    ):
        apart = [
            abs(p - truth) / truth
            for p, c in zip(of, report.cases, strict=True)
            for truth in (c.measured_ms, c.again_ms)
        ]
        assert errors.median_ape == pytest.approx(np.median(apart))
        assert errors.p95_ape == pytest.approx(np.quantile(apart, 0.95))
        assert errors.n == len(CASES)
        assert 0.0 <= errors.coverage95 <= 1.0
        assert -1.0 <= errors.rank_correlation <= 1.0
    repeats = [abs(c.again_ms - c.measured_ms) / c.measured_ms for c in report.cases]
    assert report.repeat_ape == pytest.approx(np.median(repeats))


def test_blocks_of_all_cases_are_compared_too(report: PredictorReport) -> None:
    blocks = 16 * len(CASES)
    assert report.blocks.n == report.analytic.blocks.n == blocks >= 60


def test_predictions_have_the_right_order(report: PredictorReport) -> None:
    """Batches and sizes differ by a factor of six; that much order survives a hurry."""
    assert report.rank_correlation > 0.5
    assert report.median_ape < 1.0


def test_the_analytic_model_knows_how_it_spreads_from_the_machine(report: PredictorReport) -> None:
    assert report.analytic.sharpness == HERE.noise_ratio


def test_online_coverage_is_counted_over_as_many_calls(report: PredictorReport) -> None:
    assert [each.threads for each in report.online] == sorted({1, this_device().cpus})
    assert {(each.calls, each.busy) for each in report.online} == {(20, False)}


def test_it_says_where_and_how_it_was_taken(report: PredictorReport, told: list[str]) -> None:
    assert report.machine.cpu == this_device().cpu
    assert report.passes_apart_s > 0.0
    assert report.microseconds_per_call > 0.0
    assert any("its latency table" in line for line in told)
    assert [line for line in told if line.startswith("pass ")] == [
        f"pass {n} of 2: zoo:clothing fp32, {len(CASES)} cases" for n in (1, 2)
    ]


def test_the_report_is_json_and_back(report: PredictorReport) -> None:
    assert PredictorReport.model_validate_json(report.model_dump_json()) == report


# What is refused, and when.


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever takes a table fails the test."""

    def measured(*arguments: object) -> None:
        raise AssertionError("something was measured")

    monkeypatch.setattr(bench, "measure", measured)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seed": -1}, "a seed is 0 or more, got -1"),
        ({"networks": ("clothing-int8",) * 2}, "every network is to be named once"),
        ({"calls": 2}, "at least 3 calls make a median, got 2"),
        ({"online_calls": 0}, "needs at least one call and no negative time"),
        ({"settling_s": -1.0}, "needs at least one call and no negative time"),
        ({"networks": ("vgg",)}, "unknown network 'vgg'; there are: clothing-fp32, clothing-int8"),
    ],
)
def test_what_makes_no_plan_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        PredictorPlan(**fields)


@pytest.mark.usefixtures("nothing_runs")
def test_a_description_of_another_machine_is_refused() -> None:
    with pytest.raises(InvalidInput, match=f"not that of {ABACUS.slug}; measure it with"):
        bench_predictor(TINY, host(ABACUS))


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize("threads", [0, this_device().cpus + 1])
def test_more_threads_than_the_model_knows_are_refused(threads: int) -> None:
    with pytest.raises(InvalidInput, match=f"threads must be 1 to .* here, got {threads}"):
        bench_predictor(PredictorPlan(networks=TINY.networks, threads=threads), HERE)


@pytest.mark.usefixtures("nothing_runs")
def test_networks_whose_int8_scales_are_made_need_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "find_spec", lambda name: None)
    for networks in ((), ("resnet50-mix-int8",)):
        with pytest.raises(EngineError, match=r"needs torch; .*pip install 'laudserve\[bench\]'"):
            bench_predictor(PredictorPlan(networks=networks), HERE)
    with pytest.raises(AssertionError, match="something was measured"):
        bench_predictor(TINY, HERE)


@pytest.mark.usefixtures("nothing_runs")
def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        bench_predictor(PredictorPlan(networks=TINY.networks, images=tmp_path / "none"), HERE)


@pytest.mark.parametrize("start", ["test", "./test", "."])
def test_rates_are_never_observed_on_the_pictures_of_the_judgement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    for name in ("test", "validation"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "test" if start == "." else tmp_path)
    observed = bench._observed_on(PredictorPlan(images=Path(start)))
    assert observed == (tmp_path / "validation").resolve()
    assert bench._observed_on(PredictorPlan(images=tmp_path / "validation")) is None
    assert bench._observed_on(PredictorPlan()) is None


def test_every_network_is_named_after_what_it_is() -> None:
    for name, made in NETWORKS.items():
        assert name.endswith(made[2] if made else ("int8", "fp32"))
        assert made is None or name == "-".join(made)
