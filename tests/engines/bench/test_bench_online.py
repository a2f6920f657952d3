"""Whether corrected quantiles cover: counted over calls, of an engine that follows a script."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engines.bench import online
from engines.bench.online import online_coverage
from engines.bench.prediction_report import OnlineCoverage
from engines.core import OperatingPoint, UInt8Array
from engines.latency.predictor import MeasuredPredictor
from tests.engines.latency.cases import ABACUS, of_net, profile, spread, table

POINTS = [record.point for record in of_net().manifest.points]
IMAGES = {size: np.zeros((2, size, size, 3), np.uint8) for size in (16, 32)}


@dataclass
class Scripted:
    """Takes what the table says times the next of its factors; `threads` as an engine has them."""

    predictor: MeasuredPredictor
    factors: list[float]
    threads: int = 1
    calls: list[tuple[str, int]] = field(default_factory=list)

    def timed(
        self, engine: object, images: UInt8Array, points: Sequence[OperatingPoint], _: None
    ) -> tuple[float, None]:
        assert engine is self
        (point,) = points
        self.calls.append((point.name, images.shape[1]))
        factor = self.factors[(len(self.calls) - 1) % len(self.factors)]
        return self.predictor.median(point.name) * factor, None


@pytest.fixture
def predictor() -> MeasuredPredictor:
    """Whose table spreads by 20 % around its medians."""
    ratios = np.linspace(0.8, 1.2, 41).tolist()
    profiles = (profile(size=16, scale=1e-3), profile(size=32, scale=4e-3))
    return MeasuredPredictor(
        table(*profiles, spreads=[spread(*ratios)]),
        of_net(),
        device=ABACUS,
        precision="fp32",
        threads=1,
    )


def covered(
    engine: Scripted, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> tuple[tuple[OnlineCoverage, ...], list[str]]:
    monkeypatch.setattr(online, "timed", engine.timed)
    told: list[str] = []
    asked = {"calls": 400, "settling_s": 0.0, "rng": np.random.default_rng(0), **options}
    found = online_coverage(
        engine,  # type: ignore[arg-type]
        engine.predictor,
        POINTS,
        IMAGES,
        say=told.append,
        **asked,
    )
    return found, told


def test_an_engine_that_keeps_to_its_table_is_covered_as_promised(
    predictor: MeasuredPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    factors = np.random.default_rng(1).uniform(0.8, 1.2, 400).tolist()
    (quiet,), _ = covered(Scripted(predictor, factors), monkeypatch)
    assert quiet.calls == 400
    assert 0.92 <= quiet.coverage95 <= 0.98
    assert quiet.sharpness == pytest.approx(1.18, abs=0.04)
    assert quiet.drift == pytest.approx(1.0, abs=0.05)
    assert (quiet.flagged, quiet.busy, quiet.settled_s) == (False, False, 0.0)


def test_coverage_is_the_share_of_calls_within_the_quantile(
    predictor: MeasuredPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One call in four takes three times as long: it is missed however the rest is predicted."""
    (found,), _ = covered(Scripted(predictor, [1.0, 1.0, 1.0, 3.0]), monkeypatch, calls=40)
    assert 0.75 <= found.coverage95 < 0.95
    assert found.coverage95 * 40 == pytest.approx(round(found.coverage95 * 40))


def test_measured_times_are_told_in_milliseconds(
    predictor: MeasuredPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    (found,), _ = covered(Scripted(predictor, [1.0]), monkeypatch, calls=30)
    slowest = predictor.median("full")
    assert predictor.median("small") * 1e3 <= found.median_ms <= slowest * 1e3
    assert found.p95_ms == pytest.approx(max(slowest, predictor.median("half")) * 1e3)


def test_a_machine_that_got_slower_is_flagged(
    predictor: MeasuredPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    (found,), _ = covered(Scripted(predictor, [1.6]), monkeypatch)
    assert found.drift == pytest.approx(1.6, rel=0.05)
    assert found.flagged


def test_points_take_turns_by_chance_each_at_its_own_size(
    predictor: MeasuredPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Scripted(predictor, [1.0])
    covered(engine, monkeypatch, calls=60)
    assert set(engine.calls) == {("full", 32), ("half", 32), ("small", 16)}
    again = Scripted(predictor, [1.0])
    covered(again, monkeypatch, calls=60)
    assert again.calls == engine.calls, "and a seed decides which"


def test_a_busy_process_runs_while_the_second_half_is_counted(
    predictor: MeasuredPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []

    class Process:
        killed = waited = False

        def __init__(self, command: list[str]) -> None:
            assert command[0] == sys.executable
            started.append(self)

        def kill(self) -> None:
            self.killed = True

        def wait(self) -> None:
            assert self.killed
            self.waited = True

    clock = iter(range(10**6))
    monkeypatch.setattr(online, "subprocess", SimpleNamespace(Popen=Process))
    monkeypatch.setattr(online, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    engine = Scripted(predictor, [1.0])
    (quiet, busy), told = covered(engine, monkeypatch, calls=20, settling_s=50.0)
    assert (quiet.busy, quiet.settled_s) == (False, 0.0)
    assert (busy.busy, busy.settled_s, busy.calls) == (True, 50.0, 20)
    assert len(engine.calls) > 40, "calls go on while it settles"
    (process,) = started
    assert process.waited, "and it is gone afterwards"
    assert "50 s, then 20 calls more" in told[-1]


def test_without_settling_no_process_is_started_and_only_the_quiet_half_told(
    predictor: MeasuredPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*arguments: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(online, "subprocess", SimpleNamespace(Popen=started))
    found, told = covered(Scripted(predictor, [1.0]), monkeypatch, calls=20)
    assert [each.busy for each in found] == [False]
    assert told == ["20 calls at mixed points, 1 threads"]
