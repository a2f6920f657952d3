"""The process: takes its ports, starts the service, runs uvicorn, and stops in good order."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import structlog
import uvicorn
import uvloop
from fastapi import FastAPI

from service.access import check_access, is_loopback
from service.app import create_admin_app, create_app
from service.errors import ServiceError, SettingsError, StartError
from service.keys import Keyring
from service.model import Loader, load_models
from service.protocol import Rules, limited
from service.service import Service
from service.settings import Settings

_log = structlog.get_logger("laud")

SWITCH_S = 0.0002
"""The engine's thread needs the interpreter between two batches: with Python's 5 ms it would stand
still for as long as the event loop has something to do, and so would the event loop behind it."""

_BACKLOG = 1024
# As shells report a process that a signal ended.
_SIGNAL_STATUS = 128
_ABANDON_S = 1.0


def _keep_for_good() -> None:
    """Have the garbage collector leave alone what is here once the service has started.

    Modules, models and tables stay as long as the process does, and are hundreds of thousands of
    objects: a full collection looked at all of them, and everybody waited for 40 to 80 ms.
    """
    gc.collect()
    gc.freeze()


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, which end the process by the signal instead of with 0,
    and which says when it listens."""

    def __init__(self, config: uvicorn.Config, on_listen: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_listen = on_listen

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except OSError as error:
            # Another process bound the port too, and listened first.
            raise StartError(f"cannot listen: {error.strerror or error}") from None
        self._on_listen()


class Front:
    """A service and the sockets it is reached by: one port, or two.

    ports: bound and not yet listening; the second one is the admin port. on_start: called once the
    service has started, before anybody is listened to. Raises SettingsError for
    API keys that cannot be read.
    """

    def __init__(
        self,
        service: Service,
        ports: tuple[socket.socket, ...],
        on_start: Callable[[], None] = lambda: None,
    ) -> None:
        self.service = service
        self._on_start = on_start
        self.is_loading = False
        self._ports = ports
        public = create_app(service)
        apps = (public, create_admin_app(service, public))
        self.keyring: Keyring | None = public.state.keyring
        self._servers = [
            _Server(self._configuration(app), self._note_listening)
            for _, app in zip(ports, apps, strict=False)
        ]
        self._stopping = asyncio.Event()

    async def serve(self) -> None:
        """Start the service, take requests until `stop`, and finish what is in flight then.

        Should it be stopped while it starts, it returns soon, and `is_loading` may still be true: a
        thread loads, and cannot be stopped. Raises LaudError when it cannot start.
        """
        starting = asyncio.ensure_future(self.service.start())
        stopping = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        # The service abandons a start between two steps of it; one step may take long.
        await asyncio.wait((starting,), timeout=_ABANDON_S)
        self.is_loading = not starting.done()
        if self.is_loading:
            return
        try:
            starting.result()
            self._on_start()
            if not self._stopping.is_set():
                await self._listen(stopping)
        finally:
            stopping.cancel()
            await self.service.stop()

    def stop(self) -> None:
        """Not ready at once; new connections are refused, what is in flight finishes."""
        self.service.drain()
        self._stopping.set()

    def reload_keys(self) -> None:
        """Read the API keys again; a file that cannot be used changes nothing."""
        if self.keyring is None:
            return
        try:
            self.keyring.reload()
        except SettingsError as error:
            _log.error("API keys were not read again", error=str(error))
        else:
            _log.info("API keys were read again", keys=len(self.keyring))

    async def _listen(self, stopping: asyncio.Task[Any]) -> None:
        """Until stopped; metrics can be read as long as requests are in flight."""
        tasks: list[asyncio.Task[Any]] = [
            asyncio.ensure_future(server.serve(sockets=[port]))
            for server, port in zip(self._servers, self._ports, strict=True)
        ]
        await asyncio.wait((*tasks, stopping), return_when=asyncio.FIRST_COMPLETED)
        self._servers[0].should_exit = True
        await asyncio.wait(tasks[:1])
        for server in self._servers[1:]:
            server.should_exit = True
        await asyncio.gather(*tasks)

    def _configuration(self, app: FastAPI) -> uvicorn.Config:
        settings = self.service.settings
        return uvicorn.Config(
            app,
            http=limited(Rules(receive_s=settings.receive_limit_s, on_refusal=self._count_refusal)),
            ws="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            lifespan="off",
            backlog=_BACKLOG,
            timeout_graceful_shutdown=math.ceil(settings.drain_s),
            ssl_certfile=settings.tls_certificate,
            ssl_keyfile=settings.tls_key,
        )

    def _count_refusal(self, error: ServiceError) -> None:
        self.service.metrics.requests.labels("", "unknown", error.status, error.code).inc()
        _log.info("refused", status=error.status, outcome=error.code, error=str(error))

    def _note_listening(self) -> None:
        if not all(server.started for server in self._servers):
            return
        settings = self.service.settings
        url = _url(self._ports[0], settings)
        admin = _url(self._ports[1], settings) if len(self._ports) > 1 else None
        _log.info(
            "ready",
            url=url,
            docs=f"{admin or url}/docs",
            tls=settings.tls_certificate is not None,
            api_keys=None if self.keyring is None else len(self.keyring),
            **({} if admin is None else {"admin": admin}),
        )
        if admin is not None and settings.admin_host and not is_loopback(settings.admin_host):
            _log.warning("the admin port asks for no key, and others can reach it",
                         host=settings.admin_host)  # fmt: skip
        if self.keyring is None and not is_loopback(settings.host):
            _log.warning("open to everyone who can reach it", host=settings.host,
                         remedy="laud keys add NAME --file keys.yaml; "
                         "laud serve --api-keys keys.yaml")  # fmt: skip


def run(settings: Settings, loader: Loader = load_models) -> None:
    """Serve until SIGTERM or SIGINT. Raises LaudError when it cannot start."""
    check_access(settings)
    sys.setswitchinterval(SWITCH_S)
    with (
        _taken_ports(settings) as ports,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        front = runner.run(_serve(settings, ports, loader))
    _log.info("stopped")
    if front.is_loading:
        # The interpreter would wait for the thread that loads, and nobody needs what it loads.
        sys.stderr.flush()
        os._exit(0)


async def _serve(settings: Settings, ports: tuple[socket.socket, ...], loader: Loader) -> Front:
    """Serve until a signal comes."""
    front = Front(Service(settings, loader), ports, _keep_for_good)
    was_asked = False

    def stop(number: signal.Signals) -> None:
        nonlocal was_asked
        if was_asked:
            # Who asks twice does not want to wait: not for requests, and not for an engine.
            _log.warning("stopped at once", signal=number.name)
            sys.stderr.flush()
            os._exit(_SIGNAL_STATUS + number)
        was_asked = True
        _log.info("stopping", signal=number.name)
        front.stop()

    # Called by the event loop, not by the interpreter amid any line: a handler that logs while a
    # log line is being written would wait for itself.
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    if front.keyring is not None:
        loop.add_signal_handler(signal.SIGHUP, front.reload_keys)
    await front.serve()
    return front


@contextmanager
def _taken_ports(settings: Settings) -> Iterator[tuple[socket.socket, ...]]:
    """Bound sockets that do not listen yet, so that a port in use is told before loading."""
    with ExitStack() as stack:
        ports = [stack.enter_context(take_port(settings.host, settings.port))]
        if settings.admin_port is not None:
            host = settings.admin_host or "127.0.0.1"
            ports.append(stack.enter_context(take_port(host, settings.admin_port, "--admin-port")))
        yield tuple(ports)


def take_port(host: str, port: int, option: str = "--port") -> socket.socket:
    """A bound socket that does not listen yet. Raises StartError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise StartError(f"cannot resolve host '{host}': {error.strerror}") from None
    family, kind, protocol, _, address = found[0]
    taken = socket.socket(family, kind, protocol)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind(address)
    except OSError as error:
        taken.close()
        raise StartError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another with {option}"
        ) from None
    return taken


def _url(port: socket.socket, settings: Settings) -> str:
    host, number = port.getsockname()[:2]
    scheme = "https" if settings.tls_certificate is not None else "http"
    return f"{scheme}://[{host}]:{number}" if ":" in host else f"{scheme}://{host}:{number}"
