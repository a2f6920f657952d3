"""The same weights, other points: what was dropped elsewhere may be worth its latency here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from engines.bundle import Bundle, PointRecord, read_bundle, write_bundle
from engines.core import Engine
from engines.errors import BundleError, ConfigError
from engines.export import dial, drafts
from engines.export import run as module
from engines.export.dial import Latencies
from engines.export.redial import redial
from engines.export.run import export
from tests.engines.bundles import manifest, weights
from tests.engines.export.tiny_run import quiet

pytestmark = pytest.mark.torch


LOSSES = {"full": 0.5, "small": 0.6, "skip": 0.7}
"""As if trained: the tiny network's own say nothing. Glances lose more."""


class Machine:
    """Seconds of a picture by the beginning of a point's name; others take 9."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds: dict[str, float] = {}
        self.asked: list[str] = []
        monkeypatch.setattr(dial, "measure", self.measure)
        monkeypatch.setattr(module, "measured_records", self.scored)

    def scored(self, *arguments: Any) -> tuple[PointRecord, ...]:
        return tuple(
            record.model_copy(update={"log_loss": LOSSES.get(record.point.name, 0.8)})
            for record in drafts.measured_records(*arguments)
        )

    def measure(self, engine: Engine, records: Sequence[PointRecord], *rest: object) -> Latencies:
        self.asked = [record.point.name for record in records]
        taken = tuple(
            next((s for name, s in self.seconds.items() if asked.startswith(name)), 9.0)
            for asked in self.asked
        )
        return Latencies(taken, noise_ratio=0.0, repeats=16, worst_s=(None,) * len(taken))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


@pytest.fixture
def first(run: Path, tmp_path: Path, machine: Machine) -> Bundle:
    """Exported where `small` was slow."""
    machine.seconds = {"full": 2.0, "skip": 1.0, "small": 8.0}
    made = export(run, tmp_path / "first.laud", say=quiet)
    assert "small" not in names(made)
    return made


def names(bundle: Bundle) -> list[str]:
    return [record.point.name for record in bundle.manifest.points]


def test_sizes_that_were_dropped_are_candidates_again(
    first: Bundle, pictures: Path, tmp_path: Path, machine: Machine
) -> None:
    machine.seconds = {"full": 2.0, "small": 0.5, "skip": 8.0}
    again = redial(first.path, tmp_path / "again.laud", data=pictures, say=quiet)
    assert machine.asked[:2] == ["full", "small"]
    assert ("skip" in machine.asked) == ("skip" in names(first))
    assert "small" in names(again)
    assert "skip" not in names(again)
    assert again.manifest.dial is not None
    assert again.manifest.dial.candidates[0].latency_ms == 2000.0
    assert again.manifest.provenance == first.manifest.provenance
    for name, value in first.weights.items():
        np.testing.assert_array_equal(again.weights[name], value)


def test_it_says_what_it_chooses_from(
    first: Bundle, pictures: Path, tmp_path: Path, machine: Machine
) -> None:
    said: list[str] = []
    redial(first.path, tmp_path / "again.laud", data=pictures, say=said.append)
    assert said[0].startswith("choosing from full, small")
    assert said[0].endswith("and glances")


def test_a_bundle_without_a_dial_is_refused(tmp_path: Path, pictures: Path) -> None:
    source = tmp_path / "old.laud"
    write_bundle(source, manifest(), weights())
    with pytest.raises(BundleError, match="does not say what its points were chosen from"):
        redial(source, tmp_path / "again.laud", data=pictures, say=quiet)
    assert not (tmp_path / "again.laud").exists()


def test_pictures_of_other_classes_are_refused(
    first: Bundle, pictures: Path, tmp_path: Path
) -> None:
    (pictures / "validation" / "red").rename(pictures / "validation" / "pink")
    with pytest.raises(ConfigError, match="has other classes"):
        redial(first.path, tmp_path / "again.laud", data=pictures, say=quiet)
    assert not (tmp_path / "again.laud").exists()


def test_the_source_stays_as_it_is(
    first: Bundle, pictures: Path, tmp_path: Path, machine: Machine
) -> None:
    redial(first.path, tmp_path / "again.laud", data=pictures, say=quiet)
    assert read_bundle(first.path).hash == first.hash
