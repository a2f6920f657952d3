"""What one connection may cost, over real sockets: slow, large, silent and many clients."""

from __future__ import annotations

import asyncio
import itertools
import queue
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import uvicorn
from uvicorn.server import ServerState

from service.errors import ServiceError
from service.protocol import Rules, limited
from tests.service.listening import Exchanges, connect, head, held, listening, rules, trickle
from tests.service.scripted import PATIENCE_S

SOON_S = 0.2
"""A limit that passes quickly where a test waits for it."""


@pytest.fixture
def app() -> Exchanges:
    """Answers at once, unless a test closes the gate."""
    application = Exchanges()
    application.gate.set()
    return application


@pytest.fixture
def refused() -> queue.Queue[ServiceError]:
    """What was answered without the application."""
    return queue.Queue()


@pytest.mark.parametrize("sent", [b"P", b"POST / HT", b"POST / HTTP/1.1\r\nhost: x\r\n"])
def test_a_head_that_does_not_end_is_refused(
    app: Exchanges, refused: queue.Queue[ServiceError], sent: bytes
) -> None:
    with listening(app, rules(refused, SOON_S)) as server, connect(server.port) as client:
        client.send(sent)
        answer = client.answer()
        assert answer.status == 408
        assert answer.error == "the request's head took more than 0.2 s"
        assert answer.headers["connection"] == "close"
        assert client.is_closed_by_peer()
        assert refused.get(timeout=PATIENCE_S).status == 408
    assert app.starts.empty()


def test_one_byte_at_a_time_does_not_live_for_ever(
    app: Exchanges, refused: queue.Queue[ServiceError]
) -> None:
    endless = itertools.chain(head("GET")[:-2], itertools.cycle(b"x: y\r\n"))
    with listening(app, rules(refused, SOON_S)) as server, connect(server.port) as client:
        trickle(server, client, endless)
    assert refused.get(timeout=PATIENCE_S).status == 408


def test_a_body_that_trickles_ends_its_connection_after_the_answer(
    app: Exchanges, refused: queue.Queue[ServiceError]
) -> None:
    """Whoever reads a body refuses one that is late; then nothing more is waited for."""
    app.reads = False
    with listening(app, rules(refused, SOON_S)) as server, connect(server.port) as client:
        client.send(head(content_length=10**6) + b"x")
        assert client.answer().status == 200
        trickle(server, client, itertools.repeat(ord("x")))


def test_time_in_which_another_answer_is_due_first_does_not_count(
    app: Exchanges, refused: queue.Queue[ServiceError]
) -> None:
    """Two requests at once, of which the first does not read: nothing is read from its client."""
    app.reads = False
    with (
        listening(app, rules(refused, SOON_S)) as server,
        connect(server.port) as client,
        connect(server.port) as slow,
    ):
        with held(app, server):
            client.send(head("GET") + head(content_length=4))
            app.starts.get(timeout=PATIENCE_S)
            # Another connection's limit passes meanwhile.
            slow.send(b"P")
            assert slow.answer().status == 408
        assert client.answer().status == 200
        assert "connection" not in client.answer().headers


@pytest.mark.parametrize("limit_s", [SOON_S, PATIENCE_S], ids=["never spoke", "idle"])
def test_silent_connections_are_closed_without_an_answer(
    app: Exchanges, refused: queue.Queue[ServiceError], limit_s: float
) -> None:
    with (
        listening(app, rules(refused, limit_s), keep_alive_s=0) as server,
        connect(server.port) as client,
    ):
        if limit_s != SOON_S:
            client.send(head("GET"))
            assert client.answer().status == 200
        assert client.is_closed_by_peer()
    assert refused.empty()


def test_a_thousand_idle_connections_beside_normal_traffic(
    app: Exchanges, refused: queue.Queue[ServiceError]
) -> None:
    with ExitStack() as stack, _many_files(2500):
        server = stack.enter_context(listening(app, rules(refused), keep_alive_s=60))
        idle = [stack.enter_context(connect(server.port)) for _ in range(1000)]
        for client in idle[::2]:
            client.send(head("GET"))
            assert client.answer().status == 200
        with connect(server.port) as busy:
            for _ in range(100):
                busy.send(head(content_length=2) + b"ok")
                assert busy.answer().body == b"ok"
        idle[0].send(head("GET"))
        assert idle[0].answer().status == 200


@contextmanager
def _many_files(count: int) -> Iterator[None]:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"this process may open {hard} files, the test needs {count}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    "request_bytes",
    [
        head("GET", x="y" * 40_000),
        head("GET", "/" + "x" * 40_000),
        head("GET", **{f"x{i}": "y" for i in range(5000)}),
        b"GET / HTTP/1.1\r\nx: " + b"y" * 400_000,
    ],
    ids=["header", "path", "many", "endless"],
)
def test_a_head_over_the_limit_is_refused(
    app: Exchanges, refused: queue.Queue[ServiceError], request_bytes: bytes
) -> None:
    with listening(app, rules(refused)) as server, connect(server.port) as client:
        client.send(request_bytes)
        answer = client.answer()
        assert answer.status == 431
        assert answer.error == "request line and headers have more than 32,768 bytes"
    assert app.starts.empty()


def test_a_large_body_before_a_head_in_pieces_does_not_count_as_head(
    app: Exchanges, refused: queue.Queue[ServiceError]
) -> None:
    with listening(app, rules(refused)) as server, connect(server.port) as client:
        body = bytes(60_000)
        client.send(head(content_length=len(body)) + body + b"GET / HT")
        assert client.answer().body == body
        client.send(b"TP/1.1\r\n\r\n")
        assert client.answer().status == 200


