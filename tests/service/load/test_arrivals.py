"""Arrival processes have the rate and the burstiness they promise; mixes and files are read."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import InvalidInput
from service.load.arrivals import (
    Process,
    Recorded,
    bursty,
    deterministic,
    first,
    gamma,
    parse_mix,
    read_recorded,
    replay,
    within,
)

MANY = 40_000


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_even_arrivals_begin_at_once() -> None:
    assert within(deterministic(4), rng(), 1.0).tolist() == [0.0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize("cv2", [0.5, 1.0, 4.0, 8.0])
def test_gamma_has_its_rate_and_its_burstiness(cv2: float) -> None:
    gaps = np.diff(first(gamma(50, cv2), rng(), MANY))
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.05)
    assert gaps.var() / gaps.mean() ** 2 == pytest.approx(cv2, rel=0.1)


def test_no_burstiness_is_even() -> None:
    assert first(gamma(4, 0.0), rng(), 3).tolist() == [0.0, 0.25, 0.5]


def test_bursts_come_among_even_arrivals() -> None:
    found = within(bursty(20, 30, 4.0), rng(), 500.0)
    assert found.size == pytest.approx(500 * 50, rel=0.03)
    assert set(within(deterministic(20), rng(), 500.0)) <= set(found)
    assert within(gamma(30, 4.0), rng(), 500.0).size == found.size - 500 * 20


@pytest.mark.parametrize("process", [gamma(30, 8.0), bursty(5, 25, 2.0)])
def test_arrivals_ascend_and_are_the_seed_s(process: Process) -> None:
    found = first(process, rng(3), 5000)
    assert found[0] >= 0
    assert all(a <= b for a, b in pairwise(found.tolist()))
    assert (found == first(process, rng(3), 5000)).all()
    assert (found != first(process, rng(4), 5000)).any()


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(InvalidInput, match="the rate must be above 0"):
        gamma(rate)


def test_burstiness_and_duration_are_checked() -> None:
    with pytest.raises(InvalidInput, match=r"CV\^2 must be 0 to 1000, got -1"):
        gamma(1, -1)
    with pytest.raises(InvalidInput, match="must be positive and finite, got inf"):
        within(gamma(1), rng(), float("inf"))
    with pytest.raises(InvalidInput, match="at least one"):
        first(gamma(1), rng(), 0)


def test_a_mix_is_drawn_with_its_shares() -> None:
    mix = parse_mix("70:100,20:50, 10:25")
    assert mix.slos_s == (0.1, 0.05, 0.025)
    assert mix.shares == pytest.approx((0.7, 0.2, 0.1))
    drawn = mix.draw(rng(), MANY)
    assert np.mean(drawn == 0.1) == pytest.approx(0.7, abs=0.02)
    assert np.mean(drawn == 0.025) == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "'' is no part of a deadline mix"),
        ("70", "'70' is no part"),
        ("70:100,30:", "'30:' is no part"),
        ("70:100,30:-5", "'30:-5' is no part"),
        ("70:nan,30:5", "'70:nan' is no part"),
        ("70:100,20:50", "sum to 90.0000%, not to 100 %"),
    ],
)
def test_a_wrong_mix_is_refused_with_an_example(text: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match="70:100,20:50,10:25") as refused:
        parse_mix(text)
    assert reason in str(refused.value)


@given(st.text(max_size=40))
def test_a_mix_is_read_or_refused(text: str) -> None:
    try:
        mix = parse_mix(text)
    except InvalidInput:
        return
    assert sum(mix.shares) == pytest.approx(1.0)
    assert all(slo_s > 0 for slo_s in mix.slos_s)


def test_simulators_can_import_it_without_a_web_framework() -> None:
    """The client too: it shares the machine with the server that it measures."""
    program = (
        "import service.load.arrivals, sys; light = {*sys.modules}; import service.load.session; "
        "print('pydantic' in light, {'fastapi', 'starlette', 'matplotlib'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "set()"]


def file(folder: Path, content: str) -> Path:
    path = folder / "traffic"
    path.write_text(content, "utf-8")
    return path


def test_recorded_traffic_is_sorted_by_time(tmp_path: Path) -> None:
    path = file(tmp_path, '{"at_s": 0.5, "slo_ms": 40, "image": "a.jpg"}\n\n{"at_s": 0.25}\n')
    assert read_recorded(path) == (Recorded(0.25), Recorded(0.5, 0.04, "a.jpg"))


def test_perf_analyzer_s_intervals_are_microseconds_since_the_one_before(tmp_path: Path) -> None:
    found = read_recorded(file(tmp_path, "250000\n0\n500000\n"))
    assert [one.at_s for one in found] == [0.25, 0.25, 0.75]
    assert first(replay([one.at_s for one in found]), rng(), 5).tolist() == [0.25, 0.25, 0.75]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "has no requests"),
        ("1000\nsoon\n", "line 2: could not convert string to float: 'soon'"),
        ("-3\n", "line 1: interval must be 0 or more and finite, got -3.0"),
        ("nan\n", "line 1: interval must be 0 or more and finite, got nan"),
        ("{}\n", "line 1: 'at_s' is missing"),
        ('{"at_s": true}\n', "at_s must be a number, got True"),
        ('{"at_s": 1, "slo_ms": 0}\n', "slo_ms must be above 0"),
        ('{"at_s": 1, "slo_ms": NaN}\n', "slo_ms must be 0 or more and finite"),
        ('{"at_s": 1, "image": 3}\n', "image must be a name, got 3"),
        ('{"at_s": 1, "slo": 3}\n', "unknown key 'slo'"),
        ('{"at_s": 1\n', "line 1: "),
    ],
)
def test_wrong_recorded_traffic_is_refused_by_line(
    tmp_path: Path, content: str, reason: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_recorded(file(tmp_path, content))
    assert reason in str(refused.value)
