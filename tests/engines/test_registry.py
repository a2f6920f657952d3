"""Engines by name: what there is, and what is said where one cannot run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from engines import registry
from engines.bundle import Bundle
from engines.core import Engine
from engines.errors import EngineError, InvalidInput
from engines.registry import engine_names, load_engine
from tests.engines.bundles import manifest

BUNDLE = Bundle(path=Path("small.laud"), manifest=manifest(), hash="0" * 64, weights={})


def test_there_is_the_reference_engine() -> None:
    assert engine_names() == ("reference",)


def test_an_unknown_engine_lists_those_there_are() -> None:
    with pytest.raises(InvalidInput, match="unknown engine 'warp'; there are: reference"):
        load_engine(BUNDLE, kind="warp")


@pytest.mark.parametrize("threads", [0, -2])
def test_threads_are_counted_from_one(threads: int) -> None:
    with pytest.raises(InvalidInput, match=f"at least 1, got {threads}"):
        load_engine(BUNDLE, threads=threads)


@pytest.mark.parametrize("threads", [None, 3])
def test_bundle_and_threads_reach_the_engine(
    monkeypatch: pytest.MonkeyPatch, threads: int | None
) -> None:
    seen: list[tuple[Bundle, int | None]] = []

    def make(bundle: Bundle, threads: int | None) -> Engine:
        seen.append((bundle, threads))
        raise EngineError("enough is known")

    monkeypatch.setattr(registry, "_ENGINES", {"reference": make})
    with pytest.raises(EngineError, match="enough"):
        load_engine(BUNDLE, threads=threads)
    assert seen == [(BUNDLE, threads)]


def test_without_torch_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [name for name in sys.modules if name.startswith("engines.reference.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(EngineError, match=r"needs torch; .* pip install 'laudserve\[reference\]'"):
        load_engine(BUNDLE)


def test_another_missing_module_is_not_taken_for_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "engines.reference.engine", None)
    with pytest.raises(ModuleNotFoundError, match=r"engines\.reference\.engine"):
        load_engine(BUNDLE)
