"""Who is let in: API keys, the cap per key, other origins, and settings that contradict."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest

from service.access import check_access, given_key, is_loopback
from service.errors import SettingsError
from service.keys import KeyFile, new_key, write_keys
from service.settings import Settings
from tests.service.conftest import Running, Serving
from tests.service.scripted import PATIENCE_S, jpeg

CLASSIFY = "/v1/classify"
ALICE, BOB = new_key(), new_key()

pytestmark = pytest.mark.anyio


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A file with the keys of two people."""
    path = tmp_path / "keys.yaml"
    today = datetime.date(2026, 1, 2)
    write_keys(path, KeyFile().with_key("alice", ALICE, today).with_key("bob", BOB, today))
    return path


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {ALICE}"},
        {"authorization": f"bearer  {ALICE} "},
        {"x-api-key": ALICE},
        {"authorization": f"Bearer {ALICE}", "x-api-key": "wrong"},
        {"authorization": "Basic YTpi", "x-api-key": ALICE},
    ],
)
async def test_a_key_is_let_in_and_its_name_is_logged(
    serving: Serving,
    keys: Path,
    logged: list[MutableMapping[str, Any]],
    headers: dict[str, str],
) -> None:
    async with serving(api_keys=keys) as running:
        answer = await running.client.post(CLASSIFY, content=jpeg(), headers=headers)
        assert answer.status_code == 200
    (line,) = [line for line in logged if line["event"] == "request"]
    assert line["key"] == "alice"
    assert ALICE not in str(logged)


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "an API key is needed: send 'authorization: Bearer KEY' or 'x-api-key: KEY'"),
        ({"authorization": "Bearer "}, "an API key is needed"),
        ({"authorization": f"Basic {ALICE}"}, "an API key is needed"),
        ({"x-api-key": ""}, "an API key is needed"),
        ({"x-api-key": "laud_x"}, "this API key is not known here"),
        ({"x-api-key": f"{ALICE}, {BOB}"}, "this API key is not known here"),
        ({"authorization": "Bearer wrong", "x-api-key": ALICE}, "this API key is not known here"),
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", CLASSIFY), ("GET", "/v1/models"), ("GET", "/metrics"), ("GET", "/docs"),
     ("GET", "/openapi.json"), ("GET", "/v2/models/colours/ready"), ("GET", "/nowhere"),
     ("GET", "/v2/health/ready/")],
)  # fmt: skip
async def test_everything_else_is_refused(
    serving: Serving, keys: Path, headers: dict[str, str], reason: str, method: str, path: str
) -> None:
    async with serving(api_keys=keys) as running:
        answer = await running.client.request(method, path, headers=headers)
    assert answer.status_code == 401
    assert answer.json().keys() == {"error"}
    assert answer.json()["error"].startswith(reason)
    assert answer.headers["www-authenticate"] == 'Bearer realm="laudserve"'


async def test_probes_need_no_key(serving: Serving, keys: Path) -> None:
    async with serving(api_keys=keys) as running:
        for path in ("/v2/health/live", "/v2/health/ready"):
            assert (await running.client.get(path)).status_code == 200


async def test_without_a_file_everybody_is_let_in(running: Running) -> None:
    assert (await running.client.get("/metrics")).status_code == 200


async def test_one_key_cannot_take_all(serving: Serving, keys: Path) -> None:
    async with serving(api_keys=keys, max_in_flight_per_key=1) as running:
        running.engine.hold()
        first = asyncio.ensure_future(
            running.client.post(CLASSIFY, content=jpeg(), headers=bearer(ALICE))
        )
        await asyncio.to_thread(running.engine.entered.wait, PATIENCE_S)
        full = await running.client.post(CLASSIFY, content=jpeg(), headers=bearer(ALICE))
        assert full.status_code == 429
        assert full.json()["error"] == "key 'alice' has 1 requests in flight, which is its limit"
        assert int(full.headers["retry-after"]) >= 1
        other = asyncio.ensure_future(
            running.client.post(CLASSIFY, content=jpeg(), headers=bearer(BOB))
        )
        assert (await running.client.get("/v2/health/live")).status_code == 200
        running.engine.release()
        assert (await first).status_code == 200
        assert (await other).status_code == 200
        # What has ended, well or badly, is in flight no more.
        for content, status in ((b"text", 415), (jpeg(), 200), (jpeg(), 200)):
            again = await running.client.post(CLASSIFY, content=content, headers=bearer(ALICE))
            assert again.status_code == status


async def test_other_origins_are_refused_by_browsers_unless_named(running: Running) -> None:
    answer = await running.client.get("/v1/models", headers={"origin": "https://a.example"})
    assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_named_origins_may_ask_and_read_why_they_may_not(
    serving: Serving, keys: Path
) -> None:
    origin = {"origin": "https://a.example"}
    async with serving(api_keys=keys, cors_origins=("https://a.example",)) as running:
        asking = {
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,x-slo-ms",
        }
        preflight = await running.client.options(CLASSIFY, headers=origin | asking)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://a.example"
        refused = await running.client.post(CLASSIFY, headers=origin)
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://a.example"
        answer = await running.client.post(CLASSIFY, content=jpeg(), headers=origin | bearer(ALICE))
        assert answer.status_code == 200
        assert "server-timing" in answer.headers["access-control-expose-headers"]
        other = await running.client.get(
            "/v1/models", headers={"origin": "https://b.example"} | bearer(ALICE)
        )
        assert "access-control-allow-origin" not in other.headers


def test_the_bearer_token_outranks_the_other_header() -> None:
    both = [(b"x-api-key", b"second"), (b"authorization", b"Bearer first")]
    assert given_key(both) == "first"
    assert given_key(reversed(both)) == "first"
    assert given_key([(b"authorization", b"\xff\xfe")]) is None
    assert given_key([(b"x-api-key", b"\xff")]) == "ÿ"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"max_in_flight_per_key": 2}, "set api_keys too"),
        ({"admin_host": "::"}, "set admin_port too"),
    ],
)
def test_settings_that_contradict_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        check_access(Settings(**options))


async def test_a_key_file_that_cannot_be_used_is_told_before_anything_starts(
    serving: Serving, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="cannot read the API keys"):
        async with serving(start=False, api_keys=tmp_path / "absent.yaml"):
            pass


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True),
     ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("example.org", False)],
)  # fmt: skip
def test_what_only_this_machine_reaches(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
