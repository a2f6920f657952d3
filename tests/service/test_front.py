"""The served application over real sockets: who leaves when, what is slow, and how it stops."""

from __future__ import annotations

import gzip
import itertools
import shutil
import ssl
import subprocess
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from service.access import check_access
from service.errors import SettingsError
from service.settings import Settings
from tests.service.listening import Answer, Client, connect, head
from tests.service.live import CLASSIFY, Live, ask, classify, live
from tests.service.scripted import PATIENCE_S, jpeg


@pytest.fixture
def served() -> Iterator[Live]:
    """A service as it is when nothing is set."""
    with live() as running:
        yield running


def running_request(served: Live, stack: ExitStack) -> Client:
    """A client whose image is inside the engine, which is held."""
    client = stack.enter_context(served.connect())
    served.engine.hold()
    client.send(classify(jpeg("blue")))
    assert served.engine.entered.wait(PATIENCE_S)
    return client


def assert_unharmed(served: Live) -> None:
    """It still answers, and holds nothing of anybody."""
    answer = ask(served.port, classify(x_request_id="last"))
    assert answer.status == 200
    while served.line()["id"] != "last":
        pass
    assert served.metric("laud_images_in_flight") == 0
    assert served.metric("laud_images_in_flight_bytes") == 0
    assert served.metric("laud_queue_depth", model="colours") == 0
    assert served.front.service.memory.used == 0


def test_a_client_that_leaves_within_the_head_is_nobody(served: Live) -> None:
    with served.connect() as leaves:
        leaves.send(head("POST", CLASSIFY)[:20])
    assert_unharmed(served)


def test_a_client_that_leaves_within_the_body_is_cancelled(served: Live) -> None:
    with served.connect() as leaves:
        leaves.send(classify(x_request_id="leaves")[:-10])
    line = served.line()
    assert (line["id"], line["status"], line["outcome"]) == ("leaves", 499, "cancelled")
    assert_unharmed(served)


def test_a_client_that_leaves_the_queue_never_runs(served: Live) -> None:
    with ExitStack() as stack:
        stays = running_request(served, stack)
        with served.connect() as leaves:
            leaves.send(classify(jpeg("red")))
            served.until(2, "laud_images_in_flight")
        assert served.line()["outcome"] == "cancelled"
        served.engine.release()
        assert stays.answer().status == 200
    ran = len(served.engine.batches)
    assert_unharmed(served)
    assert len(served.engine.batches) == ran + 1


def test_a_client_that_leaves_while_its_image_runs_is_cancelled(served: Live) -> None:
    with ExitStack() as stack:
        running_request(served, stack)
    assert served.line()["outcome"] == "cancelled"
    served.engine.release()
    assert_unharmed(served)


def test_a_client_that_leaves_two_requests_while_the_first_runs_is_cancelled(served: Live) -> None:
    served.engine.hold()
    with served.connect() as leaves:
        leaves.send(classify(x_request_id="runs") + classify(x_request_id="waits"))
        assert served.engine.entered.wait(PATIENCE_S)
    line = served.line()
    assert (line["id"], line["status"], line["outcome"]) == ("runs", 499, "cancelled")
    served.engine.release()
    assert_unharmed(served)


def test_every_client_gets_its_own_answer_whoever_else_leaves(served: Live) -> None:
    with ExitStack() as stack:
        first = running_request(served, stack)
        others = [stack.enter_context(served.connect()) for _ in range(12)]
        colours = itertools.cycle(("red", "green", "blue"))
        for client, colour in zip(others, colours, strict=False):
            client.send(classify(jpeg(colour)))
        for client in others[::2]:
            client.__exit__()
        cancelled = [served.line() for _ in others[::2]]
        assert {line["outcome"] for line in cancelled} == {"cancelled"}
        served.engine.release()
        assert label(first.answer()) == "blue"
        assert [label(client.answer()) for client in others[1::2]] == [
            "green", "red", "blue", "green", "red", "blue",
        ]  # fmt: skip
    assert_unharmed(served)


def label(answer: Answer) -> str:
    """The most probable one."""
    return str(httpx.Response(200, content=answer.body).json()["labels"][0]["label"])


def test_a_body_that_trickles_is_refused_and_counted() -> None:
    with live(receive_limit_s=0.2) as served:
        with served.connect() as client:
            client.send(classify()[:-10])
            answer = client.answer()
            assert (answer.status, answer.error) == (
                408, "the body took more than 0.2 s to arrive",
            )  # fmt: skip
            assert client.is_closed_by_peer()
        assert served.line()["outcome"] == "timeout"
        assert_unharmed(served)


