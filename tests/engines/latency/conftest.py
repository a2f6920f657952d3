"""A machine, a bundle and its table to ask `laud predict` about."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.bundle import read_bundle, write_bundle
from engines.latency.host import write_host
from engines.latency.identity import this_device
from engines.latency.tables import write_table
from tests.engines.latency.cases import MACS_PER_S, host, of_net, profile, spread, table


@pytest.fixture
def abacus(tmp_path: Path) -> str:
    """A machine that multiplies 1e9 times a second and spends its time on nothing else."""
    path = tmp_path / "abacus.json"
    write_host(path, host(macs_per_s=MACS_PER_S))
    return str(path)


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    """A bundle that was not measured."""
    made = of_net()
    path = tmp_path / "abacus.laud"
    write_bundle(path, made.manifest, made.weights)
    return str(path)


@pytest.fixture
def measured(tiny: str) -> str:
    """A bundle with a table of this machine in its folder."""
    found = table(
        *(profile(size=s, batch=b, scale=s / 32 * b) for s in (16, 32) for b in (1, 2)),
        profile(size=32, threads=2, scale=0.5),
        spreads=[spread(0.5, 1.0, 3.0)],
        bundle=read_bundle(tiny).hash,
        device=this_device(),
    )
    write_table(Path(tiny) / found.file_name, found)
    return tiny
