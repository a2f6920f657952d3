"""Plugins and TensorRT's own Python module, of two versions, each in a process of its own.

A stand-in library takes the place of TensorRT's builder. What plugins answer is recorded, and
kernels are run with it in Triton's interpreter.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton", reason="the kernels are Triton's: pip install '.[tensorrt]'")
pytest.importorskip("onnx")

pytestmark = [pytest.mark.torch, pytest.mark.wheels]

HERE = Path(__file__).parent
ROOT = HERE.parents[3]
STAND_IN = HERE.parent / "stand_in" / "nvinfer.cpp"
VERSIONS = ("tensorrt-10", "tensorrt-11")
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
LIMIT_S = 1800


@dataclass(frozen=True)
class Installed:
    """A TensorRT that Python can import: what to set in the environment."""

    wheels: Path
    libraries: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"PYTHONPATH": str(self.wheels), "LD_LIBRARY_PATH": str(self.libraries)}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all versions, so that each kernel is compiled once."""
    return tmp_path_factory.mktemp("bindings")


@pytest.fixture(scope="module")
def installed(scratch: Path) -> Callable[[str], Installed]:
    """The wheels of a version, with the stand-in for what is not among them; or a skip."""

    @cache
    def found(name: str) -> Installed:
        wheels = ROOT / "build" / "gpu-checks" / name
        if not (wheels / ".installed").exists():
            pytest.skip(f"{name} is not there: make gpu-checks installs it")
        libraries = scratch / name
        libraries.mkdir()
        lean = next((wheels / "tensorrt_lean_libs").glob("libnvinfer_lean.so.*"))
        for library in LIBRARIES:
            soname = f"lib{library}.so{lean.suffix}"
            command = [
                os.environ.get("CXX", "c++"), "-std=c++17", "-Wall", "-Wextra", "-Werror",
                "-shared", "-fPIC", str(STAND_IN), "-o", str(libraries / soname),
                f"-Wl,-soname,{soname}", f"-L{lean.parent}", f"-l:{lean.name}",
                f"-Wl,-rpath,{lean.parent}",
            ]  # fmt: skip
            subprocess.run(command, check=True, timeout=LIMIT_S)
        return Installed(wheels, libraries)

    return found


@pytest.fixture(scope="module")
def answers(installed: Callable[[str], Installed], scratch: Path) -> Callable[[str], Path]:
    """The file that the tests in `genuine` write, of a version."""

    @cache
    def written(name: str) -> Path:
        path = scratch / f"{name}.json"
        more = {"TRITON_CACHE_DIR": str(scratch / "cache"), "LAUD_ANSWERS": str(path)}
        run_tests("genuine", {**installed(name).environment, **more})
        return path

    return written


def run(command: list[str], more: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """In a process with more environment."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, **more},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def run_tests(folder: str, more: dict[str, str]) -> None:
    """All tests in a folder beside this file; none may be skipped."""
    # Two docstrings of TensorRT's have escapes that Python warns of when it compiles them.
    options = ["-q", "-x", "-p", "no:cacheprovider", "-W", "ignore:invalid escape sequence"]
    done = run(["-m", "pytest", *options, str(HERE / folder)], more)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert re.search(r"^\d+ passed in", done.stdout, re.MULTILINE), "some were skipped"


@pytest.mark.parametrize("name", VERSIONS)
def test_plugins_are_taken_and_answer(name: str, answers: Callable[[str], Path]) -> None:
    content = json.loads(answers(name).read_text("utf-8"))
    assert content["version"].split(".")[0] == name.removeprefix("tensorrt-")


def test_all_versions_get_the_same_answers(answers: Callable[[str], Path]) -> None:
    first, second = (json.loads(answers(name).read_text("utf-8")) for name in VERSIONS)
    assert first["version"] != second["version"]
    assert first["answers"] == second["answers"]


def test_kernels_launched_as_plugins_say(answers: Callable[[str], Path]) -> None:
    """With the answers of one version; those of the others are the same."""
    more = {"LAUD_ANSWERS": str(answers(VERSIONS[-1])), "TRITON_INTERPRET": "1"}
    run_tests("launched", more)


@pytest.mark.parametrize("name", VERSIONS)
def test_without_the_libraries_the_reason_is_told(
    name: str, installed: Callable[[str], Installed]
) -> None:
    """As where only the Python module of TensorRT is installed."""
    code = "from engines.tensorrt.plugins import register; register(86)"
    path = os.pathsep.join([str(ROOT), str(installed(name).wheels)])
    done = run(["-c", code], {"PYTHONPATH": path})
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("engines.errors.EngineError: TensorRT cannot be loaded (lib")
    assert "cannot open shared object file" in last
