"""Which models are served, and what is refused before an engine loads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engines import registry
from engines.bundle import Bundle, Manifest, write_bundle
from engines.core import Engine
from engines.errors import BundleError, InvalidInput
from service.errors import SettingsError, UnknownModel
from service.executor import Executor
from service.model import load_models
from service.settings import Settings
from tests.service.scripted import ScriptedEngine, manifest, profile, quantised


def bundle_in(folder: Path, name: str = "colours", of: Manifest | None = None) -> Path:
    path = folder / f"{name}.laud"
    write_bundle(path, of or manifest(name), {"w": np.zeros(1, np.float32)})
    return path


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the bundles for which the engine `scripted` was asked."""
    names: list[str] = []

    def make(bundle: Bundle, threads: int | None, precision: str | None) -> Engine:
        names.append(f"{bundle.manifest.name}/{threads}/{precision}")
        return ScriptedEngine(precision or "fp32")

    monkeypatch.setitem(registry._ENGINES, "scripted", make)
    return names


@pytest.mark.anyio
async def test_bundles_load_in_order_with_threads_and_precision_of_the_settings(
    tmp_path: Path, loaded: list[str]
) -> None:
    refs = (str(bundle_in(tmp_path, "b")), str(bundle_in(tmp_path, "a")))
    settings = Settings(bundles=refs, engine="scripted", threads=3, precision="bf16")
    executor = Executor(settings, profiler=profile)
    await executor.start()
    assert [*executor.models] == ["b", "a"]
    assert loaded == ["b/3/bf16", "a/3/bf16"]
    assert len(executor.model("a").hash) == 64
    with pytest.raises(UnknownModel, match="unknown model 'c'; there are: a, b"):
        executor.model("c")
    await executor.stop()


@pytest.mark.parametrize(
    ("precision", "thresholds", "accuracy"),
    [("fp32", (0.0, 0.5), 0.9), ("int8", (-1.0, -0.5), 0.8)],
)
def test_points_are_those_of_the_precision_that_the_engine_computes_in(
    tmp_path: Path,
    loaded: list[str],
    precision: str,
    thresholds: tuple[float, float],
    accuracy: float,
) -> None:
    ref = str(bundle_in(tmp_path, of=quantised()))
    (served,) = load_models(Settings(bundles=(ref,), engine="scripted", precision=precision))
    assert served.manifest.point("skip").point.thresholds == thresholds
    assert served.manifest.full.accuracy is not None
    assert served.manifest.full.accuracy.value == accuracy


def test_accuracies_are_those_that_were_measured(tmp_path: Path, loaded: list[str]) -> None:
    ref = str(bundle_in(tmp_path))
    (served,) = load_models(Settings(bundles=(ref,), engine="scripted"))
    expected = {r.point.name: r.accuracy and r.accuracy.value for r in manifest().points}
    assert served.accuracies == expected


def test_two_bundles_of_one_name_are_refused(tmp_path: Path, loaded: list[str]) -> None:
    refs = (str(bundle_in(tmp_path / "one")), str(bundle_in(tmp_path / "two")))
    with pytest.raises(SettingsError, match="are both named 'colours'; serve them by two servers"):
        list(load_models(Settings(bundles=refs, engine="scripted")))
    assert loaded == []


def test_a_damaged_bundle_is_refused_before_any_engine_loads(
    tmp_path: Path, loaded: list[str]
) -> None:
    good, bad = bundle_in(tmp_path, "good"), bundle_in(tmp_path, "bad")
    weights = bad / "weights.safetensors"
    blob = bytearray(weights.read_bytes())
    blob[-1] ^= 1
    weights.write_bytes(blob)
    with pytest.raises(BundleError, match="is damaged"):
        list(load_models(Settings(bundles=(str(good), str(bad)), engine="scripted")))
    assert loaded == []


def test_an_unknown_engine_is_refused(tmp_path: Path) -> None:
    settings = Settings().model_copy(
        update={"bundles": (str(bundle_in(tmp_path)),), "engine": "warp"}
    )
    with pytest.raises(InvalidInput, match="unknown engine 'warp'; there are: "):
        list(load_models(settings))
