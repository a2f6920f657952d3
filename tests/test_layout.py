"""House rules that can be read off the files: size, names, and what code may not do."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("engines", "service")
NATIVE_FILES = sorted((ROOT / "engines/cpu/csrc").glob("*.?pp"))
PYTHON_FILES = sorted(path for name in (*PACKAGES, "tests") for path in (ROOT / name).rglob("*.py"))

MAX_LINES = 400
MAX_NATIVE_LINES = 500
UNSAFE_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
MACHINE_PATH = re.compile(rb"/(work|farm|root)/")
NOT_SOURCE = {".venv", ".venv-check", "build", "dist", "runs", "node_modules", "__pycache__"}

every_python_file = pytest.mark.parametrize(
    "path", PYTHON_FILES, ids=lambda path: str(path.relative_to(ROOT))
)


def _tracked_files() -> list[Path]:
    """What git tracks, as paths below the root; skips where this is not a git checkout."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [Path(name) for name in listed.decode().split("\0") if name]


def _dotted(node: ast.expr) -> str:
    """`a.b.c` for an attribute chain, the empty string for any other expression."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (left := _dotted(node.value)):
        return f"{left}.{node.attr}"
    return ""


def _unsafe(node: ast.AST) -> str | None:
    """How this statement or call could run code that is hidden in data, if it could."""
    match node:
        case ast.Import(names):
            modules = {alias.name.partition(".")[0] for alias in names}
            return next(iter(modules & UNSAFE_MODULES), None)
        case ast.ImportFrom(module="torch", names=names) if any(a.name == "load" for a in names):
            return "torch.load"
        case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in UNSAFE_MODULES:
            return module
        case ast.Call(func=function, keywords=keywords):
            if _dotted(function) == "torch.load":
                return "torch.load"
            for keyword in keywords:
                is_off = isinstance(keyword.value, ast.Constant) and not keyword.value.value
                if keyword.arg == "allow_pickle" and not is_off:
                    return "allow_pickle"
    return None


@every_python_file
def test_file_is_short_and_has_a_telling_name(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES
    assert path.name != "utils.py"


@pytest.mark.parametrize("path", NATIVE_FILES, ids=lambda path: str(path.name))
def test_native_file_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_NATIVE_LINES


@every_python_file
def test_file_reads_no_pickle(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [(node, unsafe) for node in ast.walk(tree) if (unsafe := _unsafe(node))]
    assert not [(getattr(node, "lineno", 0), unsafe) for node, unsafe in found]


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_raise_and_do_not_assert(package: str) -> None:
    found = [
        f"{path}:{node.lineno}"
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assert)
    ]
    assert not found


def test_git_tracks_nothing_that_was_made() -> None:
    made = [
        path
        for path in _tracked_files()
        if NOT_SOURCE.intersection(path.parts) or path.suffix in (".o", ".so")
    ]
    assert not made, f"{len(made)} files, first {made[0]}"


def test_no_tracked_file_names_a_path_of_one_machine() -> None:
    found = [
        path
        for path in _tracked_files()
        if not NOT_SOURCE.intersection(path.parts)
        and (ROOT / path).is_file()
        and not (ROOT / path).samefile(__file__)
        and b"\0" not in (text := (ROOT / path).read_bytes())
        and MACHINE_PATH.search(text)
    ]
    assert not found
