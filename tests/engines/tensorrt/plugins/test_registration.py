"""Plugins are not registered where that cannot work, and the reason is told."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from engines.errors import EngineError, InvalidInput
from engines.tensorrt.plugins import register, registration


def test_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(EngineError, match=r"need Triton .*pip install '\.\[tensorrt\]'"):
        register(86)


@pytest.mark.torch
class TestWithTriton:
    """Triton imports torch where it is there."""

    @pytest.fixture(autouse=True)
    def triton(self) -> None:
        pytest.importorskip("triton", reason="the kernels are Triton's: pip install '.[tensorrt]'")

    @pytest.mark.parametrize("sm", [70, 87, 0, -86])
    def test_a_capability_without_kernels(self, sm: int) -> None:
        with pytest.raises(InvalidInput, match=f"capability {sm}; there are some for: 75, 80, 86"):
            register(sm)

    def test_where_triton_interprets(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TRITON_INTERPRET", "1")
        with pytest.raises(EngineError, match="unset TRITON_INTERPRET"):
            register(86)

    def test_without_tensorrt(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "tensorrt", None)
        with pytest.raises(EngineError, match="TensorRT cannot be loaded"):
            register(86)

    @pytest.mark.parametrize(
        ("version", "reason"),
        [
            ("8.6.1", "TensorRT 8.6.1 is too old .*10.13 or newer"),
            ("10.12.0.36", "TensorRT 10.12.0.36 is too old .*10.13 or newer"),
            ("10.13.3.9", "TensorRT 10.13.3.9 came without its Python plugins .*from 10.14 on"),
        ],
    )
    def test_tensorrt_that_cannot_do_it(
        self, version: str, reason: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        old = ModuleType("tensorrt")
        old.__version__ = version  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "tensorrt", old)
        with pytest.raises(EngineError, match=reason):
            register(86)

    def test_a_kernel_that_takes_too_much(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from engines.tensorrt.spec import PartitionSpec

        monkeypatch.setattr("engines.tensorrt.limits.MOST_SHARED_BYTES", 64)
        registration._compiled.cache_clear()
        with pytest.raises(EngineError, match="bytes of shared memory on sm_86, more than 64"):
            registration._compiled(PartitionSpec(0), 86)
