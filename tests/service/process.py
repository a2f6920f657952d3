"""`laud` as a process of its own, with a scripted engine that tests can hold from outside.

While the named pipe of the variable SCRIPTED_PIPE exists, a batch waits until somebody has opened
it for writing and closed it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson

from engines import registry
from engines.bundle import Manifest, write_bundle
from engines.core import OperatingPoint, Output, UInt8Array
from service.cli import main
from tests.service.scripted import PATIENCE_S, ScriptedEngine, manifest

ROOT = Path(__file__).parents[2]
PIPE_VARIABLE = "SCRIPTED_PIPE"
# An installed package may be named `tests` too, and would be found first.
_START = """
import sys, types
sys.modules["tests"] = types.ModuleType("tests")
sys.modules["tests"].__path__ = ["tests"]
from tests.service.process import start
start()
"""


class PipedEngine(ScriptedEngine):
    """Waits for the pipe, where there is one."""

    def infer(self, images: UInt8Array, points: Sequence[OperatingPoint]) -> Output:
        """See `engines.core.Engine`."""
        pipe = Path(os.environ[PIPE_VARIABLE])
        if pipe.exists():
            pipe.read_bytes()
        return super().infer(images, points)


@dataclass(frozen=True)
class Served:
    """A started server: what it said when it was ready, and its log from here on."""

    process: subprocess.Popen[bytes]
    ready: dict[str, object]
    pipe: Path

    @property
    def url(self) -> str:
        """Where it is."""
        return str(self.ready["url"])

    def log_until(self, event: str) -> dict[str, object]:
        """Read the log up to a line of that event."""
        return read_until(self.process, event)

    @contextmanager
    def held(self) -> Iterator[None]:
        """A batch is inside the engine as soon as the body runs; it ends with the body."""
        with self.pipe.open("wb"):
            self.pipe.unlink()
            yield


def bundle_in(folder: Path, of: Manifest | None = None) -> Path:
    """A verified bundle `colours` on disk."""
    path = folder / "colours.laud"
    write_bundle(path, of or manifest(), {"w": np.zeros(1, np.float32)})
    return path


def command(*arguments: str) -> list[str]:
    """The command line of `laud` with the scripted engine known to it."""
    return [sys.executable, "-c", _START, *arguments]


def environment(**variables: str) -> dict[str, str]:
    """The caller's, without LAUD_* variables, plus `variables`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("LAUD_")}
    return {**kept, PIPE_VARIABLE: "none", **variables}


@contextmanager
def served(folder: Path, *options: str) -> Iterator[Served]:
    """`laud serve` on a free port until the block ends; killed then, if it still runs."""
    pipe = folder / "pipe"
    process = subprocess.Popen(
        command("serve", str(bundle_in(folder)), "--engine", "scripted", "--port", "0", *options),
        cwd=ROOT,
        env=environment(SCRIPTED_PIPE=str(pipe)),
        stderr=subprocess.PIPE,
    )
    try:
        yield Served(process, read_until(process, "ready"), pipe)
    finally:
        process.kill()
        process.communicate(timeout=PATIENCE_S)


def stop(process: subprocess.Popen[bytes]) -> int:
    """Ask it to stop, and its exit status."""
    process.send_signal(signal.SIGTERM)
    return process.wait(PATIENCE_S)


def start() -> None:
    """Run the command line of this process."""
    registry._ENGINES["scripted"] = lambda bundle, threads, precision: PipedEngine()
    main()


def read_until(process: subprocess.Popen[bytes], event: str) -> dict[str, object]:
    """The first line of its log that is of that event."""
    read: list[bytes] = []
    for line in process.stderr or ():
        read.append(line)
        if line.startswith(b"{") and (entry := orjson.loads(line))["event"] == event:
            return dict(entry)
    raise RuntimeError(f"the process ended before '{event}':\n{b''.join(read).decode()}")
