"""Starting the installed `laud serve` as a process, and waiting for it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
LAUD = Path(sys.executable).parent / "laud"
_START_LIMIT_S = 120


@dataclass(frozen=True)
class Server:
    """A running server; `url` without a slash at its end."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path


def environment(**variables: str) -> dict[str, str]:
    """The caller's, without LAUD_* variables (the server refuses those it does not know)."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("LAUD_")}
    return {**kept, **variables}


def wait_for_url(process: subprocess.Popen[bytes], log: Path) -> str:
    """The address in the server's "ready" line, once it answers that it is ready."""
    deadline = time.monotonic() + _START_LIMIT_S
    while time.monotonic() < deadline:
        text = log.read_text(encoding="utf-8")
        if process.poll() is not None:
            break
        found = re.search(r"http://127\.0\.0\.1:\d+", text)
        if found:
            with urllib.request.urlopen(f"{found[0]}/v2/health/ready", timeout=30) as answer:
                assert answer.status == 200
            return found[0]
        time.sleep(0.05)
    raise AssertionError(f"the server did not start:\n{log.read_text(encoding='utf-8')}")
