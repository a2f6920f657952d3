"""The executor owns the engines: one thread loads, warms up, profiles, runs and closes them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
import numpy.typing as npt
import structlog

from engines.core import OperatingPoint, Output, UInt8Array
from engines.errors import EngineError, InvalidInput
from service.errors import ClientGone, UnknownModel, known_names
from service.model import Loader, Model, load_models, threads_of
from service.profile import BUDGET_S, Tables, profile_points
from service.request import Batch, Prediction, Reply, Request
from service.results import check_objects, objects_of, probabilities_of
from service.settings import Settings
from service.threads import Threads

_log = structlog.get_logger("laud")

_EVERY_BATCH = 8
"""Batches up to this size are all warmed up; of larger ones powers of two, and the largest."""
_LONG_CALL_S, _TRIALS = 0.02, 5


Seconds = Mapping[str, tuple[float, ...]]
Profiler = Callable[[Model, int, Tables], Seconds]
"""Seconds of calls of 1, 2, ... images per point name, of a warmed-up model up to that batch."""


def profile(model: Model, max_batch: int, tables: Tables) -> Seconds:
    """What its calls take here: from a table, else measured for about half a second."""
    return profile_points(model, max_batch, BUDGET_S, tables)


class Executor:
    """Runs one batch at a time on a thread of its own."""

    def __init__(
        self,
        settings: Settings,
        loader: Loader = load_models,
        profiler: Profiler = profile,
        *,
        pool: concurrent.futures.Executor | None = None,
        clock: Callable[[], float] = time.monotonic,
        thread_time: Callable[[], float] = time.thread_time,
    ) -> None:
        """pool: instead of a thread, where a test decides what runs when. thread_time: CPU time of
        the thread that asks."""
        self._settings = settings
        self._loader = loader
        self._profiler = profiler
        self._clock = clock
        self._thread_time = thread_time
        self._models: dict[str, Model] = {}
        self._profiles: dict[str, Seconds] = {}
        self._warm_up_s: dict[str, float] = {}
        if pool is None:
            pool = Threads("laud-engine")
        self._thread = pool
        self._abandoned = threading.Event()
        self._ended_s = 0.0
        self._cpu_s = 0.0
        self._stopped = False

    @property
    def models(self) -> Mapping[str, Model]:
        """The served models by name, in the order they were given."""
        return self._models

    @property
    def profiles(self) -> Mapping[str, Seconds]:
        """Per model, seconds of calls of 1, 2, ... images at each point."""
        return self._profiles

    @property
    def warm_up_s(self) -> Mapping[str, float]:
        """Per model, seconds from loading it until it was warmed up and profiled."""
        return self._warm_up_s

    @property
    def cpu_s(self) -> float:
        """CPU time of all calls, if all threads of an engine take what the calling one does."""
        return self._cpu_s

    def model(self, name: str) -> Model:
        """The model of that name; UnknownModel lists the names there are."""
        try:
            return self._models[name]
        except KeyError:
            known = known_names(self._models)
            raise UnknownModel(f"unknown model '{name:.100}'; there are: {known}") from None

    async def start(self) -> bool:
        """Load every model, try each of its points at every batch, and measure what they take.

        False when it was abandoned before the end. Raises what the loader raises, EngineError when
        a point does not work, SettingsError for a latency table that cannot be used.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._load)

    def abandon(self) -> None:
        """Let a `start` that runs end soon: nobody waits for it any more."""
        self._abandoned.set()

    def run(self, batch: Batch) -> asyncio.Future[list[Reply | Exception]]:
        """One outcome per request of the batch, in order, after the batches before it.

        Should the engine refuse the batch, its requests run again one by one, so that one bad
        image fails alone. Whatever an engine raises is an outcome, and so is what a decoder raises.
        Nothing runs when every caller has left.
        """
        loop = asyncio.get_running_loop()
        running: asyncio.Future[list[Reply | Exception]] = loop.create_future()

        def work() -> None:
            settle: Callable[[], None]
            try:
                settle = partial(running.set_result, self._run(batch))
            except BaseException as error:
                settle = partial(running.set_exception, error)
            # A loop that was closed meanwhile has nobody who waits.
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle)

        # Not `run_in_executor`: its chain of two futures wakes the loop, and takes another turn.
        self._thread.submit(work)
        return running

    async def stop(self) -> None:
        """Close the engines, after the batches that were handed over. Again: nothing happens."""
        if self._stopped:
            return
        self._stopped = True
        self.abandon()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    def _load(self) -> bool:
        tables = Tables.of(self._settings)
        begin_s = self._clock()
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
            max_batch = self._settings.max_batch or self._worthwhile(model)
            if not self._warm_up(model, max_batch):
                return False
            self._profiles[model.name] = self._profiler(model, max_batch, tables)
            end_s = self._clock()
            self._warm_up_s[model.name], begin_s = end_s - begin_s, end_s
        tables.require_used()
        return not self._abandoned.is_set()

    def _worthwhile(self, model: Model) -> int:
        """A power of two: what a call has in common is worth sharing where images are quick, and a
        call that takes long is one that nobody interrupts. By CPU time where the calling thread
        computes: what else runs here at the start must not decide it for good."""
        watch = self._thread_time if hasattr(model.engine, "threads") else self._clock
        point = model.manifest.full.point
        grey = _grey(point)
        taken_s = []
        for _ in range(_TRIALS):
            begin_s = watch()
            try:
                model.engine.infer(grey, [point])
            except Exception as error:
                raise _failed(point, model, error) from error
            taken_s.append(watch() - begin_s)
        fits = _LONG_CALL_S / max(min(taken_s), 1e-9)
        return next(n for n in (_EVERY_BATCH, 4, 2) if n <= max(fits, 2))

    def _warm_up(self, model: Model, max_batch: int) -> bool:
        """Run every point at every batch, the largest first, and look at what comes out."""
        for record in model.manifest.points:
            point = record.point
            if point.glance is not None:
                # Whatever it makes of grey: its second look has to work too.
                point = point.looking_twice
            grey = _grey(point)
            try:
                for size in _warmed_batches(max_batch):
                    if self._abandoned.is_set():
                        return False
                    output = model.engine.infer(np.repeat(grey, size, axis=0), [point] * size)
                    _check_output(output, model, size)
            except Exception as error:
                raise _failed(point, model, error) from error
        return True

    def _run(self, batch: Batch) -> list[Reply | Exception]:
        if not any(request.is_wanted for request in batch.requests):
            return [ClientGone("the client left before the answer")] * len(batch.requests)
        model = self._models[batch.model]
        try:
            return self._infer(model, batch)
        except BaseException as error:
            # Even what asks a program to end: it was raised about these images.
            fault = _as_exception(error)
        finally:
            self._ended_s = self._clock()
        if len(batch.requests) == 1:
            return [fault]
        _log.warning("batch failed, running its images singly", model=model.name, error=str(fault))
        return [outcome for single in _singles(batch) for outcome in self._run(single)]

    def _infer(self, model: Model, batch: Batch) -> list[Reply | Exception]:
        if batch.images is None:
            images, begin_s = self._decoded(model, batch), self._clock()
        else:
            # One that was handed over while another ran begins when that ends.
            images, begin_s = batch.images, max(batch.dispatched_s, self._ended_s)
        began_s = self._thread_time()
        output = model.engine.infer(images, batch.points)
        self._cpu_s += (self._thread_time() - began_s) * threads_of(model.engine)
        service_s = self._clock() - begin_s
        means = _mean_activations(output)
        return [
            Reply(
                probabilities=probabilities_of(output, i),
                objects=objects_of(output, i),
                macs=float(output.macs[i]),
                activation=output.activation[i],
                mean_activation=means[i],
                point=point,
                reason=request.reason,
                accuracy=model.accuracies[point.name],
                batch_size=len(batch.requests),
                service_s=service_s,
                predicted=_predicted(request),
                phases_s={
                    "decode": request.decode_s,
                    "queue": begin_s - request.queued_s - request.decode_s,
                    **output.durations_s,
                },
                decisions=_decisions(output, i) if request.explain else None,
                looked_again=_looked_again(output, point, i),
            )
            for i, (request, point) in enumerate(zip(batch.requests, batch.points, strict=True))
        ]

    def _decoded(self, model: Model, batch: Batch) -> UInt8Array:
        (request,), (point,) = batch.requests, batch.points
        begin_s = self._clock()
        crop_ratio = model.manifest.preprocessing.crop_ratio
        pixels = request.picture.at(point.image_size, crop_ratio=crop_ratio)
        request.decode_s = self._clock() - begin_s
        return pixels[np.newaxis]

    def _close(self) -> None:
        for model in self._models.values():
            model.engine.close()


