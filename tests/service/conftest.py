"""A running service and a client of it, and the command, in one process and without a socket."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import structlog
from structlog.testing import capture_logs

from engines import registry
from service.app import create_app
from service.cli import main
from service.model import Model
from service.policy.core import Policy
from service.service import Service
from service.settings import Settings
from tests.service.commands import Done, Laud
from tests.service.manual import Manual, ManualService
from tests.service.scripted import ScriptedEngine, loader_of, model, profile


@dataclass(frozen=True)
class Running:
    """A started service, a client of its application, and the engine of its first model."""

    service: Service
    client: httpx.AsyncClient
    engine: ScriptedEngine

    async def metric(self, name: str, **labels: str) -> float:
        """A sample of /metrics; 0 where there is none. As for who asks over a connection, the event
        loop has had its turn since the last answer."""
        await asyncio.sleep(0)
        value = self.service.metrics.registry.get_sample_value(name, labels)
        return value or 0.0


Serving = Callable[..., AbstractAsyncContextManager[Running]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's own LAUD_* variables reach these tests."""
    for variable in [name for name in os.environ if name.startswith("LAUD_")]:
        monkeypatch.delenv(variable)


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """A command that sets up logs does so for the process; it ends with the test."""
    root = logging.getLogger()
    before = (structlog.get_config(), root.handlers[:], root.level)
    yield
    structlog.configure(**before[0])
    root.handlers[:], root.level = before[1:]


@pytest.fixture(autouse=True)
def logged(logging_as_before: None) -> Iterator[list[MutableMapping[str, Any]]]:
    """What is logged during the test, one mapping a line."""
    with capture_logs() as lines:
        yield lines


@pytest.fixture
def serving() -> Serving:
    """`async with serving(*models, **settings) as running`; one model `colours` unless given.

    Unless there are classes in the settings, a minute is enough for everything.
    """

    @asynccontextmanager
    async def serve(*models: Model, start: bool = True, **options: Any) -> AsyncIterator[Running]:
        served = models or (model(),)
        options.setdefault("slo_classes", {"default": {"slo_ms": 60_000.0}})
        service = Service(Settings(**options), loader_of(*served), profile)
        if start:
            await service.start()
        transport = httpx.ASGITransport(create_app(service))
        engine = served[0].engine
        assert isinstance(engine, ScriptedEngine)
        engine.batches.clear()
        engine.entered.clear()
        async with httpx.AsyncClient(transport=transport, base_url="http://laud") as client:
            try:
                yield Running(service, client, engine)
            finally:
                engine.release()
                await service.stop()

    return serve


@pytest.fixture
def manual() -> Iterator[Manual]:
    """`manual(policy=None, **settings)`: a service whose time and threads are the test's."""
    made: list[ManualService] = []

    def make(policy: Policy | None = None, **settings: Any) -> ManualService:
        made.append(ManualService(policy, **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()
        assert each.complaints == []


@pytest.fixture
async def running(serving: Serving) -> AsyncIterator[Running]:
    """One model with the settings as they are when nothing is set."""
    async with serving() as started:
        yield started


@pytest.fixture
def laud(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Laud:
    """`laud(*arguments)` in this process."""

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["laud", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Done(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> ScriptedEngine:
    """What `--engine scripted` loads."""
    engine = ScriptedEngine()
    monkeypatch.setitem(registry._ENGINES, "scripted", lambda bundle, threads, precision: engine)
    return engine
