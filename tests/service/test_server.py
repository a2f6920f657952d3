"""The real process on a real socket: public clients, disconnects, signals, refusals to start."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from engines.bundle import WEIGHTS
from tests.service.process import ROOT, Served, bundle_in, command, environment, served, stop
from tests.service.scripted import PATIENCE_S, jpeg, pixels

pytestmark = pytest.mark.e2e

CLASSIFY = "/v1/classify"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for the tests that leave it as it was; a signal then ends it in good order."""
    with served(tmp_path_factory.mktemp("served")) as running:
        yield running
        assert stop(running.process) == 0


@pytest.fixture
def triton(server: Served) -> Iterator[Any]:
    """NVIDIA's client, as it is published."""
    http = pytest.importorskip("tritonclient.http")
    with http.InferenceServerClient(server.url.removeprefix("http://")) as client:
        yield client


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
    for _ in range(2000):
        if sample(url, name, **labels) == expected:
            return
    pytest.fail(f"{name} did not become {expected}")


def test_triton_client_asks_for_health_and_metadata(triton: Any) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("colours")
    assert triton.is_model_ready("colours", "1")
    assert not triton.is_model_ready("other")
    assert triton.get_server_metadata()["name"] == "laudserve"
    assert triton.get_model_metadata("colours")["outputs"][0]["name"] == "probabilities"
    assert triton.get_model_config("colours")["max_batch_size"] == 32


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_triton_client_sends_arrays(triton: Any, binary: bool) -> None:
    import tritonclient.http as http

    images = np.stack([pixels("green"), pixels("blue")])
    tensor = http.InferInput("image", list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images, binary_data=binary)
    wanted = [
        http.InferRequestedOutput("probabilities", binary_data=binary),
        http.InferRequestedOutput("label", binary_data=binary),
    ]
    answer = triton.infer("colours", [tensor], outputs=wanted, request_id="mine")
    assert answer.as_numpy("probabilities").argmax(axis=1).tolist() == [1, 2]
    assert answer.as_numpy("probabilities").dtype == np.float32
    labels = [label.decode() if binary else label for label in answer.as_numpy("label")]
    assert labels == ["green", "blue"]
    assert answer.get_response()["id"] == "mine"


def test_triton_client_sends_files(triton: Any) -> None:
    import tritonclient.http as http

    files = np.array([jpeg("blue"), jpeg("red")], object)
    tensor = http.InferInput("image_bytes", [2], "BYTES")
    tensor.set_data_from_numpy(files)
    answer = triton.infer("colours", [tensor], parameters={"operating_point": "small"})
    assert answer.as_numpy("label").tolist() == [b"blue", b"red"]
    assert answer.get_response()["parameters"]["operating_point"] == "small"
    best = http.InferRequestedOutput("probabilities", class_count=1)
    answer = triton.infer("colours", [tensor], outputs=[best])
    assert [text.split(b":")[2] for (text,) in answer.as_numpy("probabilities")] == [
        b"blue", b"red",
    ]  # fmt: skip


def test_triton_client_hears_what_was_wrong(triton: Any) -> None:
    import tritonclient.http as http

    tensor = http.InferInput("image", [1, 3, 32, 32], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, 3, 32, 32), np.float32))
    with pytest.raises(http.InferenceServerException, match="expected UINT8: send 'image' UINT8"):
        triton.infer("colours", [tensor])
    tensor = http.InferInput("image_bytes", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([jpeg()], object))
    with pytest.raises(http.InferenceServerException, match="content-encoding 'gzip'"):
        triton.infer("colours", [tensor], request_compression_algorithm="gzip")
    assert triton.infer("colours", [tensor]).as_numpy("label").tolist() == [b"red"]


def test_a_body_over_the_limit_is_answered_and_the_server_lives_on(server: Served) -> None:
    refused = post(server.url, bytes(10 * 2**20 + 1))
    assert refused.status_code == 413
    assert refused.json().keys() == {"error"}
    assert post(server.url, jpeg()).status_code == 200


def test_a_client_that_leaves_the_queue_costs_nothing(server: Served) -> None:
    ran = sample(server.url, "laud_batch_size_sum", model="colours")
    gone = sample(server.url, "laud_requests_total", outcome="cancelled")
    os.mkfifo(server.pipe)
    with ThreadPoolExecutor(1) as threads:
        stays = threads.submit(post, server.url, jpeg("blue"))
        with server.held():
            host, port = server.url.removeprefix("http://").split(":")
            with socket.create_connection((host, int(port))) as leaves:
                head = (
                    f"POST {CLASSIFY} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(jpeg())}\r\n\r\n"
                )
                leaves.sendall(head.encode() + jpeg())
                wait_for(server.url, 1, "laud_queue_depth", model="colours")
            wait_for(server.url, gone + 1, "laud_requests_total", outcome="cancelled")
            wait_for(server.url, 0, "laud_queue_depth", model="colours")
            wait_for(server.url, 1, "laud_images_in_flight")
        assert stays.result(PATIENCE_S).json()["labels"][0]["label"] == "blue"
    assert sample(server.url, "laud_batch_size_sum", model="colours") == ran + 1
    assert sample(server.url, "laud_images_in_flight") == 0


def test_a_client_that_leaves_while_sending_is_counted(server: Served) -> None:
    gone = sample(server.url, "laud_requests_total", outcome="cancelled")
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as leaves:
        leaves.sendall(
            f"POST {CLASSIFY} HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nhalf".encode()
        )
    wait_for(server.url, gone + 1, "laud_requests_total", outcome="cancelled")
    assert post(server.url, jpeg()).status_code == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_requests_in_flight_finish(tmp_path: Path, number: signal.Signals) -> None:
    with served(tmp_path) as server, ThreadPoolExecutor(2) as threads:
        os.mkfifo(server.pipe)
        first = threads.submit(post, server.url, jpeg("blue"))
        with server.held():
            second = threads.submit(post, server.url, jpeg("green"))
            wait_for(server.url, 1, "laud_queue_depth", model="colours")
            server.process.send_signal(number)
            assert server.log_until("stopping")["signal"] == number.name
        assert first.result(PATIENCE_S).json()["labels"][0]["label"] == "blue"
        assert second.result(PATIENCE_S).json()["labels"][0]["label"] == "green"
        server.log_until("stopped")
        assert server.process.wait(PATIENCE_S) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(server.url)


def test_a_signal_while_loading_stops_before_anything_is_served(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    process = subprocess.Popen(
        command("serve", str(bundle_in(tmp_path)), "--engine", "scripted", "--port", "0"),
        cwd=ROOT, env=environment(SCRIPTED_PIPE=str(pipe)), stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        with pipe.open("wb"):
            pipe.unlink()
            process.send_signal(signal.SIGTERM)
            for line in process.stderr or ():
                if b"stopping" in line:
                    break
        _, log = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == 0
    assert b'"ready"' not in log


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
