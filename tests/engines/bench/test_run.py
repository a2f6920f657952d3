"""A point that glances is timed as both of its looks, and ours is what it is expected to take."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engines.architecture import MapSize
from engines.bench import run
from engines.bench.own_engine import BOTH, FIRST, expected
from engines.bench.plan import Plan
from engines.bench.report import Baseline, Candidate, Report
from engines.bundle import write_bundle
from engines.core import Glance, OperatingPoint, static_point
from engines.macs import static_macs
from engines.manifest import PointRecord
from tests.engines.cpu.cases import NET, bundle
from tests.service.scripted import jpeg

SIZE, SMALL, AGAIN = 64, 32, 0.5
FORM = Candidate(precision="fp32", others="fp32", ms=1.0)


class Static:
    """Stands for OpenVINO; takes no time."""

    def load(self, draw: int) -> None:
        pass

    def run(self) -> None:
        pass


def openvino(*given: Any, **options: Any) -> SimpleNamespace:
    same = Static()
    made = Baseline(
        engine="OpenVINO",
        properties={},
        input="u8",
        candidates=(FORM,),
        same=FORM,
        best=FORM,
        calibrated_on="nothing",
        versions={},
    )
    return SimpleNamespace(same=same, best=same, made=made)


def glancing_bundle(path: Path, **changes: Any) -> str:
    """`glance` looks at SMALL pixels first and skips nothing at SIZE, unless changed."""
    made = bundle(NET)
    full = static_point("full", SIZE, len(NET.maskers))
    glance = Glance(image_size=SMALL, confidence=0.5)
    point = full.model_copy(update={"name": "glance", "glance": glance, **changes})

    def record(of: OperatingPoint, again: float | None) -> PointRecord:
        rates = (1.0,) * len(NET.maskers)
        return PointRecord(point=of, activation=rates, macs=1.0, macs_ratio=1.0, again=again)

    points = (record(full, None), record(point, AGAIN))
    manifest = made.manifest.model_copy(update={"points": points, "name": "glancing"})
    write_bundle(path, manifest, made.weights)
    return str(path)


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Measures the point `glance`, changed by `of`, as the other options say."""
    module = SimpleNamespace(openvino_at_its_best=openvino)
    monkeypatch.setitem(sys.modules, "engines.bench.openvino_baseline", module)
    monkeypatch.setattr(run, "_TOOLS", ())
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(8):
        (pictures / f"{i}.jpg").write_bytes(jpeg(size=70 + i))
    bundles = (tmp_path / f"{i}.laud" for i in range(9))

    def measure(of: dict[str, Any] | None = None, **options: Any) -> Report:
        arch = glancing_bundle(next(bundles), **(of or {}))
        asked = {"masks": "trained", "images": pictures, "repeats": 4, "point": "glance", **options}
        return run.bench_engine(Plan(arch, **asked))

    return measure


def test_expected_is_the_first_look_and_the_recorded_share_of_the_second(measured: Any) -> None:
    found = measured()
    assert (found.point, found.size, found.first_size) == ("glance", SIZE, SMALL)
    assert found.again == AGAIN
    assert {FIRST, BOTH, "ours"} <= found.runs.keys()
    assert found.first_ms == found.runs[FIRST].median_ms
    assert found.worst_ms == found.runs[BOTH].median_ms
    assert found.ours_ms == found.runs["ours"].median_ms
    assert found.ratio_own_dense == found.own_dense_ms / found.ours_ms


def test_its_work_is_that_of_both_looks_in_the_same_shares(measured: Any) -> None:
    found = measured()
    small, whole = (static_macs(NET, MapSize(size, size)) for size in (SMALL, SIZE))
    assert found.macs == pytest.approx(small + AGAIN * whole)
    assert found.ideal_ratio == pytest.approx(whole / found.macs)


def test_it_has_free_rivals_and_another_network_to_be_compared_with(measured: Any) -> None:
    found = measured(rivals=True, against="zoo:clothing", against_size=48)
    smaller, fixed = found.rivals
    assert SMALL < smaller.size < SIZE
    assert fixed.macs == pytest.approx(found.macs, rel=0.15)
    assert (found.against, found.against_size) == ("zoo:clothing", 48)


def test_a_second_look_may_skip(measured: Any) -> None:
    found = measured(of={"thresholds": (0.0,) * len(NET.maskers)})
    assert 0.0 < found.activation < 1.0
    assert found.macs < measured().macs


def test_expected_of_nobody_and_of_everybody() -> None:
    assert expected(2.0, 5.0, 0.0) == 2.0
    assert expected(2.0, 5.0, 1.0) == 5.0
