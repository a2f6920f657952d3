"""Which module may import which, and what an import may load: one direction, no torch by accident.

What loads is observed in fresh interpreters; imports inside functions are read off the source.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for name in ("engines", "service") for path in (ROOT / name).rglob("*.py"))

HEAVY = {"torch", "torchvision", "fastapi"}
LIGHT_MODULES = (
    "engines.core",
    "engines.bundle",
    "engines.preprocessing",
    "engines.latency.online",
    "engines.latency.predictor",
    "engines.registry",
    "service.policy",
    "service.cli",
)

# Imports every module of `engines` where `service` cannot be imported; prints what failed and why.
IMPORT_ALL_ENGINES = """
import importlib, json, pkgutil, sys
sys.modules["service"] = None
import engines
failed = {}
def remember(name):
    failed[name] = str(sys.exc_info()[1])
for module in pkgutil.walk_packages(engines.__path__, "engines.", onerror=remember):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ImportError:
            remember(module.name)
print(json.dumps(failed))
"""


def _module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _files_of(module: str) -> list[Path]:
    """The files of a module, or of everything in it when it is a package; none when not there."""
    base = ROOT.joinpath(*module.split("."))
    return [base.with_suffix(".py")] if base.with_suffix(".py").exists() else [*base.rglob("*.py")]


def _targets(path: Path, node: ast.AST) -> Iterator[str]:
    """Absolute names of what one statement imports, `from a import b` giving both a and a.b."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        package = _module_name(path).split(".")
        if path.stem != "__init__":
            package = package[:-1]
        package = package[: len(package) - (node.level - 1)] if node.level else []
        origin = ".".join([*package, node.module] if node.module else package)
        yield origin
        yield from (f"{origin}.{alias.name}" for alias in node.names)


def _imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {target for node in ast.walk(tree) for target in _targets(path, node)}


def _top_level_imports(path: Path) -> set[str]:
    """What merely importing the file imports: all outside function bodies and TYPE_CHECKING."""
    found: set[str] = set()
    nodes: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop()
        found.update(_targets(path, node))
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            nodes.extend(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            nodes.extend(ast.iter_child_nodes(node))
    return found


def _inside(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def _run(code: str) -> str:
    command = [sys.executable, "-c", code]
    finished = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def _loaded_after(code: str) -> set[str]:
    """The packages that a fresh interpreter has loaded after running `code`."""
    report = "import json, sys; print('\\n' + json.dumps([*sys.modules]))"
    names = json.loads(_run(f"{code}\n{report}").splitlines()[-1])
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("path", sorted((ROOT / "engines").rglob("*.py")), ids=_module_name)
def test_engines_do_not_know_the_service(path: Path) -> None:
    assert not [name for name in _imports(path) if _inside(name, "service")]


@pytest.mark.torch
def test_engines_import_where_there_is_no_service() -> None:
    pytest.importorskip("torch")
    assert json.loads(_run(IMPORT_ALL_ENGINES).splitlines()[-1]) == {}


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("conftest.py")), ids=_module_name)
def test_fixtures_import_where_there_is_no_torch(path: Path) -> None:
    """pytest imports these before it drops a test: one that needs torch ends every run."""
    # Read off the source: a package in some environments is called `tests` too.
    seen: set[Path] = set()
    left = [path]
    while left:
        file = left.pop()
        imported = _top_level_imports(file)
        assert not imported & {"torch", "torchvision"}, f"{file.relative_to(ROOT)} imports it"
        seen.add(file)
        files = {ROOT.joinpath(*name.split(".")).with_suffix(".py") for name in imported}
        packages = {ROOT.joinpath(*name.split("."), "__init__.py") for name in imported}
        left.extend(each for each in files | packages if each.exists() and each not in seen)


@pytest.mark.parametrize("module", LIGHT_MODULES)
def test_import_is_light(module: str) -> None:
    if not _files_of(module):
        pytest.skip(f"{module} is not written yet")
    assert _loaded_after(f"import {module}") & HEAVY == set()


def test_serving_loads_no_torch() -> None:
    loaded = _loaded_after("import service.server, engines.cpu.engine, engines.cpu.detector")
    assert "fastapi" in loaded
    assert loaded & {"torch", "torchvision"} == set()


def test_help_is_light() -> None:
    if not _files_of("service.cli"):
        pytest.skip("service.cli is not written yet")
    code = """
import sys
from service.cli import main
sys.argv = ["laud", "--help"]
try:
    main()
except SystemExit as exit:
    assert not exit.code, exit.code
"""
    assert _loaded_after(code) & HEAVY == set()


def test_policy_needs_the_standard_library_only() -> None:
    files = _files_of("service.policy")
    if not files:
        pytest.skip("service.policy is not written yet")
    names = {name for path in files for name in _imports(path)} - {"service"}
    own = {name for name in names if _inside(name, "service.policy")}
    assert {
        name for name in names - own if name.split(".")[0] not in sys.stdlib_module_names
    } == set()


def test_training_is_reached_only_from_the_command_and_lazily() -> None:
    for path in SOURCES:
        module = _module_name(path)
        if _inside(module, "engines.training"):
            continue
        imported = {name for name in _imports(path) if _inside(name, "engines.training")}
        if _inside(module, "service.cli"):
            imported &= _top_level_imports(path)
        assert not imported, f"{module} imports {sorted(imported)}"
