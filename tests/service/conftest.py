"""A running service and a client of it, and the command, in one process and without a socket."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from engines import registry
from service.app import create_app
from service.cli import main
from service.executor import Model
from service.service import Service
from service.settings import Settings
from tests.service.commands import Done, Laud
from tests.service.scripted import ScriptedEngine, loader_of, model


@dataclass(frozen=True)
class Running:
    """A started service, a client of its application, and the engine of its first model."""

    service: Service
    client: httpx.AsyncClient
    engine: ScriptedEngine

    async def metric(self, name: str, **labels: str) -> float:
        """A sample of /metrics; 0 where there is none."""
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
def logged() -> Iterator[list[MutableMapping[str, Any]]]:
    """What is logged during the test, one mapping a line."""
    with capture_logs() as lines:
        yield lines


@pytest.fixture
def serving() -> Serving:
    """`async with serving(*models, **settings) as running`; one model `colours` unless given."""

    @asynccontextmanager
    async def serve(*models: Model, start: bool = True, **options: Any) -> AsyncIterator[Running]:
        served = models or (model(),)
        service = Service(Settings(**options), loader_of(*served))
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
