"""`laud predict check-paper`, and whether the help of `laud measure` and `laud predict` is true."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import engines.latency.paper
from engines.latency.host import write_host
from engines.latency.paper import PaperCheck, PaperMiss, check_paper
from service.cli.predict import MISSED_STATUS
from tests.engines.latency.cases import host
from tests.service.commands import Laud


@pytest.fixture
def abacus(tmp_path: Path) -> Path:
    """A machine measured before."""
    write_host(tmp_path / "abacus.json", host())
    return tmp_path / "abacus.json"


# laud predict check-paper


def test_every_published_latency_is_reproduced(laud: Laud) -> None:
    done = laud("predict", "check-paper", "--json")
    assert done.status == 0, done.err
    found = json.loads(done.out)
    assert found.keys() == {"vectors", "max_rel_error", "max_rel_error_monte_carlo", "misses"}
    assert found["vectors"] >= 80
    assert found["max_rel_error"] <= 0.005
    assert found["max_rel_error_monte_carlo"] <= 0.015
    assert found["misses"] == []


def test_the_check_is_one_line_for_people(laud: Laud) -> None:
    (line,) = laud("predict", "check-paper").out.splitlines()
    assert line.startswith(f"{check_paper().vectors} published latencies; largest relative error")


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_miss_is_named_and_fails(
    laud: Laud, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    miss = PaperMiss(
        name="static resnet50", expected_s=1.0, predicted_s=1.1, rel_error=0.1, tolerance=0.005
    )
    failed = PaperCheck(vectors=2, max_rel_error=0.1, max_rel_error_monte_carlo=0.0, misses=(miss,))
    monkeypatch.setattr(engines.latency.paper, "check_paper", lambda: failed)
    done = laud("predict", "check-paper", *options)
    assert done.status == MISSED_STATUS == 1
    assert "static resnet50" in done.out


# Help


EXAMPLES: dict[str, list[str]] = {
    "measure": [
        "laud measure device -o here.json",
        "laud measure clothing.laud --images DIR",
        "laud measure zoo:clothing --precision int8 --threads 2 -o table.json",
    ],
    "predict": [
        "laud predict clothing.laud",
        "laud predict zoo:clothing --table table.json --point size-112 --json",
        "laud predict resnet101 --device here.json --paradigm layer --rate 0.4",
        "laud predict resnet101 --device v100 --batch 128 --rate 0.5 --parts",
        "laud predict check-paper --json",
    ],
}


@pytest.mark.parametrize("command", EXAMPLES)
def test_help_has_examples_each_on_a_line_of_its_own(laud: Laud, command: str) -> None:
    done = laud(command, "--help")
    assert done.status == 0
    lines = [line.strip() for line in done.out.splitlines()]
    for example in EXAMPLES[command]:
        assert example in lines


def test_examples_of_predictions_are_valid(laud: Laud, abacus: Path, tmp_path: Path) -> None:
    for example in EXAMPLES["predict"][2:]:
        arguments: list[Any] = example.split()[1:]
        done = laud(*(abacus if each == "here.json" else each for each in arguments))
        assert done.status == 0, example