@pytest.mark.parametrize(
    "sent",
    [b"nonsense\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/9\r\n\r\n",
     head("GET", "no-slash at all"), b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
     b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
     b"POST / HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n"],
)  # fmt: skip
def test_what_is_no_http_is_refused_in_json(
    app: Exchanges, refused: queue.Queue[ServiceError], sent: bytes
) -> None:
    with listening(app, rules(refused)) as server, connect(server.port) as client:
        client.send(sent)
        answer = client.answer()
        assert (answer.status, answer.error) == (400, "this is no valid HTTP/1.1 request")
        assert client.is_closed_by_peer()
        assert refused.get(timeout=PATIENCE_S).status == 400


def test_a_broken_chunk_is_refused_at_once_and_its_reader_hears_that_the_client_is_gone(
    app: Exchanges, refused: queue.Queue[ServiceError]
) -> None:
    with listening(app, rules(refused)) as server, connect(server.port) as client:
        client.send(head(transfer_encoding="chunked") + b"3\r\nabc\r\n")
        app.starts.get(timeout=PATIENCE_S)
        client.send(b"no number\r\n")
        assert client.answer().status == 400
        assert app.ends.get(timeout=PATIENCE_S) == "left"


def test_a_broken_body_of_a_client_that_waits_for_100_continue_is_refused_once(
    app: Exchanges, refused: queue.Queue[ServiceError]
) -> None:
    with listening(app, rules(refused)) as server, connect(server.port) as client:
        waiting = head(transfer_encoding="chunked", expect="100-continue")
        client.send(waiting + b"no number\r\n")
        assert client.answer().status == 400
        assert client.is_closed_by_peer()
        assert app.ends.get(timeout=PATIENCE_S) == "left"


def test_a_client_that_is_refused_instead_of_told_to_continue_is_not_kept(
    app: Exchanges, refused: queue.Queue[ServiceError]
) -> None:
    app.reads = False
    with listening(app, rules(refused)) as server, connect(server.port) as client:
        client.send(head(content_length=4, expect="100-continue"))
        assert client.answer().headers["connection"] == "close"
        assert client.is_closed_by_peer()


@pytest.mark.parametrize("headers", [{}, {"connection": "close"}], ids=["kept", "closing"])
def test_a_client_that_does_not_take_its_answer_is_let_go(
    app: Exchanges, refused: queue.Queue[ServiceError], headers: dict[str, str]
) -> None:
    app.answer = bytes(64 * 2**20)
    with (
        listening(app, rules(refused, SOON_S), keep_alive_s=60) as server,
        connect(server.port) as client,
    ):
        client.send(head("GET", **headers))
        assert app.ends.get(timeout=PATIENCE_S) == "answered"
        server.until_no_connections()
        assert len(client.answer().body) < 64 * 2**20


class Unsent(asyncio.Transport):
    """A connection that closes once its last bytes are taken, which nobody does."""

    def __init__(self) -> None:
        super().__init__()
        self.aborted = asyncio.Event()

    def is_closing(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 1

    def abort(self) -> None:
        self.aborted.set()


@pytest.mark.anyio
async def test_the_rest_of_an_answer_is_not_waited_for_for_ever(app: Exchanges) -> None:
    config = uvicorn.Config(app, lifespan="off", log_config=None)
    connection = limited(Rules(receive_s=0.01))(config, ServerState(), {})
    transport = Unsent()
    connection.connection_made(transport)
    # Not silent: what ends it is not the limit for those who say nothing.
    connection.data_received(b"GET ")
    connection.on_response_complete()
    await asyncio.wait_for(transport.aborted.wait(), PATIENCE_S)


def test_a_client_that_leaves_amid_its_answer_is_forgotten(
    app: Exchanges, refused: queue.Queue[ServiceError]
) -> None:
    app.answer = bytes(64 * 2**20)
    with listening(app, rules(refused)) as server:
        with connect(server.port) as leaves:
            leaves.send(head("GET"))
            leaves.socket.recv(1)
        server.until_no_connections()


CHUNKED = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n"


def test_trailers_are_dropped(app: Exchanges, refused: queue.Queue[ServiceError]) -> None:
    with listening(app, rules(refused)) as server, connect(server.port) as client:
        client.send(CHUNKED + b"x-late: 1\r\n\r\n")
        assert client.answer().status == 200
        scope = app.starts.get(timeout=PATIENCE_S)
        client.send(head("GET"))
        assert client.answer().status == 200
    assert scope is not None
    assert refused.empty()


@pytest.mark.parametrize("piece", [b"a: b\r\n" * 1000, b"x" * 6000])
def test_trailers_without_end_are_refused(
    app: Exchanges, refused: queue.Queue[ServiceError], piece: bytes
) -> None:
    """Many of them, and one whose value goes on; whoever reads the body is told that it ended."""
    with listening(app, rules(refused)) as server, connect(server.port) as client:
        client.send(CHUNKED + b"x-late: ")
        for _ in range(100):
            client.send(piece)
        answer = client.answer()
    assert answer.status == 431
    assert answer.error == "request line and headers have more than 32,768 bytes"


def test_sizes_of_chunks_are_no_trailers(
    app: Exchanges, refused: queue.Queue[ServiceError]
) -> None:
    """A body of many small chunks has more of them than a head may have bytes."""
    with listening(app, rules(refused)) as server, connect(server.port) as client:
        start, end = CHUNKED[: -len(b"0\r\n")], b"0\r\n\r\n"
        client.send(start)
        for _ in range(40):
            client.send(b"1\r\nx\r\n" * 1000)
        client.send(end)
        assert client.answer().status == 200
    assert refused.empty()
