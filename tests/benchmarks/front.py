"""CPU time of the event loop for an answer: everything of the front but the socket.

    python tests/benchmarks/front.py [BUNDLE] [--answers 1000] [--point NAME] [--picture FILE]

Prints JSON: quantiles of microseconds that the thread of the loop ran, one request after another,
from the bytes that arrive to the bytes that leave. CPU time, so that two checkouts can be compared
in turns where the machine does not rest; low quantiles, because others take the caches.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from uvicorn.server import ServerState

from service.app import create_app
from service.logs import configure_logs
from service.protocol import Rules, limited
from service.samples import sample_path
from service.server import SWITCH_S
from service.service import Service
from service.settings import Settings

WARM_UP = 100


class Sink(asyncio.Transport):
    """Takes answers, and says that one is there."""

    def __init__(self) -> None:
        super().__init__()
        self.answered = asyncio.Event()
        self.answer = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """See asyncio.WriteTransport."""
        self.answer = bytes(data)
        self.answered.set()

    def is_closing(self) -> bool:
        """Never."""
        return False

    def get_write_buffer_size(self) -> int:
        """Everything was taken."""
        return 0

    def pause_reading(self) -> None:
        """Nothing is read."""

    def resume_reading(self) -> None:
        """Nothing is read."""

    def can_write_eof(self) -> bool:
        """No: it is closed instead."""
        return False

    def close(self) -> None:
        """Nothing is open."""


def request_of(model: str, point: str | None, picture: bytes) -> bytes:
    """A whole request, as `laud load` sends it."""
    lines = [
        f"POST /v1/classify?model={model}&top=1 HTTP/1.1",
        "host: 127.0.0.1:8000",
        "content-type: image/jpeg",
        f"content-length: {len(picture)}",
        *([] if point is None else [f"x-operating-point: {point}"]),
        "x-slo-ms: 10000",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + picture


async def measure(bundle: str, point: str | None, picture: bytes, answers: int) -> list[float]:
    """Microseconds of each answer."""
    service = Service(Settings(bundles=(bundle,), threads=1))
    await service.start()
    config = uvicorn.Config(
        create_app(service), http=limited(Rules()), ws="none", lifespan="off", log_config=None
    )
    config.load()
    kind: Any = config.http_protocol_class
    protocol = kind(config=config, server_state=ServerState(), app_state={})
    sink, taken_us = Sink(), list[float]()
    protocol.connection_made(sink)
    request = request_of(next(iter(service.executor.models)), point, picture)
    for _ in range(WARM_UP + answers):
        sink.answered.clear()
        begin_ns = time.thread_time_ns()
        protocol.data_received(request)
        await sink.answered.wait()
        # What an answer leaves to be done: what it taught, its line in the log.
        for _ in range(3):
            await asyncio.sleep(0)
        taken_us.append((time.thread_time_ns() - begin_ns) / 1e3)
    await service.stop()
    if b" 200 OK\r\n" not in sink.answer[:20]:
        raise SystemExit(sink.answer.decode("utf-8", "replace"))
    return taken_us[WARM_UP:]


def main() -> None:
    """Print the quantiles of the bundle's answers to one picture."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", nargs="?", default="zoo:clothing")
    parser.add_argument("--answers", type=int, default=1000)
    parser.add_argument("--point", default=None)
    parser.add_argument("--picture", type=Path, default=sample_path("t-shirt"))
    wanted = parser.parse_args()
    sys.setswitchinterval(SWITCH_S)
    with (
        Path(os.devnull).open("w") as log,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        configure_logs("json", "info", log)
        work = measure(wanted.bundle, wanted.point, wanted.picture.read_bytes(), wanted.answers)
        taken_us = runner.run(work)
    steps = statistics.quantiles(taken_us, n=20)
    found = {f"p{5 * place}_us": round(steps[place - 1]) for place in (1, 2, 5, 10, 19)}
    print(json.dumps({**found, "mean_us": round(statistics.fmean(taken_us))}))


if __name__ == "__main__":
    main()
