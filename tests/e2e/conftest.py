"""The demo server as a user starts it: the installed command, in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.server import LAUD, ROOT, Server, environment, wait_for_url


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`laud serve zoo:clothing` on a free port; stopped by SIGTERM, which must exit with 0."""
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [LAUD, "serve", "zoo:clothing", "--port", "0", "--log-format", "json"],
            cwd=tmp_path_factory.mktemp("elsewhere"),
            env=environment(),
            stderr=file,
        )
    try:
        yield Server(process, wait_for_url(process, log), log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0, log.read_text(encoding="utf-8")
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the real image sets; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("LAUD_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no image sets: neither LAUD_SHARED nor {folder.name} beside the checkout")
    return folder
