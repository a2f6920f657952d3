"""The commands in the texts, and how one is run."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.server import LAUD, ROOT, environment

# The tutorial's commands build on each other: tests/e2e/test_tutorial.py runs them. So do those
# about models that find objects, in whichever text: tests/e2e/test_detection_commands.py.
TEXTS = [
    ROOT / "README.md",
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if path.name != "tutorial.md"),
]


@dataclass(frozen=True)
class Command:
    """A line after `$ ` and what is printed below it."""

    file: str
    line: str
    printed: str


def commands(texts: Sequence[Path] = TEXTS) -> list[Command]:
    """All commands in the console blocks of the texts."""
    found: list[Command] = []
    for path in texts:
        for block in re.findall(r"^```console\n(.*?)^```", path.read_text("utf-8"), re.M | re.S):
            for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
                line, _, printed = part.partition("\n")
                found.append(Command(path.name, line, printed.strip()))
    return found


def is_about_objects(line: str) -> bool:
    """Whether a command trains, serves or asks a model that finds objects, without a GPU."""
    on_gpu = re.search("^laud (build|verify) |--engine tensorrt", line)
    return not on_gpu and bool(re.search("nuclei|bccd|/v1/(detect|segment)", line))


def on_path() -> dict[str, str]:
    return environment(PATH=f"{LAUD.parent}{os.pathsep}{os.environ['PATH']}")


def run(line: str, place: Path) -> str:
    done = subprocess.run(
        line, shell=True, check=False, cwd=place, env=on_path(),
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout
