"""This machine measured for real, briefly: numbers are sane and of one piece, not exact."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from engines.architecture import MapSize, ResNet, Stage
from engines.latency.core import uniform_rates
from engines.latency.host import Host
from engines.latency.host_measuring import Effort, cache_sizes, measure_host
from engines.latency.identity import this_device
from engines.latency.native import predict_native

BRIEF = Effort(rounds=1, turn_s=1e-4, rows=(1, 32), inputs=(16, 128), outputs=(16, 64))
# Multiply-accumulates per second of one core: nothing that runs this is outside of it.
LEAST, MOST = 1e6, 1e14


@pytest.fixture(scope="module")
def measured() -> tuple[Host, list[str]]:
    said: list[str] = []
    return measure_host(said.append, BRIEF), said


def test_it_is_this_machine_and_progress_is_told(measured: tuple[Host, list[str]]) -> None:
    host, said = measured
    assert host.device == this_device()
    assert len(said) >= 2 + len(host.precisions)
    assert Host.model_validate_json(host.model_dump_json()) == host


def test_numbers_are_sane(measured: tuple[Host, list[str]]) -> None:
    host, _ = measured
    cpus = host.device.cpus
    assert [barrier.threads for barrier in host.barriers][-1] == cpus
    assert all(0.0 <= barrier.barrier_s < 1.0 for barrier in host.barriers)
    assert 0.0 < host.list_pixel_s < 1e-3
    assert all(1e6 < level.read_bytes_per_s < 1e14 for level in host.memory)
    for costs in host.precisions.values():
        for table in (costs.pointwise, costs.spatial):
            assert table.rows == BRIEF.rows
            speeds = [x for plane in table.macs_per_s for line in plane for x in line]
            assert LEAST < min(speeds) <= max(speeds) < MOST
        assert LEAST < costs.stem_macs_per_s < MOST
        assert costs.score_channel_s > 0.0
        assert 0.0 < costs.call_s < 1.0
        assert costs.units.panel % costs.units.vector == 0


def test_networks_can_be_costed_with_it(measured: tuple[Host, list[str]]) -> None:
    host, _ = measured
    net = ResNet(
        stages=(Stage(depth=2, width=64), Stage(depth=2, width=128)), num_classes=10, folded=True
    )
    image = MapSize(64, 64)
    for precision in host.precisions:
        found = predict_native(
            net,
            image,
            uniform_rates(net, 1.0, image),
            batch=1,
            threads=host.device.cpus,
            precision=precision,
            host=host,
        )
        assert 0.0 < found.total_s < math.inf


def cache(folder: Path, level: str, kind: str, size: str) -> None:
    folder.mkdir(parents=True)
    for name, text in (("level", level), ("type", kind), ("size", size)):
        (folder / name).write_text(text + "\n", "ascii")


def test_caches_are_those_that_the_system_lists(tmp_path: Path) -> None:
    cache(tmp_path / "index0", "1", "Data", "48K")
    cache(tmp_path / "index1", "1", "Instruction", "32K")
    cache(tmp_path / "index2", "2", "Unified", "2048K")
    cache(tmp_path / "index3", "3", "Unified", "105M")
    (tmp_path / "index4").mkdir()
    assert cache_sizes(tmp_path) == {"L1": 48 * 2**10, "L2": 2**21, "L3": 105 * 2**20}


@pytest.mark.parametrize("text", ["", "many", "12", "12X"])
def test_where_nothing_is_listed_caches_are_usual_ones(tmp_path: Path, text: str) -> None:
    usual = cache_sizes(tmp_path / "absent")
    cache(tmp_path / "index0", "1", "Data", text)
    assert cache_sizes(tmp_path) == usual
    assert list(usual) == ["L1", "L2", "L3"]
