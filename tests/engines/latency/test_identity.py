"""Which machine this is: told without measuring, and fit for a file's name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from engines.cpu.threads import available_cpus
from engines.errors import EngineError
from engines.latency.identity import MAX_SLUG, DeviceIdentity, cpu_name, this_device
from engines.manifest import PRECISIONS

AVX2 = {"fp32": "avx2", "int8": "avx2"}
AMX = {"fp32": "avx512", "bf16": "amx", "int8": "amx"}


@pytest.mark.parametrize(
    ("cpu", "cpus", "isa", "slug"),
    [
        ("AMD EPYC", 2, AVX2, "amd-epyc-2cpu-avx2"),
        ("AMD EPYC 7B13 64-Core Processor", 64, AVX2, "amd-epyc-7b13-64cpu-avx2"),
        (
            "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz",
            16,
            AMX,
            "intel-xeon-platinum-8481c-16cpu-avx512-amx",
        ),
        ("Neoverse-N1", 4, {"fp32": "baseline", "int8": "baseline"}, "neoverse-n1-4cpu-baseline"),
        ("@!?", 1, AVX2, "1cpu-avx2"),
    ],
)
def test_slug_names_cpu_count_and_instruction_sets(
    cpu: str, cpus: int, isa: dict[str, str], slug: str
) -> None:
    assert DeviceIdentity(cpu=cpu, cpus=cpus, isa=isa).slug == slug


@pytest.mark.parametrize("cpu", ["x" * 500, "ßäö/../" * 50, "a b" * 100])
def test_slug_is_short_and_plain_and_keeps_its_end(cpu: str) -> None:
    slug = DeviceIdentity(cpu=cpu, cpus=1024, isa=AMX).slug
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug)
    assert len(slug) <= MAX_SLUG
    assert f"-{slug}".endswith("-1024cpu-avx512-amx")


def test_this_device_has_the_engines_instruction_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAUD_CPU_ISA", raising=False)
    device = this_device()
    assert device.cpus == available_cpus()
    assert {"fp32", "int8"} <= set(device.isa) <= set(PRECISIONS)
    assert device == this_device()


def test_a_limited_instruction_set_is_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAUD_CPU_ISA", "baseline")
    device = this_device()
    assert device.isa == {"fp32": "baseline", "int8": "baseline"}
    assert device.slug.endswith("-baseline")


def test_an_unknown_instruction_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAUD_CPU_ISA", "mmx")
    with pytest.raises(EngineError, match="LAUD_CPU_ISA=mmx: unknown instruction set 'mmx'"):
        this_device()


def test_the_cpus_name_is_the_kernels(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Some CPU v3\nmodel name\t: Other\n", "utf-8")
    assert cpu_name(cpuinfo) == "Some CPU v3"
    cpuinfo.write_text("processor\t: 0\nmodel name\t:\n", "utf-8")
    assert cpu_name(cpuinfo)
    assert cpu_name(tmp_path / "absent")


@pytest.mark.parametrize("wrong", [{"cpus": 0}, {"cpu": ""}, {"isa": {}}, {"cores": 2}])
def test_nonsense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DeviceIdentity.model_validate({"cpu": "x", "cpus": 1, "isa": AVX2, **wrong})
