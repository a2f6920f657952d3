"""Devices by name: GPUs, this machine, and machines measured before."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.errors import InvalidInput, LatencyError
from engines.latency import devices, host_measuring
from engines.latency.corrections import CORRECTION_NAMES, FIXED, PAPER
from engines.latency.devices import THIS, corrections_of, device_named, names_host
from engines.latency.hardware import GPU_NAMES, gpu
from engines.latency.host import Host, write_host
from tests.engines.latency.cases import host


@pytest.mark.parametrize("name", GPU_NAMES)
def test_every_gpu_has_its_datasheet(name: str) -> None:
    assert device_named(name) == gpu(name, "datasheet")


def test_paper_mode_takes_the_papers_constants() -> None:
    assert device_named("v100", "paper") == gpu("v100", "paper")
    assert device_named("v100", "paper") != device_named("v100")


def test_spelling_does_not_matter() -> None:
    assert device_named("RTX 3090") == device_named("rtx-3090") == gpu("rtx3090")


def test_a_file_is_a_machine_measured_before(tmp_path: Path) -> None:
    write_host(tmp_path / "here.json", host())
    assert device_named(str(tmp_path / "here.json")) == host()


def test_this_machine_is_measured_now_and_says_how_to_keep_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def measured(say: devices.Say) -> Host:
        say("memory")
        return host()

    monkeypatch.setattr(host_measuring, "measure_host", measured)
    told: list[str] = []
    assert device_named(THIS, say=told.append) == host()
    assert "laud measure device -o FILE.json" in told[0]
    assert told[1:] == ["memory"]


def test_which_names_are_of_machines_with_our_engine() -> None:
    assert [names_host(name) for name in ("this", "a/b.json", "v100", "b200")] == [
        True, True, False, False,
    ]  # fmt: skip


def test_an_unknown_name_lists_gpus_and_what_else_there_is() -> None:
    with pytest.raises(InvalidInput) as refusal:
        device_named("b200")
    line = str(refusal.value)
    for name in ("b200", *GPU_NAMES, "this", "laud measure device -o FILE.json"):
        assert name in line


def test_a_gpu_that_the_paper_does_not_have_lists_those_it_has() -> None:
    with pytest.raises(InvalidInput, match="unknown GPU 'h100' in the paper's constants") as found:
        device_named("h100", "paper")
    assert "v100" in str(found.value)
    assert "FILE.json" not in str(found.value), "the paper has none of these either"


@pytest.mark.parametrize("name", ["this", "here.json"])
def test_paper_mode_is_of_gpus(name: str) -> None:
    with pytest.raises(InvalidInput, match=f"published model of GPUs, not '{name}'"):
        device_named(name, "paper")


def test_a_file_that_is_no_machine_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(LatencyError, match="measure again with: laud measure device"):
        device_named(str(tmp_path / "none.json"))
    (tmp_path / "odd.json").write_text("{}")
    with pytest.raises(LatencyError, match="is not the description of a machine"):
        device_named(str(tmp_path / "odd.json"))


def test_a_mode_has_its_corrections_and_names_replace_them() -> None:
    assert corrections_of("fixed") == FIXED
    assert corrections_of("paper") == PAPER
    for mode in ("fixed", "paper"):
        assert corrections_of(mode, ("halo", "group_size")).names == ("group_size", "halo")


def test_unknown_modes_and_corrections_list_those_there_are() -> None:
    with pytest.raises(InvalidInput, match="unknown mode 'right'; there are: paper, fixed"):
        corrections_of("right")
    with pytest.raises(InvalidInput, match="unknown correction 'luck'") as refusal:
        corrections_of("fixed", ("luck",))
    assert all(name in str(refusal.value) for name in CORRECTION_NAMES)
