"""Who may use the service: API keys, a cap per key, TLS, and other origins in browsers.

Pure ASGI middleware: nothing here stands between the application and a client's disconnect.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections import Counter
from collections.abc import Iterable

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import QueueFull, ServiceError, SettingsError, Unauthorized, error_response
from service.keys import Keyring
from service.request import Exchange
from service.settings import Settings

OPEN_PATHS = frozenset({"/v2/health/live", "/v2/health/ready"})
"""What probes ask, without a key: it tells nothing but whether the process lives and is ready."""

KEY_HEADER = "x-api-key"
_CHALLENGE = {"www-authenticate": 'Bearer realm="laudserve"'}
_EXPOSED = ("x-request-id", "server-timing", "retry-after", "inference-header-content-length")


class KeysRequired:
    """ASGI middleware: lets in who has a key, notes whose it is, and bounds what one may have in
    flight. Stands behind the one that makes the Exchange."""

    def __init__(self, app: ASGIApp, keyring: Keyring, max_in_flight: int | None) -> None:
        self._app, self._keyring, self._max_in_flight = app, keyring, max_in_flight
        self._in_flight: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        exchange: Exchange = scope["state"]["exchange"]
        try:
            name = self._admit(scope["headers"])
        except ServiceError as error:
            response = error_response(error, exchange)
            if isinstance(error, Unauthorized):
                response.headers.update(_CHALLENGE)
            await response(scope, receive, send)
            return
        exchange.key = name
        self._in_flight[name] += 1
        try:
            if self._max_in_flight is not None and self._in_flight[name] > self._max_in_flight:
                full = QueueFull(
                    f"key '{name}' has {self._max_in_flight} requests in flight, which is its limit"
                )
                await error_response(full, exchange)(scope, receive, send)
                return
            await self._app(scope, receive, send)
        finally:
            self._in_flight[name] -= 1
            if not self._in_flight[name]:
                del self._in_flight[name]

    def _admit(self, headers: Iterable[tuple[bytes, bytes]]) -> str:
        key = given_key(headers)
        if key is None:
            raise Unauthorized(
                f"an API key is needed: send 'authorization: Bearer KEY' or '{KEY_HEADER}: KEY'"
            )
        name = self._keyring.owner(key)
        if name is None:
            raise Unauthorized("this API key is not known here")
        return name


def given_key(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The key in a request's headers (names in lower case); a bearer token outranks `x-api-key`."""
    found: str | None = None
    for name, value in headers:
        if name == b"authorization":
            scheme, _, token = value.decode("latin-1").partition(" ")
            if scheme.lower() == "bearer" and token.strip():
                return token.strip()
        elif name == KEY_HEADER.encode():
            found = value.decode("latin-1").strip() or found
    return found


def install_access(app: FastAPI, settings: Settings) -> None:
    """Add what the settings ask for; `app.state.keyring` is the Keyring, or None.

    Raises SettingsError for a key file that cannot be used. Answers to a wrong key have CORS
    headers too: a browser would hide the reason otherwise.
    """
    app.state.keyring = None
    if settings.api_keys is not None:
        app.state.keyring = Keyring(settings.api_keys)
        app.add_middleware(
            KeysRequired,
            keyring=app.state.keyring,
            max_in_flight=settings.max_in_flight_per_key,
        )
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=_EXPOSED,
        )


def check_access(settings: Settings) -> None:
    """Raise SettingsError for settings that contradict each other or files that cannot be used.

    Before models load, because that takes long.
    """
    if settings.max_in_flight_per_key is not None and settings.api_keys is None:
        raise SettingsError("max_in_flight_per_key counts per API key: set api_keys too")
    if settings.admin_host is not None and settings.admin_port is None:
        raise SettingsError("admin_host is where the admin port listens: set admin_port too")
    certificate, key = settings.tls_certificate, settings.tls_key
    if certificate is None and key is None:
        return
    if certificate is None or key is None:
        missing = "tls_certificate" if certificate is None else "tls_key"
        raise SettingsError(f"TLS needs a certificate and its key: {missing} is not set")
    for path in (certificate, key):
        try:
            path.read_bytes()
        except OSError as error:
            raise SettingsError(f"cannot read {path} for TLS: {error.strerror}") from None
    try:
        # The password: one that is wrong, because OpenSSL would ask for it on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, lambda: "?")
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"{certificate} and {key} cannot be used for TLS: they must be a PEM certificate and "
            f"its private key without a password ({' '.join(str(error).split())})"
        ) from None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there; names other than localhost count as
    reachable."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
