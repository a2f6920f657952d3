"""The executor owns the engines: one thread loads, warms up, runs and closes them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import structlog

from engines.bundle import Bundle, Manifest, read_bundle
from engines.core import Engine, Output
from engines.errors import EngineError, InvalidInput
from engines.registry import load_engine
from service.errors import SettingsError, UnknownModel, known_names
from service.request import Batch, Reply, Request
from service.settings import Settings

T = TypeVar("T")

_log = structlog.get_logger("laud")


@dataclass(frozen=True)
class Model:
    """A bundle that is served: its manifest with the points of the engine's precision, its hash
    (64 hex digits) and the engine it runs on."""

    manifest: Manifest
    hash: str
    engine: Engine

    @property
    def name(self) -> str:
        """The bundle's name: the `model` of every interface and metric."""
        return self.manifest.name

    @property
    def image_size(self) -> int:
        """The evaluation size of `full`, in pixels."""
        return self.manifest.full.point.image_size

    @property
    def point_names(self) -> tuple[str, ...]:
        """Its operating points as the policy sees them, `full` first."""
        return tuple(record.point.name for record in self.manifest.points)


Loader = Callable[[Settings], Iterator[Model]]


def load_models(settings: Settings) -> Iterator[Model]:
    """The models of `settings.bundles` in order; all bundles are verified before an engine loads.

    Raises SettingsError for two of one name, BundleError, EngineError or InvalidInput.
    """
    bundles: dict[str, Bundle] = {}
    for ref in settings.bundles:
        bundle = read_bundle(ref)
        name = bundle.manifest.name
        if name in bundles:
            raise SettingsError(
                f"'{bundles[name].path}' and '{bundle.path}' are both named '{name}'; "
                "serve them by two servers, or train one under another name ('name' in its "
                "configuration)"
            )
        bundles[name] = bundle
    for bundle in bundles.values():
        engine = load_engine(
            bundle,
            kind=settings.engine,
            threads=settings.threads,
            precision=settings.precision,
        )
        yield Model(bundle.manifest.at(engine.precision), bundle.hash, engine)


class Executor:
    """Runs one batch at a time on a thread of its own."""

    def __init__(self, settings: Settings, loader: Loader = load_models) -> None:
        self._settings = settings
        self._loader = loader
        self._models: dict[str, Model] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="laud-engine")

    @property
    def models(self) -> Mapping[str, Model]:
        """The served models by name, in the order they were given."""
        return self._models

    def model(self, name: str) -> Model:
        """The model of that name; UnknownModel lists the names there are."""
        try:
            return self._models[name]
        except KeyError:
            known = known_names(self._models)
            raise UnknownModel(f"unknown model '{name:.100}'; there are: {known}") from None

    async def start(self) -> None:
        """Load every model and try each of its points. Raises what the loader raises, EngineError
        when a point does not work."""
        await self._on_thread(self._load)

    async def run(self, batch: Batch) -> list[Reply | Exception]:
        """One outcome per request of the batch, in order.

        Should the engine refuse the batch, its requests run again one by one, so that one bad
        image fails alone.
        """
        return await self._on_thread(lambda: self._run(batch))

    async def stop(self) -> None:
        """Close the engines, after the batch that runs."""
        await self._on_thread(self._close)
        self._thread.shutdown(wait=False)

    async def _on_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _load(self) -> None:
        for model in self._loader(self._settings):
            self._models[model.name] = model
            _log.info(
                "bundle loaded",
                model=model.name,
                bundle=model.hash[:12],
                engine=model.engine.name,
                precision=model.engine.precision,
                classes=len(model.manifest.labels),
            )
            self._warm_up(model)

    def _warm_up(self, model: Model) -> None:
        """Run every point at the smallest and the largest batch, and look at what comes out."""
        for record in model.manifest.points:
            point = record.point
            grey = np.full((1, point.image_size, point.image_size, 3), 128, np.uint8)
            begin_s = time.monotonic()
            try:
                for size in sorted({1, self._settings.max_batch}):
                    output = model.engine.infer(np.repeat(grey, size, axis=0), [point] * size)
                    _check_output(output, model, size)
            except Exception as error:
                raise EngineError(
                    f"point '{point.name}' of '{model.name}' failed its warm-up: {error}"
                ) from error
            _log.info(
                "operating point",
                model=model.name,
                point=point.name,
                image_size=point.image_size,
                accuracy=record.accuracy.value if record.accuracy else None,
                macs_ratio=round(record.macs_ratio, 3),
                warm_up_ms=round((time.monotonic() - begin_s) * 1e3, 1),
            )

    def _run(self, batch: Batch) -> list[Reply | Exception]:
        model = self._models[batch.model]
        try:
            return self._infer(model, batch)
        except Exception as error:
            if len(batch.requests) == 1:
                return [error]
            _log.warning("batch failed, running its images singly", model=model.name, error=error)
        singles = (Batch(batch.model, (one,), batch.dispatched_s) for one in batch.requests)
        return [outcome for single in singles for outcome in self._run(single)]

    def _infer(self, model: Model, batch: Batch) -> list[Reply | Exception]:
        output = model.engine.infer(batch.images, batch.points)
        return [
            Reply(
                probabilities=np.asarray(output.arrays["probabilities"][i], np.float32),
                activation=output.activation[i],
                point=request.point,
                reason=request.reason,
                batch_size=len(batch.requests),
                phases_s=_phases(request, batch, output),
            )
            for i, request in enumerate(batch.requests)
        ]

    def _close(self) -> None:
        for model in self._models.values():
            model.engine.close()


def _phases(request: Request, batch: Batch, output: Output) -> dict[str, float]:
    return {
        "decode": request.decode_s,
        "queue": batch.dispatched_s - request.queued_s,
        **output.durations_s,
    }


def _check_output(output: Output, model: Model, size: int) -> None:
    """Refuse an engine whose answer is not a distribution over the labels for each image."""
    probabilities = output.arrays["probabilities"]
    expected = (size, len(model.manifest.labels))
    if probabilities.shape != expected:
        raise InvalidInput(f"probabilities have shape {probabilities.shape}, expected {expected}")
    if not np.allclose(probabilities.sum(axis=1), 1.0, atol=1e-3):
        raise InvalidInput("probabilities do not sum to 1")
