"""What is built and installed, from what: read off the files. `.ci/run` does it for real."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
CSRC = "engines/cpu/csrc"


def requirements(*extras: str) -> list[Requirement]:
    """What the base install and these extras ask for, themselves resolved."""
    found = [Requirement(line) for line in PROJECT["project"]["dependencies"]]
    for extra in extras:
        for each in map(Requirement, EXTRAS[extra]):
            found += requirements(*each.extras) if each.name == "laudserve" else [each]
    return found


def pins() -> dict[str, str]:
    """Name and version of every line in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def test_serving_asks_for_no_torch() -> None:
    names = {each.name for each in requirements()}
    assert names & {"torch", "torchvision", "onnxruntime", "openvino", "nncf"} == set()


def test_the_contributors_loop_asks_for_no_torch() -> None:
    assert "torch" not in {each.name for each in requirements("test")}


@pytest.mark.parametrize("extra", ["evaluate", "onnx", "gpu", "rtx"])
def test_judging_detectors_writing_onnx_and_gpus_need_no_torch(extra: str) -> None:
    assert "torch" not in {each.name for each in requirements(extra)}


def test_training_exporting_and_comparing_need_torch() -> None:
    for extra in ("reference", "train", "export", "bench"):
        assert "torch" in {each.name for each in requirements(extra)}


@pytest.mark.parametrize("extra", [None, *EXTRAS])
def test_every_requirement_is_pinned_to_a_version_it_allows(extra: str | None) -> None:
    pinned = pins()
    for each in requirements(*[extra] if extra else []):
        assert each.specifier.contains(pinned[canonicalize_name(each.name)]), each


def test_pins_are_sorted_and_none_is_double() -> None:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    written = [line for line in lines if not line.startswith("#")]
    assert written == sorted(written)
    assert len(written) == len(pins())


def test_cmake_compiles_exactly_the_sources_that_there_are() -> None:
    texts = [(ROOT / folder / "CMakeLists.txt").read_text("utf-8") for folder in (".", CSRC)]
    named = set(re.findall(r"\b(\w+\.cpp)\b", "\n".join(texts)))
    assert named == {path.name for path in (ROOT / CSRC).glob("*.cpp")}


def test_native_code_has_its_own_threads() -> None:
    files = [ROOT / "CMakeLists.txt", *(ROOT / CSRC).glob("*.*")]
    assert not [path for path in files if re.search(r"openmp|omp\.h", path.read_text(), re.I)]


def test_the_image_is_built_from_what_the_build_reads() -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    kept = {line.removeprefix("!") for line in lines if line.startswith("!")}
    project, build = PROJECT["project"], PROJECT["tool"]["scikit-build"]
    read = {project["readme"], *project["license-files"], *build["wheel"]["packages"]}
    assert kept == read | {"pyproject.toml", "CMakeLists.txt", "constraints.txt"}
    sdist = {path.removeprefix("/") for path in build["sdist"]["include"]}
    assert kept <= sdist
    assert "*.so" in build["sdist"]["exclude"]
    assert "**/*.so" in lines


INSTALLED_FROM = [
    "pyproject.toml",
    "constraints.txt",
    "CMakeLists.txt",
    f"{CSRC}/CMakeLists.txt",
    f"{CSRC}/a.cpp",
    f"{CSRC}/a.hpp",
]


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The Makefile beside empty files, after an installation into both environments."""
    (tmp_path / "Makefile").write_bytes((ROOT / "Makefile").read_bytes())
    made = [".venv/bin/pip", ".venv-check/bin/pip"]
    stamps = [".venv/.serve-installed", ".venv/.test-installed", ".venv-check/.check-installed"]
    for age, name in enumerate(reversed([*INSTALLED_FROM, *made, *stamps])):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (1e9 - age, 1e9 - age))
    return tmp_path


def recipe(folder: Path, target: str) -> str:
    """What `make` would do."""
    command = ["make", "--dry-run", target]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=True, timeout=60
    ).stdout


@pytest.mark.parametrize("target", ["serve", "test", ".venv-check/.check-installed"])
@pytest.mark.parametrize("changed", INSTALLED_FROM)
def test_make_installs_again_what_was_changed_and_nothing_otherwise(
    installed: Path, target: str, changed: str
) -> None:
    assert "pip install" not in recipe(installed, target)
    os.utime(installed / changed, (1e9 + 1, 1e9 + 1))
    assert "pip install" in recipe(installed, target)
