"""`laud measure` and `laud predict`: short real measurements, readable tables, one-line errors."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from engines.bundle import read_bundle, write_bundle
from engines.latency import host_measuring, measuring
from engines.latency.host import read_host, write_host
from engines.latency.host_measuring import Effort
from engines.latency.identity import this_device
from engines.latency.tables import LatencyTable, read_table, write_table
from tests.engines.latency.cases import host, of_net, profile, spread, table
from tests.service.commands import Laud, assert_one_line

WIDTH = 80
QUICK = ("--size", 112, "--batch", 1, "--repeats", 3, "--precision", "int8", "--threads", 1)


def assert_readable(out: str) -> None:
    """Fits a terminal, and nothing was cut off."""
    assert "…" not in out
    tables = [line for line in out.splitlines() if line.startswith(tuple("┏┃┡│└"))]
    assert tables
    assert max(map(len, tables)) <= WIDTH


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of eighty columns."""
    monkeypatch.setenv("COLUMNS", str(WIDTH))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A tiny bundle that can be written beside."""
    made = of_net()
    path = tmp_path / "abacus.laud"
    write_bundle(path, made.manifest, made.weights)
    return path


@pytest.fixture
def measured(bundle: Path) -> Path:
    """The bundle with a table of this machine, by hand: a call of one image takes 80.5 s."""
    found = table(
        profile(size=16),
        profile(size=32),
        spreads=[spread(0.5, 1.0, 1.5)],
        bundle=read_bundle(bundle).hash,
        device=this_device(),
    )
    write_table(bundle / found.file_name, found)
    return bundle


QUIET_OR_NOISY = (0, 3)
"""What a measurement ends with: how quiet this machine is, is not the matter here."""


@pytest.fixture
def abacus(tmp_path: Path) -> Path:
    """A machine measured before."""
    write_host(tmp_path / "abacus.json", host())
    return tmp_path / "abacus.json"


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever measures anything fails the test."""

    def measured(*arguments: object) -> None:
        raise AssertionError("something was measured")

    monkeypatch.setattr(measuring, "measure", measured)
    monkeypatch.setattr(host_measuring, "measure_host", measured)


# laud measure BUNDLE


def test_a_bundle_of_the_zoo_is_measured_into_this_folder_and_predicted(
    laud: Laud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = laud("measure", "zoo:clothing", *QUICK)
    assert done.status in QUIET_OR_NOISY, done.err
    assert_readable(done.out)
    assert "int8, threads: 1: measured over predicted, median" in done.out
    name = f"latency-{this_device().slug}.json"
    assert f"wrote {name}" in done.err
    assert "3 of 3 rounds" in done.err
    found = read_table(Path(name))
    assert [(p.precision, p.threads, p.size, p.batch) for p in found.profiles] == [
        ("int8", 1, 112, 1)
    ]

    done = laud("predict", "zoo:clothing", "--table", name, "--point", "size-112", "--json")
    assert done.status == 0, done.err
    (answer,) = json.loads(done.out)
    assert (answer["model"], answer["size"], answer["precision"]) == ("measured", 112, "int8")
    assert answer["ms"] == pytest.approx(answer["static_ms"])
    (only,) = found.profiles
    predicted_ms = (sum(only.static_s) + only.overhead_s) * 1e3
    (middle,) = (s.ratios[100] for s in found.spreads)
    assert answer["ms"] == pytest.approx(predicted_ms * middle)


def test_a_bundle_of_your_own_gets_its_table_beside_its_manifest(laud: Laud, bundle: Path) -> None:
    done = laud(
        "measure", bundle, "--size", 32, "--batch", 1, "--batch", 2, "--repeats", 3,
        "--precision", "fp32", "--threads", 1, "--json",
    )  # fmt: skip
    assert done.status in QUIET_OR_NOISY, done.err
    (path,) = bundle.glob("latency-*.json")
    assert LatencyTable.model_validate_json(done.out) == read_table(path)
    assert [p.batch for p in read_table(path).profiles] == [1, 2]
    assert read_table(path).points == (), "without pictures nothing is observed"

    done = laud("predict", bundle, "--rate", 0.5, "--json")
    assert done.status == 0, done.err
    (answer,) = json.loads(done.out)
    assert answer["quantile_ms"] >= answer["ms"] > 0.0


def test_a_table_is_written_where_it_is_said(laud: Laud, bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "new" / "t.json"
    options = ("--size", 16, "--batch", 1, "--repeats", 3, "--precision", "fp32", "--threads", 1)
    done = laud("measure", bundle, *options, "-o", path)
    assert done.status in QUIET_OR_NOISY, done.err
    assert read_table(path).name == "abacus"
    assert not list(bundle.glob("latency-*.json"))


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("none.laud", "none.laud"),
        ("zoo:none", "none"),
        ("zoo:clothing --precision fp64", "unknown precision 'fp64'"),
        ("zoo:clothing --size 0", "a size is 1 to 4096, got 0"),
        ("zoo:clothing --batch 257", "a batch is 1 to 256, got 257"),
        ("zoo:clothing --threads 0", "a number of threads is 1 to 1024, got 0"),
        ("zoo:clothing --repeats 2", "at least 3 repeats make a median, got 2"),
        ("zoo:clothing --size 112 --size 112", "every size is to be given once"),
        ("zoo:clothing -o .", "'.' is a folder; name a file with -o"),
        ("zoo:clothing -o /dev/null/t.json", "cannot write '/dev/null/t.json'"),
        ("device -o .", "'.' is a folder; name a file with -o"),
        ("device --precision int8", "measures the machine, and takes no --precision"),
        ("device --size 1 --batch 1", "takes no --size or --batch"),
    ],
)
def test_what_cannot_be_measured_is_one_line_before_anything_is(
    laud: Laud, options: str, reason: str
) -> None:
    assert reason in assert_one_line(laud("measure", *options.split()))


