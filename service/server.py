"""The process: takes the port, starts the service, runs uvicorn, and stops in good order."""

from __future__ import annotations

import asyncio
import math
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
import uvicorn
import uvloop

from service.app import create_app
from service.errors import StartError
from service.executor import Loader, load_models
from service.service import Service
from service.settings import Settings

_log = structlog.get_logger("laud")

_BACKLOG = 1024


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, which end the process by the signal instead of with 0,
    and which says where it listens once it does."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except OSError as error:
            # Another process bound the port too, and listened first.
            raise StartError(f"cannot listen: {error.strerror or error}") from None
        for taken in sockets or ():
            host, port = taken.getsockname()[:2]
            url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            _log.info("ready", url=url, docs=f"{url}/docs")


def run(settings: Settings, loader: Loader = load_models) -> None:
    """Serve until SIGTERM or SIGINT. Raises LaudError when it cannot start."""
    with (
        _taken_port(settings) as taken,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(_serve(settings, taken, loader))


async def _serve(settings: Settings, taken: socket.socket, loader: Loader) -> None:
    service = Service(settings, loader)
    server = _Server(
        uvicorn.Config(
            create_app(service),
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            backlog=_BACKLOG,
            timeout_graceful_shutdown=math.ceil(settings.drain_s),
        )
    )

    def stop(number: signal.Signals) -> None:
        _log.info("stopping", signal=number.name)
        service.drain()
        # Who asks twice does not want to wait for the requests in flight.
        server.force_exit = server.should_exit
        server.should_exit = True

    # Called by the event loop, not by the interpreter amid any line: a handler that logs while a
    # log line is being written would wait for itself.
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    try:
        await service.start()
        if not server.should_exit:
            await server.serve(sockets=[taken])
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
