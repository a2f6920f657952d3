"""`laud bench engine`: what it prints, when it fails, and one real run on a tiny network."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

import engines.bench.run
from engines.bench.plan import Plan
from engines.bench.report import Baseline, Candidate, Machine, Report, Rival
from engines.bench.timing import Noise, Spread
from engines.bundle import write_bundle
from tests.engines.cpu.cases import NET, bundle
from tests.service.commands import Laud, assert_one_line
from tests.service.scripted import jpeg

KEYS = {
    *("ours_ms", "openvino_same_ms", "openvino_best_ms", "own_dense_ms"),
    *("ratio_same", "ratio_best", "ratio_own_dense", "ideal_ratio"),
    *("threads", "batch", "precision", "isa", "baseline"),
    *("arch", "paradigm", "rate", "masks", "size", "images", "machine", "repeats", "noise"),
    "too_noisy",
}

FP32 = Candidate(precision="fp32", others="fp32", ms=20.0)
INT8 = Candidate(precision="int8", others="fp32", preset="mixed", ms=11.0)


def spread(median_ms: float) -> Spread:
    return Spread(
        median_ms=median_ms,
        min_ms=median_ms - 1,
        lower_quartile_ms=median_ms,
        upper_quartile_ms=median_ms,
    )


def report(**changes: Any) -> Report:
    """A measurement in which everything can be told apart."""
    content: dict[str, Any] = {
        "arch": "resnet50",
        "bundle": None,
        "paradigm": "spatial",
        "stages": ("3x64 spatial S=8",),
        "point": "dynamic",
        "masks": "random",
        "rate": 0.5,
        "rate_of": "units",
        "activation": 0.49,
        "size": 224,
        "batch": 1,
        "threads": 1,
        "precision": "fp32",
        "isa": "avx2",
        "images": "8 of 9 pictures",
        "against": "resnet50",
        "against_size": 224,
        "seed": 0,
        "repeats": 4,
        "ours_ms": 10.0,
        "openvino_same_ms": 20.5,
        "openvino_best_ms": 11.5,
        "own_dense_ms": 17.0,
        "ratio_same": 2.05,
        "ratio_best": 1.15,
        "ratio_own_dense": 1.7,
        "ideal_ratio": 1.64,
        "macs": 2.5e9,
        "dense_macs": 4.1e9,
        "noise": Noise(a_ms=10.0, b_ms=10.1, difference=0.01),
        "too_noisy": False,
        "runs": {
            "ours": spread(10.0),
            "openvino_same": spread(20.5),
            "openvino_best": spread(11.5),
            "own_dense": spread(17.0),
            "smaller image": spread(9.0),
        },
        "rivals": (Rival(what="smaller image", ms=9.0, ratio=0.9, size=164, macs=2.4e9),),
        "machine": Machine(cpu="Abacus 3000", cpus=2, load=0.25),
        "baseline": Baseline(
            engine="OpenVINO",
            properties={"NUM_STREAMS": "1"},
            input="u8",
            candidates=(FP32, INT8),
            same=FP32,
            best=INT8,
            calibrated_on="8 of 9 pictures",
            versions={"openvino": "2026.4.1-abc", "nncf": "3.4.0"},
        ),
    }
    return Report(**{**content, **changes})


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """Nothing is measured: `report()` is the answer; the plans that were asked."""
    plans: list[Plan] = []

    def answer(plan: Plan, say: object) -> Report:
        plans.append(plan)
        return report()

    monkeypatch.setattr(engines.bench.run, "bench_engine", answer)
    return plans


def test_options_make_the_plan(laud: Laud, measured: list[Plan], tmp_path: Path) -> None:
    options = "--arch resnet101 --precision int8 --rate 0.4 --rate-of macs --masks clustered"
    more = "--paradigm mix --mix channel --granularity 4-2-1-1 --group 32 --size 192 --batch 8"
    rest = "--threads 2 --repeats 6 --seed 3 --rivals --json"
    rest += " --against zoo:clothing --against-size 160"
    folders = ["--images", tmp_path, "--cache", tmp_path / "cache"]
    done = laud("bench", "engine", *f"{options} {more} {rest}".split(), *folders)
    assert done.status == 0, done.err
    assert measured == [
        Plan(
            arch="resnet101",
            precision="int8",
            masks="clustered",
            rate=0.4,
            rate_of="macs",
            paradigm="mix",
            patches=(4, 2, 1, 1),
            group=32,
            mix="channel",
            size=192,
            images=tmp_path,
            batch=8,
            threads=2,
            repeats=6,
            seed=3,
            rivals=True,
            cache=tmp_path / "cache",
            against="zoo:clothing",
            against_size=160,
        )
    ]


def test_json_is_the_report(laud: Laud, measured: list[Plan]) -> None:
    done = laud("bench", "engine", "--arch", "resnet50", "--rate", 0.5, "--json")
    assert Report.model_validate_json(done.out) == report()
    assert json.loads(done.out).keys() >= KEYS


def test_table_has_every_ratio_beside_its_rival(laud: Laud, measured: list[Plan]) -> None:
    done = laud("bench", "engine", "--arch", "resnet50", "--rate", 0.5)
    rows = {"same precision": "2.05", "best here": "1.15", "everything active": "1.70"}
    rows |= {"smaller image": "0.90", "ideal": "1.64"}
    for label, ratio in rows.items():
        (row,) = [line for line in done.out.splitlines() if label in line]
        assert ratio in row
    for fact in ("Abacus 3000, load 0.25", "8 of 9 pictures", "NUM_STREAMS=1", "int8 mixed"):
        assert fact in done.out


def test_says_what_a_point_that_glances_takes_at_first_and_in_all(
    laud: Laud, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = report(point="glance", first_size=112, again=0.3, first_ms=2.0, worst_ms=7.5)
    monkeypatch.setattr(engines.bench.run, "bench_engine", lambda plan, say: of)
    done = laud("bench", "engine", "--arch", "resnet50", "--rate", 0.5)
    assert "at 112 px first (2.00 ms), 30.0% of them again (7.50 ms in all)" in done.out


def test_says_what_openvino_ran_where_that_is_something_else(
    laud: Laud, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = report(against="static.laud", against_size=160)
    monkeypatch.setattr(engines.bench.run, "bench_engine", lambda plan, say: other)
    done = laud("bench", "engine", "--arch", "resnet50", "--rate", 0.5)
    assert "OpenVINO runs static.laud at 160 px" in done.out


def test_a_noisy_measurement_is_printed_and_fails(
    laud: Laud, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy = report(noise=Noise(a_ms=10.0, b_ms=11.0, difference=0.1), too_noisy=True)
    monkeypatch.setattr(engines.bench.run, "bench_engine", lambda plan, say: noisy)
    done = laud("bench", "engine", "--arch", "resnet50", "--rate", 0.5, "--json")
    assert done.status == 3
    assert json.loads(done.out)["too_noisy"] is True
    assert "too noisy: two halves of our own runs took 10.00 and 11.00 ms" in done.err


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("--arch resnet50 --rate 0.5 --emptiest 0.5", "--emptiest is for detectors"),
        ("--arch resnet18 --rate 0.5", "unknown network 'resnet18'"),
        ("--arch resnet50 --rate 2", "--rate must be 0 to 1, got 2.0"),
        ("--arch resnet50 --masks trained", "nobody trained the masks of resnet50"),
        (
            "--arch resnet50 --rate 0.5 --granularity 8+4",
            "--granularity takes one number per stage",
        ),
        ("--arch resnet50 --rate 0.5 --images nowhere", "nowhere: no such folder"),
    ],
)
def test_bad_input_is_one_line(
    laud: Laud, monkeypatch: pytest.MonkeyPatch, options: str, reason: str
) -> None:
    monkeypatch.setattr(engines.bench.run, "find_spec", lambda name: object())
    assert reason in assert_one_line(laud("bench", "engine", *options.split()))


def test_says_how_to_install_what_is_missing(laud: Laud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines.bench.run, "find_spec", lambda name: None)
    line = assert_one_line(laud("bench", "engine", "--arch", "resnet50", "--rate", 0.5))
    assert "needs openvino, nncf, torch" in line
    assert "pip install 'laudserve[bench]'" in line


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
def test_a_tiny_network_is_really_measured(laud: Laud, tmp_path: Path) -> None:
    for name in ("openvino", "nncf", "torch"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    source = bundle()
    tiny = tmp_path / "tiny.laud"
    write_bundle(tiny, source.manifest.model_copy(update={"name": "tiny"}), source.weights)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(8):
        (pictures / f"{i}.jpg").write_bytes(jpeg(size=40 + i))
    options = f"--rate 0.5 --size 32 --batch 2 --repeats 4 --rivals --json --against {tiny}"
    done = laud(
        *("bench", "engine", "--arch", tiny, "--images", pictures, *options.split()),
        *("--against-size", 48),
    )
    assert done.status in (0, 3), done.err
    found = json.loads(done.out)
    assert found.keys() >= KEYS
    assert done.status == (3 if found["too_noisy"] else 0)
    for ratio, rival in (
        ("ratio_same", "openvino_same_ms"),
        ("ratio_best", "openvino_best_ms"),
        ("ratio_own_dense", "own_dense_ms"),
    ):
        assert found[ratio] == pytest.approx(found[rival] / found["ours_ms"])
    assert found["ideal_ratio"] == pytest.approx(found["dense_macs"] / found["macs"])
    assert found["ideal_ratio"] > 1
    assert (found["precision"], found["threads"], found["batch"]) == ("fp32", 1, 2)
    assert (found["against"], found["against_size"]) == (str(tiny), 48)
    assert "[2, 48, 48, 3]" in found["baseline"]["input"]
    assert found["images"] == f"8 of 8 pictures below {pictures}"
    assert [rival["what"] for rival in found["rivals"]] == ["smaller image", "fixed mask"]
    presets = {form["preset"] for form in found["baseline"]["candidates"]}
    assert presets == {None, "performance", "mixed"}
    assert len(found["stages"]) == len(NET.stages)
