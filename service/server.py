"""The process: takes the port, starts the service, runs uvicorn, and stops in good order."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import structlog
import uvicorn

from service.app import create_app
from service.errors import StartError
from service.executor import Loader, load_models
from service.service import Service
from service.settings import Settings

_log = structlog.get_logger("laud")

_BACKLOG = 1024


class _Server(uvicorn.Server):
    """uvicorn, but a signal makes the service not ready at once, and the process exits with 0."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        _log.info("stopping", signal=signal.Signals(sig).name)
        self._service.drain()
        super().handle_exit(sig, frame)


def run(settings: Settings, loader: Loader = load_models) -> None:
    """Serve until SIGTERM or SIGINT. Raises LaudError when it cannot start."""
    with _taken_port(settings) as taken:
        asyncio.run(_serve(settings, taken, loader))


async def _serve(settings: Settings, taken: socket.socket, loader: Loader) -> None:
    service = Service(settings, loader)
    host, port = taken.getsockname()[:2]
    try:
        await service.start()
        config = uvicorn.Config(
            create_app(service),
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            backlog=_BACKLOG,
            timeout_graceful_shutdown=int(settings.drain_s) or 1,
        )
        shown = f"[{host}]" if ":" in host else host
        _log.info("ready", url=f"http://{shown}:{port}", docs=f"http://{shown}:{port}/docs")
        await _Server(config, service).serve(sockets=[taken])
    finally:
        await service.stop()
    _log.info("stopped")


@contextmanager
def _taken_port(settings: Settings) -> Iterator[socket.socket]:
    """A bound socket that does not listen yet, so that a port in use is told before loading."""
    try:
        found = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise StartError(f"cannot resolve host '{settings.host}': {error.strerror}") from None
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(address)
        except OSError as error:
            raise StartError(
                f"cannot listen on {settings.host}:{settings.port}: {error.strerror}; "
                "choose another with --port"
            ) from None
        yield taken
