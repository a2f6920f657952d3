"""What serving takes: installed size, time until ready, resident memory after some requests.

Runs in the environment of its interpreter, with the standard library and laudserve only:

    .venv/bin/python tests/benchmarks/footprint.py
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.samples import sample_names, sample_path

_MEGABYTE = 1e6
_START_LIMIT_S = 120.0
_POLL_S = 0.002
# Brought by `python -m venv`, not by us.
_VENV_OWN = re.compile(r"(pip|setuptools|pkg_resources|_distutils_hack|distutils-precedence)\b")


def installed_bytes(prefix: Path) -> tuple[int, int]:
    """Bytes on disk below an environment: all, and without pip and setuptools."""
    everything = ours = 0
    for folder, _, names in os.walk(prefix):
        inside = Path(folder).relative_to(prefix)
        for name in names:
            size = (Path(folder) / name).lstat().st_blocks * 512
            everything += size
            _, packages, below = (inside / name).as_posix().partition("site-packages/")
            if not (packages and _VENV_OWN.match(below)):
                ours += size
    return everything, ours


@contextmanager
def served(bundle: str) -> Iterator[tuple[subprocess.Popen[bytes], str, float]]:
    """A server on a free port: its process, its address, and the seconds until it was ready."""
    laud = Path(sys.executable).parent / "laud"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LAUD_")}
    with tempfile.TemporaryDirectory() as elsewhere:
        log = Path(elsewhere) / "log"
        with log.open("wb") as file:
            begin_s = time.monotonic()
            process = subprocess.Popen(
                [laud, "serve", bundle, "--port", "0", "--log-format", "json"],
                cwd=elsewhere,
                env=environment,
                stderr=file,
            )
        try:
            url = _ready_url(process, log, begin_s + _START_LIMIT_S)
            yield process, url, time.monotonic() - begin_s
        finally:
            process.terminate()
            process.wait()


def _ready_url(process: subprocess.Popen[bytes], log: Path, deadline_s: float) -> str:
    while time.monotonic() < deadline_s and process.poll() is None:
        found = re.search(r'"url": ?"(http:[^"]+)"', log.read_text("utf-8"))
        if found:
            with urllib.request.urlopen(f"{found[1]}/v2/health/ready", timeout=30):
                return found[1]
        time.sleep(_POLL_S)
    raise RuntimeError(f"the server did not become ready:\n{log.read_text('utf-8')}")


def resident_bytes(pid: int) -> int:
    """Resident memory of a process (Linux)."""
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    (kilobytes,) = re.findall(r"^VmRSS:\s+(\d+) kB$", status, re.M)
    return int(kilobytes) * 1024


def classify(url: str, count: int) -> dict[str, str]:
    """Send the packaged samples in turn; the engine and precision that answered."""
    answer: dict[str, str] = {}
    for name in itertools.islice(itertools.cycle(sample_names()), count):
        request = urllib.request.Request(
            f"{url}/v1/classify",
            data=sample_path(name).read_bytes(),
            headers={"content-type": "image/jpeg"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            answer = json.load(response)
    return {key: answer[key] for key in ("engine", "precision")}


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("bundle", nargs="?", default="zoo:clothing")
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--requests", type=int, default=50)
    chosen = parser.parse_args()
    starts_s = []
    for _ in range(chosen.starts):
        with served(chosen.bundle) as (process, url, start_s):
            starts_s.append(start_s)
            ran = classify(url, chosen.requests)
            resident = resident_bytes(process.pid)
    everything, ours = installed_bytes(Path(sys.prefix))
    report = {
        "python": platform.python_version(),
        **ran,
        "environment_mb": round(everything / _MEGABYTE),
        "environment_without_pip_mb": round(ours / _MEGABYTE),
        "start_s": round(statistics.median(starts_s), 2),
        "starts_s": [round(each, 2) for each in starts_s],
        "resident_mb": round(resident / _MEGABYTE),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
