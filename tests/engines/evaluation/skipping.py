"""A small detector that skips, as a bundle on disk. Needs no torch."""

from __future__ import annotations

from pathlib import Path

from engines.bundle import PointRecord, write_bundle
from tests.engines.cpu.cases import point
from tests.engines.cpu.detectors import RAGGED, SKIPPING, bundle

SIZE = 64
NET = SKIPPING.model_copy(update={"num_classes": 1})
UNITS = [16, 16, 16, 16, 4, 16, 4, 1, 1]
"""Grids of blocks of 8, 4 and 2 pixels, and of levels of 16, 8, 4 and 2 in patches of 5, 4, 4 and
2."""


def skipping_bundle(path: Path) -> Path:
    """Points `full` and `skip`, whose thresholds lie among the logits; one label, `nucleus`."""
    source = bundle(NET, RAGGED, sizes=(SIZE,), bias=2.0)
    skips = point([0.0] * len(UNITS), size=SIZE, name="skip")
    record = PointRecord(point=skips, activation=(0.5,) * len(UNITS), macs=5e5, macs_ratio=0.5)
    changes = {"labels": ("nucleus",), "points": (*source.manifest.points, record)}
    write_bundle(path, source.manifest.model_copy(update=changes), source.weights)
    return path
