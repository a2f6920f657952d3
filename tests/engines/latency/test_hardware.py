"""Descriptions of devices: complete, sourced, found by name."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import pytest

from engines.errors import InvalidInput
from engines.latency.hardware import DATASHEET_GPUS, GPU_NAMES, PAPER_GPUS, Gpu, gpu

ALL = [*PAPER_GPUS.values(), *DATASHEET_GPUS.values()]
NUMBERS = {field.name for field in fields(Gpu)} - {"name", "sources"}


@pytest.mark.parametrize("device", ALL, ids=lambda device: device.name)
def test_every_number_has_a_source(device: Gpu) -> None:
    assert set(device.sources) == NUMBERS
    assert all(device.sources.values())
    assert all(getattr(device, name) > 0 for name in NUMBERS)


def test_devices_of_the_paper_and_three_more() -> None:
    assert set(PAPER_GPUS) == {"v100", "rtx3090", "rtx3060", "tx2", "nano"}
    assert set(GPU_NAMES) == set(PAPER_GPUS) | {"a100", "l4", "h100"}


@pytest.mark.parametrize(
    ("name", "tera_flops"),
    [
        ("v100", 15.7),
        ("rtx3090", 35.6),
        ("rtx3060", 12.7),
        ("tx2", 0.666),
        ("nano", 0.236),
        ("a100", 19.5),
        ("l4", 30.3),
        ("h100", 67.0),
    ],
)
def test_peak_arithmetic_is_what_the_maker_states(name: str, tera_flops: float) -> None:
    """FP32, two operations per multiply-accumulate."""
    assert 2e-12 * gpu(name).macs_per_s == pytest.approx(tera_flops, rel=0.01)


def test_the_papers_constants_differ_from_the_datasheets() -> None:
    assert gpu("v100", "paper").dram_bytes_per_s == 700e9
    assert gpu("v100").dram_bytes_per_s == 900e9
    paper = gpu("rtx3090", "paper")
    assert paper.l2_bytes_per_s == paper.dram_bytes_per_s


def test_l2_is_faster_than_dram_on_every_real_device() -> None:
    assert all(d.l2_bytes_per_s > 2 * d.dram_bytes_per_s for d in DATASHEET_GPUS.values())


@pytest.mark.parametrize("name", ["rtx3090", "RTX 3090", "rtx-3090", "RTX_3090"])
def test_names_are_found_as_people_write_them(name: str) -> None:
    assert gpu(name).name == "rtx3090"


def test_an_unknown_name_is_told_which_there_are() -> None:
    with pytest.raises(InvalidInput, match=r"unknown GPU 'v1000'.*v100, rtx3090.*h100"):
        gpu("v1000")
    with pytest.raises(InvalidInput, match="unknown GPU 'a100' in the paper's constants"):
        gpu("a100", "paper")
    with pytest.raises(InvalidInput, match="'paper' or 'datasheet', got 'measured'"):
        gpu("v100", "measured")  # type: ignore[arg-type]


def test_a_device_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        gpu("v100").num_sms = 81  # type: ignore[misc]
    with pytest.raises(TypeError):
        gpu("v100").sources["lanes"] = "a guess"  # type: ignore[index]
