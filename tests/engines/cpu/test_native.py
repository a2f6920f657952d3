"""The C++ tests of the native engine, as they are and under sanitizers. They run AMX and AVX-512
kernels in emulation, so that every machine tests them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
BUILD_LIMIT_S = 600
RUN_LIMIT_S = 300


def build(folder: Path, sanitize: str) -> Path:
    """The test program, compiled into `folder`."""
    compiler = shutil.which("cmake")
    if compiler is None or shutil.which("c++") is None:
        pytest.skip("compiling the C++ tests needs cmake and a C++ compiler")
    configure = [compiler, "-S", str(ROOT / "tests/native"), "-B", str(folder)]
    run([*configure, f"-DLAUD_SANITIZE={sanitize}"], BUILD_LIMIT_S)
    run([compiler, "--build", str(folder), "--parallel", "2"], BUILD_LIMIT_S)
    return folder / "native_tests"


def run(command: list[str], limit_s: float) -> str:
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=limit_s,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:]
    return done.stdout


def test_native(tmp_path: Path) -> None:
    program = build(tmp_path, "")
    assert "0 failed" in run([str(program)], RUN_LIMIT_S)


@pytest.mark.sanitizer
def test_memory_and_undefined_behaviour(tmp_path: Path) -> None:
    program = build(tmp_path, "address,undefined")
    assert "0 failed" in run([str(program)], RUN_LIMIT_S)


@pytest.mark.sanitizer
def test_threads(tmp_path: Path) -> None:
    # Kernels share nothing between threads: only the tests that start some are worth their time.
    program = build(tmp_path, "thread")
    for wanted in ("barrier", "part_runs", "taken_over", "teams", "wakes_up", "batch_mates"):
        assert "0 failed" in run([str(program), wanted], RUN_LIMIT_S)
