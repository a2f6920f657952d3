"""The service behind the routes: its parts, and how an image passes through them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from starlette.requests import Request as HttpRequest

from service.batcher import Batcher
from service.errors import BadRequest, NotReady, QueueFull, known_names
from service.executor import Executor, Loader, Model, load_models
from service.images import Decoder, Picture
from service.metrics import Metrics
from service.policy import choose_point
from service.request import Exchange, Reply, Request
from service.settings import Settings


class Service:
    """Everything behind the routes: executor, batcher, decode pool, metrics and readiness."""

    def __init__(self, settings: Settings, loader: Loader = load_models) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.executor = Executor(settings, loader)
        self.decoder = Decoder(settings.decode_threads)
        self.batcher = Batcher(
            self.executor,
            max_batch=settings.max_batch,
            on_dispatch=self.metrics.observe_batch,
        )
        self._taking = False
        self._images = 0
        self._bytes = 0
        self.metrics.ready.set_function(lambda: float(self.is_ready))
        self.metrics.in_flight.set_function(lambda: float(self._images))
        self.metrics.in_flight_bytes.set_function(lambda: float(self._bytes))

    @property
    def is_ready(self) -> bool:
        """Whether requests are taken: loaded, warmed up, not draining, and the batcher alive."""
        return self._taking and self.batcher.is_alive

    @property
    def max_images(self) -> int:
        """Most images in one request: what no empty service could admit is not offered."""
        return min(self.settings.max_images, self.settings.max_queue)

    async def start(self) -> None:
        """Load and warm up every model, then take requests. Raises LaudError."""
        await self.executor.start()
        self.batcher.start()
        self.metrics.watch(models=self.executor.models, depth=self.batcher.depth)
        self._taking = True

    def drain(self) -> None:
        """Take no new requests; those in flight finish."""
        self._taking = False

    async def stop(self) -> None:
        """Give up what still waits, and release engines and threads."""
        self.drain()
        await self.batcher.stop()
        self.decoder.close()
        await self.executor.stop()

    def require_ready(self) -> None:
        """Raise NotReady unless requests are taken."""
        if not self.is_ready:
            raise NotReady("the service is not ready: starting, draining or broken")

    def find_model(self, name: str | None) -> Model:
        """The model of that name; None is allowed while only one is served."""
        models = self.executor.models
        if name is not None:
            return self.executor.model(name)
        if len(models) != 1:
            raise BadRequest(f"name one with ?model=; there are: {known_names(models)}")
        return next(iter(models.values()))

    async def answer(
        self, model: Model, pictures: Sequence[Picture], pinned: str | None, exchange: Exchange
    ) -> list[Reply]:
        """One reply per picture, in order; the first error cancels the others.

        Raises BadRequest for an unknown point, QueueFull, NotReady, ImageError.
        """
        self.require_ready()
        try:
            choice = choose_point(model.point_names, pinned)
        except ValueError as error:
            raise BadRequest(str(error)) from None
        point = model.manifest.point(choice.name).point
        exchange.reason = choice.reason
        exchange.points = (point.name,)
        area = 3 * point.image_size**2
        with self._admitted(len(pictures), sum(p.num_bytes + area for p in pictures)):
            tasks = [
                asyncio.ensure_future(self._one(model, picture, choice.name, choice.reason))
                for picture in pictures
            ]
            try:
                replies = await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
        for reply in replies:
            self.metrics.observe_reply(model.name, reply)
        return list(replies)

    async def _one(self, model: Model, picture: Picture, point_name: str, reason: str) -> Reply:
        point = model.manifest.point(point_name).point
        begin_s = time.monotonic()
        pixels = await self.decoder.decode(
            picture, point.image_size, crop_ratio=model.manifest.preprocessing.crop_ratio
        )
        request = Request(
            model=model.name,
            point=point,
            reason=reason,
            pixels=pixels,
            reply=asyncio.get_running_loop().create_future(),
            decode_s=time.monotonic() - begin_s,
        )
        self.batcher.submit(request)
        try:
            return await request.reply
        finally:
            self.batcher.discard(request)

    @contextmanager
    def _admitted(self, images: int, num_bytes: int) -> Iterator[None]:
        """Count images and memory while they are in flight; QueueFull when there is no room."""
        limit = self.settings
        if self._images + images > limit.max_queue:
            raise QueueFull(f"{self._images} images are in flight, the limit is {limit.max_queue}")
        if self._bytes and self._bytes + num_bytes > limit.max_queue_bytes:
            raise QueueFull(
                f"images in flight hold {self._bytes:,} bytes, the limit is "
                f"{limit.max_queue_bytes:,}"
            )
        self._images += images
        self._bytes += num_bytes
        try:
            yield
        finally:
            self._images -= images
            self._bytes -= num_bytes


def service_of(request: HttpRequest) -> Service:
    """The service that a route belongs to."""
    found: Any = request.app.state.service
    if not isinstance(found, Service):
        raise TypeError("the application was not made by create_app")
    return found