def test_a_head_that_trickles_is_refused_logged_and_counted() -> None:
    with live(receive_limit_s=0.2) as served, served.connect() as client:
        client.send(b"POST /v1/cl")
        assert client.answer().status == 408
        assert served.line("refused")["status"] == 408
        labels = {"model": "", "route": "unknown", "status": "408", "outcome": "timeout"}
        assert served.metric("laud_requests_total", **labels) == 1


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [("gzip", gzip.compress), ("deflate", zlib.compress)],
)
def test_compressed_bodies_are_understood(served: Live, encoding: str, compress: object) -> None:
    assert callable(compress)
    answer = ask(served.port, classify(compress(jpeg("green")), content_encoding=encoding))
    assert label(answer) == "green"


def test_bodies_are_accounted_while_they_grow() -> None:
    """The limit holds for what arrives, not for what is announced; alone, everybody fits."""
    with live(max_queue_bytes=100_000) as served, ExitStack() as stack:
        announcing = stack.enter_context(served.connect())
        announcing.send(head("POST", CLASSIFY, content_length=10**6))
        assert ask(served.port, classify()).status == 200
        announcing.send(bytes(90_000))
        served.until(90_000, "laud_images_in_flight_bytes")
        answer = ask(served.port, classify(bytes(20_000)))
        assert answer.status == 429
        assert answer.error.endswith("of images, the limit is 100,000")
        announcing.__exit__()
        while served.line()["outcome"] != "cancelled":
            pass
        assert_unharmed(served)


def test_stopping_answers_what_is_in_flight_and_is_not_ready_at_once() -> None:
    with live(admin_port=0) as served, ExitStack() as stack:
        running = running_request(served, stack)
        waiting = stack.enter_context(served.connect())
        waiting.send(classify(jpeg("green")))
        idle = stack.enter_context(served.connect())
        idle.send(head("GET", "/v2/health/ready"))
        assert idle.answer().status == 200
        served.stop()
        assert idle.is_closed_by_peer()
        # What is in flight can still be watched.
        page = ask(served.ports[1], head("GET", "/metrics")).body
        assert b"laud_ready 0.0" in page
        served.engine.release()
        assert label(running.answer()) == "blue"
        assert label(waiting.answer()) == "green"
        assert waiting.is_closed_by_peer()


def test_metrics_and_documentation_move_to_the_admin_port() -> None:
    with live(admin_port=0) as served:
        for path in ("/metrics", "/docs", "/openapi.json", "/redoc"):
            assert ask(served.port, head("GET", path)).status == 404
        for path in ("/metrics", "/docs", "/openapi.json"):
            assert ask(served.ports[1], head("GET", path)).status == 200
        assert CLASSIFY.encode() in ask(served.ports[1], head("GET", "/openapi.json")).body
        assert ask(served.ports[1], classify()).status == 404
        assert ask(served.port, classify()).status == 200


def certificate(folder: Path, password: str = "") -> tuple[Path, Path]:
    """A certificate of localhost and its key, made by openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("the command openssl makes the certificate, and is not installed")
    made, key = folder / "certificate.pem", folder / "key.pem"
    protection = ["-passout", f"pass:{password}"] if password else ["-nodes"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         *protection, "-keyout", key, "-out", made, "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    return made, key


def test_tls_on_both_ports(tmp_path: Path) -> None:
    made, key = certificate(tmp_path)
    context = ssl.create_default_context(cafile=str(made))
    with live(tls_certificate=made, tls_key=key, admin_port=0) as served:
        with connect(served.port, context) as client:
            client.send(classify(jpeg("green")))
            assert label(client.answer()) == "green"
        with connect(served.ports[1], context) as client:
            client.send(head("GET", "/metrics"))
            assert client.answer().status == 200
        with served.connect() as plain:
            plain.send(head("GET", "/v2/health/live"))
            assert plain.is_closed_by_peer()


def test_tls_that_cannot_work_is_told_before_models_load(tmp_path: Path) -> None:
    made, key = certificate(tmp_path)
    absent = tmp_path / "absent.pem"
    with pytest.raises(SettingsError, match="tls_key is not set"):
        check_access(Settings(tls_certificate=made))
    with pytest.raises(SettingsError, match="tls_certificate is not set"):
        check_access(Settings(tls_key=key))
    with pytest.raises(SettingsError, match=r"cannot read .*absent.pem for TLS: No such file"):
        check_access(Settings(tls_certificate=made, tls_key=absent))
    with pytest.raises(SettingsError, match="must be a PEM certificate and its private key"):
        check_access(Settings(tls_certificate=key, tls_key=made))
    check_access(Settings(tls_certificate=made, tls_key=key))


def test_a_key_with_a_password_is_refused_instead_of_asking(tmp_path: Path) -> None:
    made, key = certificate(tmp_path, password="secret")
    with pytest.raises(SettingsError, match="without a password"):
        check_access(Settings(tls_certificate=made, tls_key=key))
