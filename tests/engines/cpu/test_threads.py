"""How many threads an engine has by itself: no more than the process may run at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engines.cpu.threads import available_cpus
from tests.engines.cpu.cases import bundle, load

CPUS = 8


@pytest.fixture(autouse=True)
def affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process may run on eight CPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(CPUS)), raising=False)


def version_2(folder: Path, content: str) -> Path:
    (folder / "cpu.max").write_text(content)
    return folder


def version_1(folder: Path, quota: str, period: str) -> Path:
    (folder / "cpu").mkdir()
    (folder / "cpu/cpu.cfs_quota_us").write_text(quota)
    (folder / "cpu/cpu.cfs_period_us").write_text(period)
    return folder


def test_without_a_control_group_affinity_counts(tmp_path: Path) -> None:
    assert available_cpus(tmp_path) == CPUS
    assert available_cpus(tmp_path / "nowhere") == CPUS


def test_a_narrower_affinity_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3}, raising=False)
    assert available_cpus(version_2(tmp_path, "400000 100000\n")) == 1


@pytest.mark.parametrize(("cpus", "wanted"), [(6, 6), (None, 1)], ids=["counted", "not even that"])
def test_where_there_is_no_affinity_cpus_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpus: int | None, wanted: int
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: cpus)
    assert available_cpus(tmp_path) == wanted


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ("max 100000\n", CPUS),
        ("100000 100000\n", 1),
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("50000 100000\n", 1),
        ("1 1000000\n", 1),
        ("210000 50000", 5),
        ("1600000 100000\n", CPUS),
    ],
)
def test_a_quota_is_rounded_up(tmp_path: Path, content: str, wanted: int) -> None:
    """A thread that may run half the time is still one thread."""
    assert available_cpus(version_2(tmp_path, content)) == wanted


@pytest.mark.parametrize(
    "content",
    [
        "",
        "\n",
        "max",
        "100000",
        "a b",
        "100000 0",
        "-1 100000",
        "0 100000",
        "1 2 3",
        "1.5 1",
        "é 1",
    ],
)
def test_a_file_that_says_nothing_limits_nothing(tmp_path: Path, content: str) -> None:
    assert available_cpus(version_2(tmp_path, content)) == CPUS


@pytest.mark.parametrize(
    ("quota", "period", "wanted"),
    [
        ("-1\n", "100000\n", CPUS),
        ("300000\n", "100000\n", 3),
        ("250000\n", "100000\n", 3),
        ("1000\n", "100000\n", 1),
        ("", "100000\n", CPUS),
        ("100000\n", "0\n", CPUS),
        ("100000\n", "often\n", CPUS),
        ("é", "100000\n", CPUS),
    ],
)
def test_the_first_version_of_control_groups(
    tmp_path: Path, quota: str, period: str, wanted: int
) -> None:
    assert available_cpus(version_1(tmp_path, quota, period)) == wanted


def test_half_of_the_first_version_limits_nothing(tmp_path: Path) -> None:
    (version_1(tmp_path, "100000", "100000") / "cpu/cpu.cfs_period_us").unlink()
    assert available_cpus(tmp_path) == CPUS


def test_files_that_cannot_be_read_limit_nothing(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").mkdir()
    assert available_cpus(tmp_path) == CPUS


def test_quotas_of_both_versions_hold(tmp_path: Path) -> None:
    assert available_cpus(version_2(version_1(tmp_path, "400000", "100000"), "300000 100000")) == 3


def test_an_engine_takes_them_all_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.cpu.loading.available_cpus", lambda: 3)
    with load(bundle(), threads=None) as engine:
        assert engine.threads == 3
    with load(bundle(), threads=2) as engine:
        assert engine.threads == 2


# Groups below the root


def membership(folder: Path, content: str) -> Path:
    path = folder / "membership"
    path.write_text(content)
    return path


def test_the_quota_of_the_process_own_group_holds(tmp_path: Path) -> None:
    own = tmp_path / "system.slice/laud.service"
    own.mkdir(parents=True)
    version_2(own, "200000 100000\n")
    found = membership(tmp_path, "0::/system.slice/laud.service\n")
    assert available_cpus(tmp_path, found) == 2


def test_the_smallest_quota_above_it_holds_too(tmp_path: Path) -> None:
    own = tmp_path / "system.slice/laud.service"
    own.mkdir(parents=True)
    version_2(own, "600000 100000\n")
    version_2(own.parent, "300000 100000\n")
    assert available_cpus(tmp_path, membership(tmp_path, "0::/system.slice/laud.service\n")) == 3


def test_version_1_has_a_hierarchy_of_its_own(tmp_path: Path) -> None:
    own = tmp_path / "cpu/docker/abc"
    own.mkdir(parents=True)
    (own / "cpu.cfs_quota_us").write_text("400000")
    (own / "cpu.cfs_period_us").write_text("100000")
    found = membership(tmp_path, "3:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n0::/\n")
    assert available_cpus(tmp_path, found) == 4


@pytest.mark.parametrize("content", ["", "nonsense", "0::/../outside\n", "0::/gone\n"])
def test_a_group_that_is_not_there_limits_nothing(tmp_path: Path, content: str) -> None:
    assert available_cpus(tmp_path, membership(tmp_path, content)) == CPUS
