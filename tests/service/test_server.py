"""The real process on a real socket: signals, ports, keys read again, refusals to start."""

from __future__ import annotations

import datetime
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from engines.bundle import WEIGHTS
from service.keys import KeyFile, new_key, write_keys
from tests.service.process import ROOT, Served, bundle_in, command, environment, served, stop
from tests.service.scripted import PATIENCE_S, jpeg

pytestmark = pytest.mark.e2e

CLASSIFY = "/v1/classify"
TODAY = datetime.date(2026, 1, 2)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for the tests that leave it as it was; a signal then ends it in good order."""
    with served(tmp_path_factory.mktemp("served")) as running:
        yield running
        assert stop(running.process) == 0


def post(url: str, body: bytes) -> httpx.Response:
    return httpx.post(f"{url}{CLASSIFY}", content=body, timeout=PATIENCE_S)


def sample(url: str, name: str, **labels: str) -> float:
    page = httpx.get(f"{url}/metrics", timeout=PATIENCE_S).text
    for family in text_string_to_metric_families(page):
        for found in family.samples:
            if found.name == name and labels.items() <= found.labels.items():
                return float(found.value)
    return 0.0


def wait_for(url: str, expected: float, name: str, **labels: str) -> None:
    """Ask for the metrics until one has that value."""
    until_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < until_s:
        if sample(url, name, **labels) == expected:
            return
    pytest.fail(f"{name} did not become {expected}")


def test_a_body_over_the_limit_is_answered_and_the_server_lives_on(server: Served) -> None:
    refused = post(server.url, bytes(10 * 2**20 + 1))
    assert refused.status_code == 413
    assert refused.json().keys() == {"error"}
    assert post(server.url, jpeg()).status_code == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_requests_in_flight_finish(tmp_path: Path, number: signal.Signals) -> None:
    with served(tmp_path) as server, ThreadPoolExecutor(2) as threads:
        os.mkfifo(server.pipe)
        first = threads.submit(post, server.url, jpeg("blue"))
        with server.held():
            second = threads.submit(post, server.url, jpeg("green"))
            wait_for(server.url, 2, "laud_images_in_flight")
            server.process.send_signal(number)
            assert server.log_until("stopping")["signal"] == number.name
        assert first.result(PATIENCE_S).json()["labels"][0]["label"] == "blue"
        assert second.result(PATIENCE_S).json()["labels"][0]["label"] == "green"
        server.log_until("stopped")
        assert server.process.wait(PATIENCE_S) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(server.url)


def test_a_second_signal_ends_it_at_once_and_its_status_says_so(tmp_path: Path) -> None:
    with served(tmp_path) as server, ThreadPoolExecutor(1) as threads:
        os.mkfifo(server.pipe)
        running = threads.submit(post, server.url, jpeg())
        with server.held():
            server.process.send_signal(signal.SIGTERM)
            server.log_until("stopping")
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(PATIENCE_S) == 128 + signal.SIGTERM
        with pytest.raises(httpx.TransportError):
            running.result(PATIENCE_S)


def test_a_signal_while_loading_ends_it_though_a_thread_still_loads(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    process = subprocess.Popen(
        command("serve", str(bundle_in(tmp_path)), "--engine", "scripted", "--port", "0"),
        cwd=ROOT, env=environment(SCRIPTED_PIPE=str(pipe)), stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        # Until it is closed, the first call of the engine does not return.
        with pipe.open("wb"):
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == 0
    assert b"stopping" in log
    assert b'"ready"' not in log


def test_keys_are_read_again_on_sighup(tmp_path: Path) -> None:
    keys = tmp_path / "keys.yaml"
    alice, bob = new_key(), new_key()
    write_keys(keys, KeyFile().with_key("alice", alice, TODAY))
    with served(tmp_path, "--api-keys", str(keys)) as server:
        models = f"{server.url}/v1/models"
        assert httpx.get(models).status_code == 401
        assert httpx.get(models, headers={"x-api-key": alice}).status_code == 200
        write_keys(keys, KeyFile().with_key("bob", bob, TODAY))
        server.process.send_signal(signal.SIGHUP)
        assert server.log_until("API keys were read again")["keys"] == 1
        assert httpx.get(models, headers={"x-api-key": alice}).status_code == 401
        assert httpx.get(models, headers={"x-api-key": bob}).status_code == 200
        keys.write_text("nonsense", "utf-8")
        server.process.send_signal(signal.SIGHUP)
        server.log_until("API keys were not read again")
        assert httpx.get(models, headers={"x-api-key": bob}).status_code == 200


def test_metrics_on_a_port_of_their_own(tmp_path: Path) -> None:
    with served(tmp_path, "--admin-port", "0") as server:
        assert httpx.get(f"{server.url}/metrics").status_code == 404
        admin = str(server.ready["admin"])
        assert admin.startswith("http://127.0.0.1:")
        assert httpx.get(f"{admin}/metrics").status_code == 200
        assert server.ready["docs"] == f"{admin}/docs"
        assert stop(server.process) == 0


def refused(*arguments: str, **variables: str) -> str:
    """What `laud serve` prints instead of starting: one line, and exit status 2."""
    done = subprocess.run(
        command("serve", *arguments),
        cwd=ROOT, env=environment(**variables), capture_output=True, text=True, check=False,
        timeout=PATIENCE_S,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("laud: ")
    assert "Traceback" not in done.stderr
    return line


def test_a_bundle_with_a_flipped_byte_is_refused_with_the_reason(tmp_path: Path) -> None:
    """Every other damage is in test_cli, which needs no process for it."""
    bundle = bundle_in(tmp_path)
    weights = bytearray((bundle / WEIGHTS).read_bytes())
    weights[-1] ^= 1
    (bundle / WEIGHTS).write_bytes(weights)
    line = refused(str(bundle), "--engine", "scripted", "--port", "0")
    assert "is damaged: its hash does not match the manifest" in line


def test_wrong_settings_are_refused_by_name(tmp_path: Path) -> None:
    config = tmp_path / "laud.yaml"
    config.write_text("max_quue: 3\n", "utf-8")
    assert "did you mean 'max_queue'?" in refused("zoo:x", LAUD_CONFIG=str(config))


def test_a_server_of_nothing_is_refused() -> None:
    assert "name a bundle to serve" in refused()


def test_a_port_in_use_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        line = refused(str(bundle_in(tmp_path)), "--engine", "scripted", "--port", str(port))
    assert f"cannot listen on 127.0.0.1:{port}" in line


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--api-keys", "absent.yaml"), "cannot read the API keys absent.yaml: No such file"),
        (("--tls-key", "key.pem"), "TLS needs a certificate and its key: tls_certificate is not"),
        (("--admin-host", "0.0.0.0"), "admin_host is where the admin port listens"),
    ],
)
def test_access_that_cannot_work_is_told_before_loading(
    options: tuple[str, ...], reason: str
) -> None:
    assert reason in refused("zoo:absent", "--port", "0", *options)


def test_an_admin_port_in_use_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        line = refused(str(bundle_in(tmp_path)), "--port", "0", "--admin-port", port)
    assert f"cannot listen on 127.0.0.1:{port}" in line
    assert line.endswith("choose another with --admin-port")


def test_what_stays_is_no_longer_looked_through_for_garbage() -> None:
    code = (
        "import gc; from service.server import _keep_for_good; before = len(gc.get_objects()); "
        "_keep_for_good(); print(before, gc.get_freeze_count(), len(gc.get_objects()))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, kept, looked_through = map(int, told.stdout.split())
    assert kept > 0.9 * before
    assert looked_through < 0.1 * before
