"""A server of our own to measure: the real command as a process, and what its threads use."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from service.load.client import LoadError, Server, parse_url

START_LIMIT_S = 120.0
_STOP_LIMIT_S = 40.0
_LOOK_S = 0.05
_LOG_LINES = 5


@dataclass(frozen=True, slots=True)
class Process:
    """A running server: where it is, and its process id."""

    server: Server
    pid: int

    def thread_cpu_s(self) -> dict[int, float]:
        """CPU seconds per thread since it began; the main thread is the process id."""
        return thread_cpu_s(self.pid)


@contextmanager
def own_server(bundle: str, options: Sequence[str] = ()) -> Iterator[Process]:
    """`laud serve BUNDLE` on a free port of this machine, until the block ends.

    Its log goes to a file that is thrown away: nobody reads it meanwhile, and nobody waits for it.
    Raises LoadError, with the end of its log, when it does not start.
    """
    arguments = ["serve", bundle, "--port", "0", "--log-format", "json", *options]
    with _running([sys.executable, "-m", "service", *arguments], "url") as process:
        yield process


@contextmanager
def bare_server() -> Iterator[Process]:
    """The bare handler of `service.load.bare`, in the same way."""
    with _running([sys.executable, "-m", "service.load.bare"], "url") as process:
        yield process


@contextmanager
def busy_core(core: int) -> Iterator[None]:
    """Another process keeps that core busy while the block runs."""
    work = f"import os\nos.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
    process = subprocess.Popen([sys.executable, "-c", work])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def thread_cpu_s(pid: int) -> dict[int, float]:
    """CPU seconds of every living thread of a process, to the kernel's tick."""
    ticks = os.sysconf("SC_CLK_TCK")
    found: dict[int, float] = {}
    for path in Path(f"/proc/{pid}/task").glob("*/stat"):
        try:
            # The name of a thread, in brackets, may hold anything.
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        found[int(path.parent.name)] = (int(fields[11]) + int(fields[12])) / ticks
    return found


def gained(before: Mapping[int, float], after: Mapping[int, float]) -> dict[int, float]:
    """What every thread used between two looks; new ones used all of theirs."""
    return {thread: used - before.get(thread, 0.0) for thread, used in after.items()}


@contextmanager
def _running(command: Sequence[str], key: str) -> Iterator[Process]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
        try:
            url = _wait_for(process, Path(f"/proc/self/fd/{log.fileno()}"), key)
            yield Process(parse_url(url), process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for(process: subprocess.Popen[bytes], log: Path, key: str) -> str:
    """The value of `key` in the first line of JSON that has it."""
    until_s = time.monotonic() + START_LIMIT_S
    while True:
        ended = process.poll() is not None
        lines = log.read_text("utf-8", "replace").splitlines()
        for line in lines:
            if line.startswith("{") and key in (entry := _entry(line)):
                return str(entry[key])
        if ended or time.monotonic() > until_s:
            tail = "; ".join(lines[-_LOG_LINES:]) or "nothing"
            raise LoadError(f"the server did not start; the end of its log: {tail}")
        time.sleep(_LOOK_S)


def _entry(line: str) -> dict[str, object]:
    try:
        content = json.loads(line)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
