"""`laud evaluate`: what it prints of a bundle, hands on, and refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import engines.evaluation.run
from engines.bundle import read_bundle
from engines.evaluation.plan import EvaluationPlan
from engines.evaluation.points import Say
from engines.evaluation.report import Report
from service.cli.evaluation_tables import print_report
from tests.engines.evaluation.reports import report
from tests.service.commands import Laud, assert_one_line
from tests.service.process import bundle_in
from tests.service.scripted import LABELS, ScriptedEngine, jpeg, manifest, quantised


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two pictures a class, but one of the red ones is blue."""
    root = tmp_path / "pictures"
    for label in LABELS:
        (root / label).mkdir(parents=True)
        for i in range(2):
            colour = "blue" if (label, i) == ("red", 1) else label
            (root / label / f"{i}.jpg").write_bytes(jpeg(colour))
    return root


def test_evaluate_prints_every_point_as_json(
    laud: Laud, scripted: ScriptedEngine, tmp_path: Path, pictures: Path
) -> None:
    bundle = bundle_in(tmp_path)
    done = laud("evaluate", bundle, pictures, "--engine", "scripted", "--json")
    assert done.status == 0, done.err
    printed = json.loads(done.out)
    assert printed["bundle"] == read_bundle(bundle).hash
    assert (printed["engine"], printed["precision"]) == ("scripted", "fp32")
    points = {point["name"]: point for point in printed["points"]}
    assert [*points] == [record.point.name for record in manifest().points]
    full = points["full"]
    assert full["images"] == 6
    assert full["accuracy"] == pytest.approx(5 / 6, abs=1e-4)
    assert full["accuracy_low"] < full["accuracy"] < full["accuracy_high"]
    assert (full["agreement"], full["macs_ratio"], full["activation"]) == (1.0, 1.0, 1.0)
    assert (points["skip"]["macs_ratio"], points["skip"]["activation"]) == (0.5, 0.5)
    assert scripted.is_closed


def test_evaluate_prints_a_table_of_the_asked_points(
    laud: Laud, scripted: ScriptedEngine, tmp_path: Path, pictures: Path
) -> None:
    options = ("--engine", "scripted", "--point", "small")
    done = laud("evaluate", bundle_in(tmp_path), pictures, *options)
    assert done.status == 0, done.err
    (row,) = [line for line in done.out.splitlines() if " .833 [" in line]
    assert row.startswith(" small")
    assert {*scripted.batches[0]} <= {"full", "small"}


@pytest.mark.parametrize(
    ("precision", "thresholds"), [("fp32", (0.0, 0.5)), ("int8", (-1.0, -0.5))]
)
def test_evaluate_takes_the_points_of_the_engines_precision(
    laud: Laud,
    scripted: ScriptedEngine,
    tmp_path: Path,
    pictures: Path,
    precision: str,
    thresholds: tuple[float, float],
) -> None:
    scripted.precision = precision
    options = ("--engine", "scripted", "--point", "skip", "--json")
    done = laud("evaluate", bundle_in(tmp_path, quantised()), pictures, *options)
    assert json.loads(done.out)["precision"] == precision
    assert scripted.points[0].name == "skip"
    assert scripted.points[0].thresholds == thresholds


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--point", "tiny"], "'colours' has no operating point 'tiny'; it has: full, small, skip"),
        (["--engine", "abacus"], "unknown engine 'abacus'; there are: cpu, reference, tensorrt"),
    ],
    ids=str,
)
def test_evaluate_refuses_what_there_is_not(
    laud: Laud, tmp_path: Path, pictures: Path, options: list[str], reason: str
) -> None:
    assert reason in assert_one_line(laud("evaluate", bundle_in(tmp_path), pictures, *options))


def test_evaluate_refuses_a_folder_without_pictures(laud: Laud, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty" in assert_one_line(laud("evaluate", bundle_in(tmp_path), tmp_path / "empty"))


def test_evaluate_times_points(
    laud: Laud, scripted: ScriptedEngine, tmp_path: Path, pictures: Path
) -> None:
    options = ("--engine", "scripted", "--json", "--latency-seconds", "0.01")
    printed = json.loads(laud("evaluate", bundle_in(tmp_path), pictures, *options).out)
    assert printed["latency_calls"] >= 20
    assert printed["compared_by"] == "latency"
    for point in printed["points"]:
        assert 0 < point["latency_p50_ms"] <= point["latency_p95_ms"]


def test_evaluate_may_be_told_to_time_nothing(
    laud: Laud, scripted: ScriptedEngine, tmp_path: Path, pictures: Path
) -> None:
    options = ("--engine", "scripted", "--json", "--no-latency")
    printed = json.loads(laud("evaluate", bundle_in(tmp_path), pictures, *options).out)
    assert (printed["latency_calls"], printed["compared_by"]) == (None, "macs")
    assert {point["latency_p50_ms"] for point in printed["points"]} == {None}
    assert len(scripted.batches) == 3, "every point once, on all pictures"


def test_evaluate_takes_several_folders_together(
    laud: Laud, scripted: ScriptedEngine, tmp_path: Path, pictures: Path
) -> None:
    other = tmp_path / "more"
    for label in LABELS:
        (other / label).mkdir(parents=True)
        (other / label / "x.jpg").write_bytes(jpeg(label))
    done = laud(
        "evaluate", bundle_in(tmp_path), pictures, other,
        "--engine", "scripted", "--no-latency", "--json",
    )  # fmt: skip
    printed = json.loads(done.out)
    assert printed["images"] == 9
    assert printed["folders"] == [str(pictures), str(other)]
    assert printed["points"][0]["accuracy"] == pytest.approx(8 / 9)


def test_evaluate_adds_sizes_that_the_bundle_lacks(
    laud: Laud, scripted: ScriptedEngine, tmp_path: Path, pictures: Path
) -> None:
    """It has 32 and 24 px with nothing skipped."""
    options = ("--engine", "scripted", "--no-latency", "--json", "--sizes", "24,20")
    printed = json.loads(laud("evaluate", bundle_in(tmp_path), pictures, *options).out)
    sizes = {point["name"]: (point["image_size"], point["kind"]) for point in printed["points"]}
    assert sizes == {
        "full": (32, "full"),
        "small": (24, "size"),
        "skip": (32, "dial"),
        "size-20": (20, "size"),
    }


def test_evaluate_hands_every_option_on(
    laud: Laud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, EvaluationPlan]] = []

    def remember(ref: str, plan: EvaluationPlan, say: Say) -> Report:
        asked.append((ref, plan))
        return report()

    monkeypatch.setattr(engines.evaluation.run, "evaluate_bundle", remember)
    options = (
        "--point skip-128 --point full --sizes 96,88 --engine reference --precision fp32 "
        "--threads 2 --latency-seconds 3 --shuffled --fixed-masks --fixed-from c --baseline d.laud "
        "--baseline e.laud --reference --seed 5 --json"
    )
    done = laud("evaluate", "zoo:x", "a", "b", *options.split())
    assert json.loads(done.out) == report().flat()
    assert asked == [
        (
            "zoo:x",
            EvaluationPlan(
                folders=(Path("a"), Path("b")),
                points=("skip-128", "full"),
                sizes=(96, 88),
                engine="reference",
                precision="fp32",
                threads=2,
                latency_s=3.0,
                shuffled=True,
                fixed_masks=True,
                fixed_from=Path("c"),
                baselines=("d.laud", "e.laud"),
                reference=True,
                seed=5,
            ),
        )
    ]


