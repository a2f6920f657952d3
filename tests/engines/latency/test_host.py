"""A measured machine as a value: files, refusals, and looking numbers up."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from engines.errors import InvalidInput, LatencyError
from engines.latency.files import MAX_BYTES
from engines.latency.host import (
    HOST_SCHEMA,
    BarrierCost,
    GemmTable,
    read_host,
    write_host,
)
from tests.engines.latency.hosts import CACHE, MACS_PER_S, flat_table, host


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "host.json"
    write_host(path, host(call_s=0.25))
    assert read_host(path) == host(call_s=0.25)
    write_host(path, host())
    assert read_host(path) == host()
    assert [each.name for each in path.parent.iterdir()] == ["host.json"]


def changed(key: str, value: Any) -> str:
    """JSON of a host with one of its values set to something else; `a.0.b` for nested ones."""
    content = json.loads(host().model_dump_json())
    *parents, last = key.split(".")
    target = content
    for parent in parents:
        target = target[int(parent)] if isinstance(target, list) else target[parent]
    target[int(last) if isinstance(target, list) else last] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("schema_version", HOST_SCHEMA + 1, "newer laudserve"),
        ("schema_version", 0, "schema_version"),
        ("memroy", 1, "memroy: Extra inputs"),
        ("precisions.fp32.units.lanes", 4, "lanes: Extra inputs"),
        ("list_pixel_s", -1e-9, "list_pixel_s"),
        ("noise_ratio", 0.5, "noise_ratio"),
        ("noise_ratio", math.nan, "noise_ratio"),
        ("precisions.fp32.segment_s", -1e-9, "segment_s"),
        ("precisions.fp32.stream_bytes_per_s", 0, "stream_bytes_per_s"),
        ("precisions.fp32.parallel_ratio", 1.5, "parallel_ratio"),
        ("precisions.fp32.pointwise.macs_per_s.0.0", [1e9, -1e9], "macs_per_s"),
        ("precisions.fp32.pointwise.rows", [64, 1], "rows must ascend"),
        ("precisions.fp32.pointwise.rows", [1, 2, 3], "one number per rows"),
        ("precisions.fp32.pointwise.taps", 9, "pointwise is the table of 1 tap"),
        ("memory", [], "memory"),
        ("memory.0.size_bytes", 2**41, "memory by size_bytes must ascend"),
        ("device.isa", {"fp32": "avx2"}, "not those of the device"),
        ("device.cpus", 0, "cpus"),
    ],
)
def test_a_wrong_file_is_refused_with_the_reason(
    tmp_path: Path, key: str, value: Any, reason: str
) -> None:
    path = tmp_path / "host.json"
    path.write_text(changed(key, value), "utf-8")
    with pytest.raises(LatencyError, match=reason) as caught:
        read_host(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000])
def test_what_is_no_description_at_all_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "host.json"
    path.write_text(text, "utf-8")
    with pytest.raises(LatencyError, match="laud measure device"):
        read_host(path)


def test_a_missing_file_and_a_huge_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LatencyError, match="No such file"):
        read_host(tmp_path / "absent.json")
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(LatencyError, match="larger than"):
        read_host(path)


TABLE = GemmTable(
    taps=1,
    rows=(1, 10),
    inputs=(10, 30),
    outputs=(10, 20),
    macs_per_s=(((1e6, 1e6), (1e6, 1e6)), ((2e6, 2e6), (3e6, 3e6))),
)


@pytest.mark.parametrize(
    ("shape", "seconds"),
    [
        ((1, 10, 10), 1e-4),
        ((10, 10, 20), 1e-3),
        ((10, 30, 10), 1e-3),
        # Halfway in one dimension: the mean of the times at both ends.
        ((10, 20, 10), (0.5e-3 + 1e-3) / 2),
        ((5.5, 10, 10), (1e-4 + 0.5e-3) / 2),
        # Without inputs the line through 10 and 30 goes on.
        ((10, 0, 10), 0.5e-3 - (1e-3 - 0.5e-3) / 2),
        # Above what was measured the speed stays.
        ((100, 30, 10), 1e-2),
        ((10, 60, 40), 8e-3),
        ((0, 10, 10), 0.0),
        ((10, 10, 0), 0.0),
    ],
)
def test_time_of_a_layer_is_linear_between_measured_shapes(
    shape: tuple[float, float, float], seconds: float
) -> None:
    assert TABLE.seconds(*shape) == pytest.approx(seconds)


def test_one_speed_gives_time_in_proportion_to_work() -> None:
    assert flat_table(9).seconds(7, 33, 100) == pytest.approx(9 * 7 * 33 * 100 / MACS_PER_S)


@pytest.mark.parametrize(
    ("working_set", "threads", "speed"),
    [
        (0, 1, 1e12),
        (CACHE / 4, 1, 1e12),
        (CACHE / 4, 3, 3e12),
        (CACHE / 4, 4, 4e12),
        (CACHE, 1, 1e10),
        (math.inf, 1, 1e10),
        (math.inf, 2, 2e10),
        (math.inf, 3, 2e10),
        # Halfway between on a logarithmic scale: half of the bytes come from each.
        (CACHE / 2, 1, 2 / (1e-12 + 1e-10)),
    ],
)
def test_bandwidth_is_that_of_the_level_that_holds_the_working_set(
    working_set: float, threads: int, speed: float
) -> None:
    assert host().read_bytes_per_s(working_set, threads) == pytest.approx(speed)


def test_distance_tells_cache_from_memory() -> None:
    found = [host().distance(size) for size in (0, CACHE / 4, CACHE / 2, CACHE, 10 * CACHE)]
    assert found == pytest.approx([0.0, 0.0, 0.5, 1.0, 1.0])
    only = host(memory=host().memory[1:])
    assert only.distance(1) == 1.0


def test_barriers_and_speeds_of_threads_between_measured_ones() -> None:
    machine = host(
        barriers=(
            BarrierCost(threads=1, barrier_s=9.0),
            BarrierCost(threads=2, barrier_s=1.0),
            BarrierCost(threads=4, barrier_s=2.0),
        ),
        parallel_ratio=0.7,
    )
    assert [machine.barrier_s(t) for t in (1, 2, 3, 4)] == pytest.approx([0.0, 1.0, 1.5, 2.0])
    assert [machine.thread_speed("fp32", t) for t in (1, 2, 4)] == pytest.approx([1.0, 0.9, 0.7])


def test_a_precision_that_was_not_measured_is_refused() -> None:
    with pytest.raises(InvalidInput, match="'Made up' was not measured in 'bf16'; there are: fp32"):
        host().costs("bf16")
