"""Engines by name: what there is, and what is said where one cannot run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engines import registry
from engines.bundle import Bundle, read_bundle
from engines.core import Engine
from engines.errors import EngineError, InvalidInput
from engines.registry import DEFAULT_ENGINE, engine_names, load_engine
from tests.engines.bundles import manifest

BUNDLE = Bundle(path=Path("small.laud"), manifest=manifest(), hash="0" * 64, weights={})
ROOT = Path(__file__).parents[2]


def test_the_native_engine_is_the_default_and_the_reference_its_oracle() -> None:
    assert engine_names() == ("cpu", "reference", "tensorrt")
    assert DEFAULT_ENGINE == "cpu"


def test_the_demo_loads_into_the_default_engine() -> None:
    with load_engine(read_bundle("zoo:clothing"), threads=1) as engine:
        assert engine.name == "cpu"


def test_nothing_but_the_chosen_engine_is_imported() -> None:
    code = """
import sys
from engines.bundle import read_bundle
from engines.registry import load_engine
assert not [name for name in sys.modules if name.startswith(("engines.cpu", "engines.reference"))]
load_engine(read_bundle("zoo:clothing"), threads=1).close()
assert "engines.cpu.engine" in sys.modules
assert not [name for name in ("engines.reference", "torch") if name in sys.modules]
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_an_unknown_engine_lists_those_there_are() -> None:
    with pytest.raises(InvalidInput, match="'warp'; there are: cpu, reference, tensorrt"):
        load_engine(BUNDLE, kind="warp")


@pytest.mark.parametrize("threads", [0, -2, 2**40])
def test_threads_are_counted_from_one(threads: int) -> None:
    with pytest.raises(InvalidInput, match=f"1 to 1024, got {threads}"):
        load_engine(BUNDLE, threads=threads)


@pytest.mark.parametrize(("threads", "precision"), [(None, None), (3, "int8")])
def test_bundle_threads_and_precision_reach_the_engine(
    monkeypatch: pytest.MonkeyPatch, threads: int | None, precision: str | None
) -> None:
    seen: list[tuple[Bundle, int | None, str | None]] = []

    def make(bundle: Bundle, threads: int | None, precision: str | None) -> Engine:
        seen.append((bundle, threads, precision))
        raise EngineError("enough is known")

    monkeypatch.setattr(registry, "_ENGINES", {"cpu": make})
    with pytest.raises(EngineError, match="enough"):
        load_engine(BUNDLE, threads=threads, precision=precision)
    assert seen == [(BUNDLE, threads, precision)]


@pytest.mark.parametrize("precision", ["int8", "bf16", "FP32"])
def test_the_reference_engine_refuses_other_precisions_before_it_needs_torch(
    monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InvalidInput, match=f"computes in fp32 only, got precision '{precision}'"):
        load_engine(BUNDLE, kind="reference", precision=precision)


@pytest.mark.torch
@pytest.mark.parametrize("precision", [None, "fp32"])
def test_the_reference_engine_computes_in_fp32(precision: str | None) -> None:
    pytest.importorskip("torch")
    bundle = read_bundle("zoo:clothing")
    with load_engine(bundle, kind="reference", precision=precision, threads=1) as engine:
        assert (engine.name, engine.precision) == ("reference", "fp32")


def test_without_torch_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [name for name in sys.modules if name.startswith("engines.reference.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(EngineError, match=r"needs torch; .* pip install 'laudserve\[reference\]'"):
        load_engine(BUNDLE, kind="reference")


def test_without_the_native_module_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "engines.cpu._native", None)
    with pytest.raises(EngineError, match=r"not built for this Python .*there is a C\+\+ compiler"):
        load_engine(BUNDLE)


@pytest.mark.parametrize("kind", ["cpu", "reference"])
def test_another_missing_module_is_not_taken_for_what_is_optional(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setitem(sys.modules, f"engines.{kind}.engine", None)
    with pytest.raises(ModuleNotFoundError, match=rf"engines\.{kind}\.engine"):
        load_engine(BUNDLE, kind=kind)