def _grey(point: OperatingPoint) -> UInt8Array:
    return np.full((1, point.image_size, point.image_size, 3), 128, np.uint8)


def _failed(point: OperatingPoint, model: Model, error: Exception) -> EngineError:
    return EngineError(f"point '{point.name}' of '{model.name}' failed its warm-up: {error}")


def _warmed_batches(max_batch: int) -> list[int]:
    every = range(1, max_batch + 1)
    return [n for n in reversed(every) if n <= _EVERY_BATCH or not n & (n - 1) or n == max_batch]


def _singles(batch: Batch) -> Iterator[Batch]:
    if batch.images is None:
        raise TypeError("a batch that is decoded here has one request")
    for i, (request, point) in enumerate(zip(batch.requests, batch.points, strict=True)):
        images = batch.images[i : i + 1]
        yield Batch(batch.model, (request,), (point,), images, batch.dispatched_s)


def _as_exception(error: BaseException) -> Exception:
    """Itself, where a future can carry it and a caller would not mistake it for a wish to end."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return EngineError(f"the engine raised {error!r}")


def _predicted(request: Request) -> Prediction:
    if request.predicted is None:
        raise TypeError("a request is in a batch only once it was chosen")
    return request.predicted


def _mean_activations(output: Output) -> list[float | None]:
    """Of every image; once for all, since every call of numpy takes microseconds."""
    count, maskers = output.activation.shape
    means: list[float | None] = (
        output.activation.mean(axis=1).tolist() if maskers else [None] * count
    )
    return means


def _decisions(output: Output, i: int) -> npt.NDArray[np.bool_] | None:
    found = output.arrays.get("decisions")
    return None if found is None else np.asarray(found[i], np.bool_)


def _looked_again(output: Output, point: OperatingPoint, i: int) -> bool | None:
    found = output.arrays.get("again")
    return None if point.glance is None or found is None else bool(found[i])


def _check_output(output: Output, model: Model, size: int) -> None:
    """Refuse an engine whose answer is not a distribution over the labels for each image, or not
    objects, where its model finds those."""
    detector, labels = model.manifest.detector, len(model.manifest.labels)
    if detector is not None:
        check_objects(output, size, num_labels=labels, masks=detector.masks)
        return
    probabilities = output.arrays["probabilities"]
    expected = (size, len(model.manifest.labels))
    if probabilities.shape != expected:
        raise InvalidInput(f"probabilities have shape {probabilities.shape}, expected {expected}")
    if not np.allclose(probabilities.sum(axis=1), 1.0, atol=1e-3):
        raise InvalidInput("probabilities do not sum to 1")
