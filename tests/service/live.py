"""A whole service on real sockets, in a thread of this process: the code that `laud serve` runs."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import structlog
import uvloop

from service.access import check_access
from service.model import Model
from service.server import Front, take_port
from service.service import Service
from service.settings import Settings
from tests.service.listening import Answer, Client, connect, head
from tests.service.scripted import PATIENCE_S, ScriptedEngine, jpeg, loader_of, model, profile

CLASSIFY = "/v1/classify"
Line = MutableMapping[str, Any]


@dataclass(frozen=True)
class Live:
    """A service that serves. lines: what it logs, as it logs it; the log lines of requests come
    when they are over."""

    front: Front
    engine: ScriptedEngine
    lines: queue.Queue[Line]
    ports: tuple[int, ...]
    loop: asyncio.AbstractEventLoop

    @property
    def port(self) -> int:
        """The public one."""
        return self.ports[0]

    def connect(self) -> Client:
        """A client of the public port."""
        return connect(self.port)

    def line(self, event: str = "request") -> Line:
        """The next log line of that event."""
        while True:
            found = self.lines.get(timeout=PATIENCE_S)
            if found["event"] == event:
                return found

    def metric(self, name: str, **labels: str) -> float:
        """A sample of the metrics; 0 where there is none."""
        value = self.front.service.metrics.registry.get_sample_value(name, labels)
        return value or 0.0

    def until(self, expected: float, name: str, **labels: str) -> None:
        """Look at a sample until it has that value."""
        for _ in range(10_000):
            if self.metric(name, **labels) == expected:
                return
            self.loop_round()
        raise AssertionError(f"{name} is {self.metric(name, **labels)}, expected {expected}")

    def loop_round(self) -> None:
        """Wait for the event loop to do what is due."""
        done = threading.Event()
        self.loop.call_soon_threadsafe(done.set)
        assert done.wait(PATIENCE_S)

    def stop(self) -> None:
        """What a first SIGTERM does."""
        self.loop.call_soon_threadsafe(self.front.stop)


def classify(body: bytes = b"", **headers: object) -> bytes:
    """A whole request for `POST /v1/classify`."""
    body = body or jpeg()
    return head("POST", CLASSIFY, content_length=len(body), **headers) + body


def ask(port: int, request: bytes) -> Answer:
    """The answer to one request on a connection of its own."""
    with connect(port) as client:
        client.send(request)
        return client.answer()


@contextmanager
def live(served: Model | None = None, **options: Any) -> Iterator[Live]:
    """One model, `colours` unless given, with these settings, until the block ends; then it stops
    in good order.

    A minute is enough for every request that does not say otherwise.
    """
    options.setdefault("slo_classes", {"default": {"slo_ms": 60_000.0}})
    settings = Settings(**options)
    check_access(settings)
    served = served or model()
    engine = served.engine
    assert isinstance(engine, ScriptedEngine)
    lines: queue.Queue[Line] = queue.Queue()
    started: queue.Queue[tuple[Front, asyncio.AbstractEventLoop]] = queue.Queue()
    ports = [take_port("127.0.0.1", 0) for _ in range(1 if settings.admin_port is None else 2)]

    def note(logger: object, method: str, line: Line) -> Line:
        lines.put(dict(line))
        return line

    async def serve() -> None:
        front = Front(Service(settings, loader_of(served), profile), tuple(ports))
        started.put((front, asyncio.get_running_loop()))
        await front.serve()

    def run() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve())

    processors = structlog.get_config()["processors"]
    processors.insert(0, note)
    thread = threading.Thread(target=run)
    thread.start()
    try:
        front, loop = started.get(timeout=PATIENCE_S)
        numbers = tuple(port.getsockname()[1] for port in ports)
        running = Live(front, engine, lines, numbers, loop)
        try:
            running.line("ready")
            engine.entered.clear()
            yield running
        finally:
            engine.release()
            if not loop.is_closed():
                running.stop()
    finally:
        thread.join(PATIENCE_S)
        processors.remove(note)
        for port in ports:
            port.close()
    assert not thread.is_alive()