# Tables


def printed_tables(capsys: pytest.CaptureFixture[str], noise: float = 0.01) -> list[str]:
    print_report(report(noise))
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_tables_fit_80_columns_and_break_no_row(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed_tables(capsys)
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if "…" in line]
    # Answers and costs; what skips has its evidence, its shuffle and three rivals besides.
    times = {row.name: sum(line.startswith(f" {row.name}  ") for line in lines)
             for row in report().rows}  # fmt: skip
    assert times == {row.name: 7 if row.name == "skip-128" else 2 for row in report().rows}
    assert lines[0] == "cpu, int8, avx2, 1 thread; 575 images"


def test_tables_say_who_wins(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed_tables(capsys)
    free, mask, baseline = lines[-20:][
        next(i for i, line in enumerate(lines[-20:]) if "free rival" in line) :
    ][:3]
    assert free.split() == [
        *("skip-128", "free", "rival", "size-112", "-.010", "[-.018", "-.002]", "point")
    ]
    assert mask.split()[-4:] == ["-.020", "[-.050", "+.010]", "neither"]
    assert baseline.split() == ["skip-128", "baseline", "none", "-", "-"]


@pytest.mark.parametrize(("noise", "warned"), [(0.01, False), (0.04, True)])
def test_a_noisy_machine_is_told(
    capsys: pytest.CaptureFixture[str], noise: float, warned: bool
) -> None:
    lines = printed_tables(capsys, noise)
    assert any("do not conclude" in line for line in lines) == warned


# What it refuses


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--sizes", "96,small"], "--sizes takes pixels, such as 96,88,80, got '96,small'"),
        (["--sizes", "5000"], "an image size is 1 to 4096 pixels, got 5000"),
        (["--latency-seconds", "0"], "seconds of timing must be above 0, got 0"),
        (["--fixed-from", "."], "--fixed-from makes fixed masks: it goes with --fixed-masks"),
        (["--pareto", "nowhere/x.png"], "--pareto nowhere/x.png: no such folder"),
        (["--sizes", "96,7"], "--sizes: 16 pixels at least, got 7"),
        (["--pareto", "x.txt"], "--pareto writes a PNG picture; name it so, such as x.png"),
        (["--pareto", "."], "--pareto . is a folder; name a file in it"),
        (["--pareto", "x.png", "--no-latency"], "--pareto draws latency"),
        (["--baseline", "nowhere.laud"], "'nowhere.laud' is not a bundle directory"),
        (["--baseline", "zoo:clothing"], "the baseline 'zoo:clothing' has other labels than"),
        (["--fixed-masks", "--fixed-from", "nowhere"], "nowhere: no such folder"),
        (["--shuffled"], "the scripted engine asks its own maskers only"),
        (["--fixed-masks"], "the scripted engine asks its own maskers only"),
    ],
    ids=str,
)
def test_evaluate_refuses_before_it_measures(
    laud: Laud,
    scripted: ScriptedEngine,
    tmp_path: Path,
    pictures: Path,
    options: list[str],
    reason: str,
) -> None:
    done = laud("evaluate", bundle_in(tmp_path), pictures, "--engine", "scripted", *options)
    assert reason in assert_one_line(done)
    assert not scripted.batches


def test_evaluate_refuses_folders_of_other_classes(
    laud: Laud, tmp_path: Path, pictures: Path
) -> None:
    (tmp_path / "other" / "red").mkdir(parents=True)
    (tmp_path / "other" / "red" / "0.jpg").write_bytes(jpeg())
    done = laud("evaluate", bundle_in(tmp_path), pictures, tmp_path / "other")
    assert "it lacks blue, green" in assert_one_line(done)


def test_evaluate_says_what_a_picture_needs(
    laud: Laud, tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    options = ("--pareto", tmp_path / "x.png")
    done = laud("evaluate", bundle_in(tmp_path), pictures, *options)
    assert "this command needs matplotlib" in assert_one_line(done)
