"""The service behind the routes: its parts, and how an image passes through them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from starlette.requests import Request as HttpRequest

from engines.core import OperatingPoint
from engines.cpu.threads import available_cpus
from service.admission import Limits
from service.answer_costs import MOST_S, AnswerCosts
from service.batcher import Batcher
from service.beside_costs import BesideCosts, Seen
from service.costs import ModelCosts, costs_of
from service.deciding import Decider
from service.decode_costs import DecodeCosts, measure_decoding
from service.decoding import DecodePool, Preparation
from service.errors import BadRequest, Expired, NotReady, QueueFull, SettingsError, known_names
from service.executor import Executor, Profiler, profile
from service.images import Picture
from service.logs import log_dial
from service.loop_lag import watch_loop
from service.memory import Memory, Reservation
from service.metrics import Metrics
from service.model import Loader, Model, load_models, threads_of
from service.objectives import DEFAULT_CLASS, Objective, SloClass, default_class
from service.policy import policy_named
from service.policy.core import Host, Policy
from service.policy.queue import DeadlineQueue
from service.request import Exchange, Reply, Request
from service.settings import Settings
from service.statistics import ModelStatistics
from service.work_pool import WorkPool
from service.world import World

T = TypeVar("T")


class Service:
    """Everything behind the routes: executor, batcher, decode pool, costs, metrics, readiness.

    costs: of every model, once started. memory: what bodies and images may hold.
    """

    def __init__(
        self,
        settings: Settings,
        loader: Loader = load_models,
        profiler: Profiler = profile,
        *,
        policy: Policy | None = None,
        decode_costs: DecodeCosts | None = None,
        world: World | None = None,
    ) -> None:
        """policy: that of the settings, unless given. decode_costs: measured, unless given.
        world: time and threads, of tests. Raises SettingsError for an unknown policy."""
        world = world or World()
        self.settings = settings
        self.metrics = Metrics(settings.slo_classes)
        self.executor = Executor(
            settings,
            loader,
            profiler,
            pool=world.engine_pool,
            clock=world.clock,
            thread_time=world.thread_time,
        )
        self.decoder = DecodePool(
            settings.decode_threads, pool=world.decode_pool, clock=world.clock
        )
        self._finisher = WorkPool(settings.decode_threads, "laud-answer")
        self.costs: dict[str, ModelCosts] = {}
        self.decode_costs = decode_costs or measure_decoding()
        self.answer_costs: defaultdict[str, AnswerCosts] = defaultdict(AnswerCosts)
        self._cores = available_cpus()
        self.beside_costs = BesideCosts(self._cores)
        self._clock, self._process_time = world.clock, world.process_time
        self._points: dict[str, tuple[OperatingPoint, ...]] = {}
        self._defaults: dict[str, tuple[str, SloClass]] = {}
        self._preparation = Preparation(
            self.decoder,
            self.decode_costs,
            self._crop_ratio,
            width=settings.decode_threads,
        )
        self.statistics = ModelStatistics()
        self._decider = Decider(
            policy or _policy(settings.policy),
            self.costs,
            host=self._host,
            on_decision=self.metrics.scheduler_decision.observe,
            on_failure=self.metrics.scheduler_failures.inc,
        )
        self.batcher = Batcher(
            self.statistics.counting(self.executor),
            self._preparation,
            DeadlineQueue(self._fastest_s, self._share_s),
            self._decider,
            self.costs,
            self._points,
            self.metrics,
            limits=Limits(settings.max_queue_s, settings.late_limit_s),
            clock=world.clock,
            call_later=world.call_later,
        )
        self.memory = Memory(settings.max_queue_bytes, lambda: self.batcher.backlog_s)
        self._images = self._images_done = 0
        self._taking = False
        self._draining = False
        self._lag: asyncio.Task[None] | None = None
        self.metrics.beside_engine.set_function(lambda: self.beside_costs.seconds)
        self.metrics.ready.set_function(lambda: float(self.is_ready))
        self.metrics.in_flight.set_function(lambda: float(self._images))
        self.metrics.in_flight_bytes.set_function(lambda: float(self.memory.used))

    @property
    def is_ready(self) -> bool:
        """Whether requests are taken: loaded, warmed up, not draining, and the batcher alive."""
        return self._taking and self.batcher.is_alive

    @property
    def max_images(self) -> int:
        """Most images in one request: what no empty service could admit is not offered."""
        return min(self.settings.max_images, self.settings.max_queue)

    async def start(self) -> None:
        """Load, warm up and profile every model, then take requests; or come back without, when
        it was drained meanwhile. Raises LaudError."""
        if not await self.executor.start():
            return
        for model in self.executor.models.values():
            costs = costs_of(model, self.executor.profiles[model.name], clock=self._clock)
            self.costs[model.name] = costs
            self._points[model.name] = tuple(
                model.manifest.point(point.name).point for point in costs.dial.points
            )
            self._decider.try_out(model.name)
            self._defaults[model.name] = self.settings.default_slo or (
                DEFAULT_CLASS,
                default_class(costs.predict((costs.full,))[1]),
            )
            self.metrics.warm_up.labels(model.name).set(self.executor.warm_up_s[model.name])
            log_dial(model, costs, *self._defaults[model.name])
        self.metrics.watch(
            models=self.executor.models,
            depth=self.batcher.depth,
            costs=self.costs,
            backlog_s=lambda: self.batcher.backlog_s,
        )
        self.batcher.start()
        self._lag = asyncio.create_task(watch_loop(self._watched), name="lag")
        self._taking = not self._draining

    def _watched(self, lag_s: float) -> None:
        """Some times a second."""
        self.metrics.event_loop_lag.observe(lag_s)
        engine_s = self.executor.cpu_s
        self.beside_costs.observe(
            Seen(
                now_s=self._clock(),
                cpu_s=self._process_time() - engine_s,
                engine_s=engine_s,
                images=self._images_done,
                is_idle=self.batcher.is_idle,
                is_crowded=any(
                    self.batcher.depth(name) > costs.dial.max_batch
                    for name, costs in self.costs.items()
                ),
            ),
            max(threads_of(model.engine) for model in self.executor.models.values()),
        )

    def _host(self, model: str) -> Host:
        return Host(
            beside_s=self.beside_costs.seconds,
            engine_share=min(threads_of(self.executor.model(model).engine) / self._cores, 1.0),
            decoders=self.settings.decode_threads,
        )

    def drain(self) -> None:
        """Take no new requests; those in flight finish. A start that runs ends soon."""
        self._draining = True
        self._taking = False
        self.executor.abandon()

    async def stop(self) -> None:
        """Give up what still waits, and release engines and threads."""
        self.drain()
        self.batcher.stop()
        if self._lag is not None:
            self._lag.cancel()
        self.decoder.close()
        self._finisher.close()
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

    def default_objective(self, model: Model) -> tuple[str, SloClass]:
        """Name and class that hold for requests which ask for nothing: the configured ones, else
        three times what `full` takes here. Raises NotReady before the start."""
        try:
            return self._defaults[model.name]
        except KeyError:
            raise NotReady("the service is not ready: it is starting") from None

    async def answer(
        self,
        model: Model,
        pictures: Sequence[Picture],
        objective: Objective,
        exchange: Exchange,
        explain: bool = False,
        answer_bytes: int = 0,
    ) -> list[Reply]:
        """One reply per picture, in order; the first error cancels the others. answer_bytes: what
        making an answer of them will take, as far as it is known: without room for it they are
        refused now (see `beside`).

        Notes points, reason, prediction and phases in `exchange`: of several images those of the
        one that came last. Raises BadRequest for points that do not exist or are not accurate
        enough, Infeasible, QueueFull, NotReady, Expired, ImageError.
        """
        self.require_ready()
        exchange.objective = objective
        costs = self.costs[model.name]
        allowed = costs.allowed(objective.pinned, objective.min_accuracy)
        exchange.has_choice = len(allowed) > 1
        size = max(costs.dial.points[place].image_size for place in allowed)
        if self._images and self._images + len(pictures) > self.settings.max_queue:
            raise QueueFull(
                f"{self._images} images are in flight, the limit is {self.settings.max_queue}",
                retry_after_s=self.batcher.backlog_s,
            )
        num_bytes = sum(picture.num_bytes + 3 * size * size for picture in pictures)
        with self.memory.reserve(num_bytes + answer_bytes) as room:
            requests = [
                self._request(model, picture, objective, exchange, allowed, size, room, explain)
                for picture in pictures
            ]
            self._images += len(requests)
            try:
                self.batcher.submit(requests)
                replies = await _all_of(requests)
            finally:
                self._images -= len(requests)
                self._images_done += len(requests)
                for request in requests:
                    self.batcher.discard(request)
        exchange.unusual = explain
        exchange.engine_end_s = max(request.ended_s for request in requests)
        _note(replies, exchange)
        return replies

    def aside(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """`work()` on a thread: it takes longer than others should wait for the event loop."""
        return self._finisher.run(work)

    async def beside(self, exchange: Exchange, work: Callable[[], T], num_bytes: int = 0) -> T:
        """What `work` makes of the replies of an exchange, aside. num_bytes: memory that it takes,
        accounted until the thread is done; waited for, since the engine has worked already.

        Raises Expired where there is no room while an answer is still wanted.
        """
        if not num_bytes:
            return await self.aside(work)
        try:
            async with asyncio.timeout(self._wanted_for_s(exchange)):
                room = await self.memory.reserve_in_turn(num_bytes)
        except TimeoutError:
            raise Expired(
                f"its deadline has passed, and there was no room for the {num_bytes:,} bytes that "
                "its answer takes"
            ) from None
        with room:
            return await self._finisher.run(work, on_end=room.share().release)

    def observe_inference(self, exchange: Exchange, duration_s: float) -> None:
        """An inference request ended so long after its first byte: sent to its last byte, refused,
        or left by its client."""
        self.statistics.observe_exchange(exchange, duration_s)
        for reply in exchange.replies:
            self.metrics.observe_reply(exchange.model, reply)
        usual = exchange.status < 400 and not exchange.unusual
        if exchange.engine_end_s is not None and usual:
            answer_s = exchange.arrived_s + duration_s - exchange.engine_end_s
            self.answer_costs[exchange.model].observe(answer_s)
            if answer_s < MOST_S:
                self._judge(exchange, duration_s)

    def _judge(self, exchange: Exchange, duration_s: float) -> None:
        """Tell whether a plan held, where there was a choice, and one that meant to be in time."""
        asked, plan = exchange.objective, exchange.predicted
        if asked is None or plan is None or not exchange.has_choice:
            return
        if plan.completion_p95_s <= asked.slo_s:
            self.costs[exchange.model].judge(duration_s > asked.slo_s)

    def _wanted_for_s(self, exchange: Exchange) -> float:
        """How long an answer is wanted still: as `Batcher` has it."""
        asked = exchange.objective
        late_s = self.settings.late_limit_s if asked and asked.on_infeasible == "degrade" else 0.0
        return exchange.deadline_s + late_s - self._clock()

    def _request(
        self,
        model: Model,
        picture: Picture,
        objective: Objective,
        exchange: Exchange,
        allowed: tuple[int, ...],
        size: int,
        room: Reservation,
        explain: bool,
    ) -> Request:
        answer_s = self.answer_costs[model.name].predict()
        return Request(
            model=model.name,
            picture=picture,
            arrived_s=exchange.arrived_s,
            deadline_s=exchange.arrived_s + objective.slo_s - answer_s[1],
            allowed=allowed,
            degrade=objective.on_infeasible == "degrade",
            prepare_s=self._preparation.predict_s(model.name, picture, size),
            reply=asyncio.get_running_loop().create_future(),
            room=room,
            pinned=objective.pinned is not None,
            explain=explain,
            answer_s=answer_s,
        )

    def _crop_ratio(self, model: str) -> float:
        return self.executor.model(model).manifest.preprocessing.crop_ratio

    def _fastest_s(self, request: Request) -> float:
        return self.costs[request.model].alone_s(request.allowed)

    def _share_s(self, request: Request) -> float:
        """What it usually adds to a full batch, at its fastest."""
        costs = self.costs[request.model]
        return costs.share_s(request.allowed[0]) * costs.usual


def _policy(name: str) -> Policy:
    try:
        return policy_named(name)
    except ValueError as error:
        raise SettingsError(f"'policy': {error}") from None


async def _all_of(requests: Sequence[Request]) -> list[Reply]:
    """Their replies, or the first error."""
    if len(requests) == 1:
        return [await requests[0].reply]
    return list(await asyncio.gather(*(request.reply for request in requests)))


def _note(replies: Sequence[Reply], exchange: Exchange) -> None:
    last = max(replies, key=lambda reply: reply.predicted.completion_p50_s)
    exchange.replies = replies
    exchange.points = tuple(reply.point.name for reply in replies)
    exchange.reason, exchange.predicted = last.reason, last.predicted
    exchange.phases_s |= last.phases_s


def service_of(request: HttpRequest) -> Service:
    """The service that a route belongs to."""
    found: Any = request.app.state.service
    if not isinstance(found, Service):
        raise TypeError("the application was not made by create_app")
    return found
