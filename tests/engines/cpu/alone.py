"""Runs a function of these tests in a process of its own, which may end badly."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[3]
PATIENCE_S = 60.0

# An installed package may be named `tests` too, and would be found first.
_START = """
import faulthandler, sys, types
faulthandler.enable()
sys.modules["tests"] = types.ModuleType("tests")
sys.modules["tests"].__path__ = ["tests"]
from {module} import {name}
{name}()
"""


def run_alone(function: Callable[[], None]) -> str:
    """What it printed, warnings too. Fails with that when it ends with a status, or never."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("LAUD_")}
    module = inspect.getmodule(function)
    assert module is not None
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-c",
            _START.format(module=module.__name__, name=function.__name__),
        ],
        cwd=ROOT,
        env=kept,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, f"ended with {done.returncode}:\n{done.stdout}"
    return done.stdout