def test_a_table_that_is_there_gets_more(laud: Laud, bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    options = ("--batch", 1, "--repeats", 3, "--precision", "fp32", "--threads", 1, "-o", path)
    for size in (16, 32):
        done = laud("measure", bundle, "--size", size, *options)
        assert done.status in QUIET_OR_NOISY, done.err
    assert "with the 1 ways it already had" in done.err
    assert {p.size for p in read_table(path).profiles} == {16, 32}
    assert len(read_table(path).spreads) == 1


@pytest.mark.usefixtures("unmeasured")
def test_a_table_of_something_else_is_not_overwritten(
    laud: Laud, bundle: Path, measured: Path
) -> None:
    (path,) = measured.glob("latency-*.json")
    before = path.read_bytes()
    assert "the latency table is of bundle" in assert_one_line(
        laud("measure", "zoo:clothing", "-o", path)
    )
    assert path.read_bytes() == before


@pytest.mark.usefixtures("unmeasured")
def test_a_table_of_another_version_is_told_before_anything_is_measured(
    laud: Laud, measured: Path
) -> None:
    (path,) = measured.glob("latency-*.json")
    write_table(path, read_table(path).model_copy(update={"version": "0.0.0"}))
    said = assert_one_line(laud("measure", measured))
    assert "was taken by laudserve 0.0.0: remove it, or name another" in said


def test_a_noisy_table_is_told_whenever_it_is_used(laud: Laud, measured: Path) -> None:
    (path,) = measured.glob("latency-*.json")
    found = read_table(path)
    noisy = [s.model_copy(update={"ratios": (1.2, 1.3, 1.4)}) for s in found.spreads]
    assert "measure again" not in laud("predict", measured).err
    write_table(path, found.model_copy(update={"spreads": tuple(noisy)}))
    done = laud("predict", measured, "--json")
    assert "measure again when it is quiet" in done.err
    assert {answer["noisy"] for answer in json.loads(done.out)} == {True}


# laud measure device


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine is really measured, but every question only once and in few shapes."""
    few: dict[str, Any] = {"rows": (1, 64), "inputs": (16, 64), "outputs": (16, 64)}
    quick = partial(Effort, rounds=1, **few)
    monkeypatch.setattr(host_measuring, "Effort", quick)


@pytest.mark.usefixtures("hasty")
def test_this_machine_is_measured_into_a_file_that_predictions_take(
    laud: Laud, tmp_path: Path
) -> None:
    path = tmp_path / "here.json"
    done = laud("measure", "device", "-o", path)
    assert done.status in QUIET_OR_NOISY, done.err
    assert_readable(done.out)
    for precision in this_device().isa:
        assert precision in done.out
    assert f"wrote {path}" in done.err
    assert read_host(path).device == this_device()

    done = laud("predict", "resnet50", "--device", path, "--rate", 0.5, "--json")
    assert done.status == 0, done.err
    (answer,) = json.loads(done.out)
    assert (answer["model"], answer["device"]) == ("native", this_device().slug)
    assert answer["ms"] > 0.0
    assert 0.0 < answer["ratio"] < 1.5


def test_a_machine_is_printed_for_people_and_for_machines(
    laud: Laud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_measuring, "measure_host", lambda say: host())
    done = laud("measure", "device")
    assert_readable(done.out)
    assert "Abacus 3000, CPUs: 4 (abacus-3000-4cpu-avx2)" in done.out
    assert "1.0" in done.out
    assert "wrote" not in done.err
    done = laud("measure", "device", "--json")
    assert json.loads(done.out) == host().model_dump(mode="json")


# laud predict


def test_points_of_a_bundle_are_a_table(laud: Laud, measured: Path) -> None:
    done = laud("predict", measured)
    assert done.status in QUIET_OR_NOISY, done.err
    assert_readable(done.out)
    title, *rows = done.out.splitlines()
    assert title == f"abacus on {this_device().slug}, fp32, threads: 1, batch 1 (measured)"
    (full,) = [row for row in rows if "full" in row]
    assert [cell.strip() for cell in full.strip("│").split("│")] == [
        "full", "32", "80500.000", "116725.000", "80500.000", "80500.000", "1.00",
    ]  # fmt: skip
    assert "95 % below" in done.out


def test_a_quantile_is_named_as_it_was_asked(laud: Laud, measured: Path) -> None:
    done = laud("predict", measured, "--quantile", 0.999, "--point", "full")
    assert "99.9 %" in done.out


def test_json_has_one_answer_per_point(laud: Laud, measured: Path) -> None:
    done = laud("predict", measured, "--json")
    answers = json.loads(done.out)
    assert [each["point"] for each in answers] == ["full", "half", "small"]
    keys = {"network", "model", "device", "precision", "threads", "size", "batch", "point"}
    keys |= {"ms", "ms_per_image", "quantile", "quantile_ms", "static_ms", "ratio", "parts"}
    for each in answers:
        assert each.keys() >= keys
        assert each["quantile"] == 0.95


def test_parts_of_a_measured_call_have_only_their_times(laud: Laud, measured: Path) -> None:
    done = laud("predict", measured, "--point", "full", "--parts")
    assert_readable(done.out)
    (stem,) = [line for line in done.out.splitlines() if "stem" in line]
    assert [cell.strip() for cell in stem.strip("│").split("│")] == ["stem", "3000.000"]
    assert "compute" not in done.out


def test_options_reach_the_model_of_our_engine(laud: Laud, abacus: Path) -> None:
    options = "--paradigm spatial --rate 0.5 --granularity 4-4-2-1 --size 160 --batch 2 --scattered"
    done = laud(
        "predict", "resnet101", "--device", abacus, *options.split(),
        "--threads", 2, "--precision", "int8", "--json",
    )  # fmt: skip
    assert done.status == 0, done.err
    (found,) = json.loads(done.out)
    assert (found["network"], found["device"]) == ("resnet101", "abacus-3000-4cpu-avx2")
    assert (found["size"], found["batch"], found["threads"]) == (160, 2, 2)
    assert (found["precision"], found["rate"], found["model"]) == ("int8", 0.5, "native")


def test_a_gpu_is_printed_with_its_parts_and_corrections(laud: Laud) -> None:
    done = laud(
        "predict", "resnet101", "--device", "v100", "--batch", 128, "--rate", 0.5, "--parts"
    )
    assert done.status == 0, done.err
    assert_readable(done.out)
    assert "resnet101 on v100, fp32, batch 128 (gpu model)" in done.out
    assert "rate 0.5" in done.out
    assert "corrections: all (docs/latency.md)" in done.out
    rows = [line for line in done.out.splitlines() if "layer" in line]
    assert len(rows) == 33
    assert all("fused" in row for row in rows)


def test_paper_mode_and_single_corrections(laud: Laud) -> None:
    call = ("predict", "resnet101", "--device", "v100", "--batch", 128)
    paper = laud(*call, "--mode", "paper")
    assert "corrections: none, as published" in paper.out
    one = laud(*call, "--correct", "halo", "--correct", "group_size", "--json")
    assert json.loads(one.out)[0]["corrections"] == ["group_size", "halo"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("resnet18 --device v100", "'resnet18' is neither a bundle"),
        ("resnet50 --device b200", "unknown GPU 'b200'"),
        ("resnet50 --device none.json", "cannot read 'none.json'"),
        ("resnet50 --device v100 --rate 2", "the rate must be 0 to 1, got 2.0"),
        ("resnet50 --device v100 --batch 0", "batch must be 1 to 65536, got 0"),
        ("resnet50 --device v100 --size 0", "size must be 1 to 4096, got 0"),
        ("resnet50 --device v100 --rate 0.5 --granularity 0-1-1-1", "granularity"),
        ("resnet50 --device v100 --rate 0.5 --granularity 8+4", "one number per stage"),
        ("resnet50 --device v100 --paradigm layer", "needs a rate"),
        ("resnet50 --device v100 --mode best", "unknown mode 'best'"),
        ("resnet50 --device v100 --correct luck", "unknown correction 'luck'"),
        ("resnet50 --device v100 --quantile 95", "the quantile must be between 0 and 1"),
        ("zoo:clothing", "has not been measured on this machine"),
        ("zoo:clothing --table none.json", "cannot read 'none.json', a latency table"),
        ("zoo:none", "none"),
    ],
)
def test_what_cannot_be_predicted_is_one_line(laud: Laud, options: str, reason: str) -> None:
    assert reason in assert_one_line(laud("predict", *options.split()))
