"""Loading, warming up, and a batch in which one image is bad."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from engines import registry
from engines.bundle import Bundle, Manifest, write_bundle
from engines.core import Engine, Output, UInt8Array
from engines.errors import BundleError, EngineError, InvalidInput
from service.errors import SettingsError, UnknownModel
from service.executor import Executor, load_models
from service.request import Batch, Reply, Request
from service.settings import Settings
from tests.service.scripted import (
    ScriptedEngine,
    loader_of,
    manifest,
    model,
    pixels,
    quantised,
)

pytestmark = pytest.mark.anyio


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


def batch_of(*colours: str) -> Batch:
    point = manifest().full.point
    create = asyncio.get_running_loop().create_future
    requests = (Request("colours", point, "full", pixels(each), create()) for each in colours)
    return Batch("colours", tuple(requests), dispatched_s=0.0)


def best(outcome: Reply | Exception) -> str:
    assert isinstance(outcome, Reply)
    return manifest().labels[int(outcome.probabilities.argmax())]


async def test_bundles_load_in_order_with_threads_and_precision_of_the_settings(
    tmp_path: Path, loaded: list[str]
) -> None:
    refs = (str(bundle_in(tmp_path, "b")), str(bundle_in(tmp_path, "a")))
    settings = Settings(bundles=refs, engine="scripted", threads=3, precision="bf16")
    executor = Executor(settings)
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


def test_an_unknown_name_is_quoted_no_longer_than_a_line() -> None:
    with pytest.raises(UnknownModel) as refused:
        Executor(Settings()).model("x" * 100_000)
    assert str(refused.value) == f"unknown model '{'x' * 100}'; there are: none"


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


@pytest.mark.parametrize(("max_batch", "sizes"), [(1, [1]), (2, [1, 2]), (8, [1, 8])])
async def test_every_point_is_warmed_up_alone_and_in_the_largest_batch(
    max_batch: int, sizes: list[int]
) -> None:
    engine = ScriptedEngine()
    executor = Executor(Settings(max_batch=max_batch), loader_of(model(engine=engine)))
    await executor.start()
    points = ("full", "small", "skip")
    assert engine.batches == [(point,) * size for point in points for size in sizes]
    await executor.stop()
    assert engine.is_closed


class BrokenEngine(ScriptedEngine):
    """Answers at 24 pixels with what is no distribution over three labels."""

    def __init__(self, wrong: list[float]) -> None:
        super().__init__()
        self._wrong = wrong

    def infer(self, images: UInt8Array, points: object) -> Output:
        answers = np.full((len(images), 3), 1 / 3, np.float32)
        if images.shape[1] == 24:
            answers = np.tile(np.array(self._wrong, np.float32), (len(images), 1))
        rates = np.ones((len(images), 2), np.float32)
        return Output({"probabilities": answers}, rates, np.ones(len(images)), {})


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ([0.5, 0.5], "have shape"),
        ([0.5, 0.5, 0.5], "do not sum to 1"),
        ([float("nan"), 0.5, 0.5], "do not sum to 1"),
    ],
)
async def test_a_point_that_does_not_work_is_named(wrong: list[float], reason: str) -> None:
    executor = Executor(Settings(), loader_of(model(engine=BrokenEngine(wrong))))
    with pytest.raises(
        EngineError, match=f"point 'small' of 'colours' failed its warm-up: .*{reason}"
    ):
        await executor.start()
    await executor.stop()


async def test_one_bad_image_fails_alone() -> None:
    engine = ScriptedEngine()
    executor = Executor(Settings(), loader_of(model(engine=engine)))
    await executor.start()

    def refuse_green(images: UInt8Array) -> None:
        if (images.mean(axis=(1, 2)).argmax(axis=1) == 1).any():
            raise RuntimeError("green is bad")

    engine.fault = refuse_green
    red, green, blue = await executor.run(batch_of("red", "green", "blue"))
    assert (best(red), best(blue)) == ("red", "blue")
    assert isinstance(green, RuntimeError)
    (alone,) = await executor.run(batch_of("green"))
    assert isinstance(alone, RuntimeError)
    await executor.stop()


async def test_replies_are_in_order_and_carry_the_phases() -> None:
    executor = Executor(Settings(), loader_of(model()))
    await executor.start()
    outcomes = await executor.run(batch_of("blue", "red"))
    assert [best(outcome) for outcome in outcomes] == ["blue", "red"]
    for outcome in outcomes:
        assert isinstance(outcome, Reply)
        assert outcome.batch_size == 2
        assert outcome.phases_s == {"decode": 0.0, "queue": 0.0, "prepare": 0.001, "network": 0.002}
    await executor.stop()


async def test_an_engine_that_was_closed_is_an_error_and_no_hang() -> None:
    executor = Executor(Settings(), loader_of(model()))
    await executor.start()
    executor.model("colours").engine.close()
    (outcome,) = await executor.run(batch_of("red"))
    assert isinstance(outcome, EngineError)
    await executor.stop()
