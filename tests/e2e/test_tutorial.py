"""The commands of docs/tutorial.md, one after the other, on a few pictures of cats and dogs."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.e2e.server import LAUD, ROOT, environment, wait_for_url
from tests.e2e.texts import Command, commands

pytestmark = [pytest.mark.e2e, pytest.mark.torch]

TUTORIAL = ROOT / "docs" / "tutorial.md"
COLOURS = {"cat": (200, 120, 60), "dog": (60, 90, 200)}
PER_CLASS = 5
# One epoch a phase on images of 40 and 32 pixels, and one second of timing.
SHORT = {
    "laud train --data": "--image-size 40 --sizes 32 --budgets .6 --set batch_size=4 "
    "--set static.epochs=1 --set sizes.epochs=1 --set dynamic.epochs=1 "
    "--set dynamic.statistics_images=8",
    "laud evaluate": "--latency-seconds 1",
}


@dataclass
class Place:
    """Where the commands run, and the server that one of them has started."""

    path: Path
    servers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    url: str = ""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A folder with the pictures `pets`; what was started in it is stopped."""
    path = tmp_path_factory.mktemp("tutorial")
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (path / "pets" / name).mkdir(parents=True)
        for i in range(PER_CLASS):
            pixels = np.array(colour) + rng.normal(0, 40, (40, 44, 3))
            picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            picture.save(path / "pets" / name / f"{i}.jpg")
    found = Place(path)
    yield found
    for server in found.servers:
        server.kill()
        server.wait()


def run(line: str, place: Place) -> str:
    done = subprocess.run(
        line, shell=True, check=False, cwd=place.path,
        env=environment(
            PATH=f"{LAUD.parent}{os.pathsep}{os.environ['PATH']}", OMP_NUM_THREADS="1"
        ),
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def serve(line: str, place: Place) -> None:
    """It goes on serving, for the commands that come after."""
    log = place.path / "serve.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [LAUD, *shlex.split(line)[1:], "--port", "0"],
            cwd=place.path,
            env=environment(),
            stderr=file,
        )
    place.servers.append(process)
    place.url = wait_for_url(process, log)


def curl(line: str, place: Place) -> None:
    """Any answer but an error; a picture gets one of its labels."""
    printed = json.loads(run(line.replace("localhost:8000", place.url), place))
    assert "error" not in printed
    if "/v1/classify" in line:
        assert {each["label"] for each in printed["labels"]} <= set(COLOURS)


def check_train(printed: str, place: Place) -> None:
    """The table of candidates, and the points beside their rivals."""
    assert "dial: int8" in printed
    assert "log-loss minus that of the best rival" in printed or "No point that skips" in printed
    assert "size-32" in printed
    bundle = place.path / "runs" / "pets" / "pets.laud"
    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    assert manifest["labels"] == sorted(COLOURS)
    assert any("Yahoo" in notice for notice in manifest["provenance"]["notices"])
    # Nothing was written beside the pictures.
    assert len([p for p in (place.path / "pets").rglob("*") if p.is_file()]) == 2 * PER_CLASS


def check_evaluate(printed: str, place: Place) -> None:
    assert "2 images" in printed
    assert (place.path / "pets.png").read_bytes().startswith(b"\x89PNG")


CHECKS = {"laud train --data": check_train, "laud evaluate": check_evaluate}


@pytest.mark.parametrize(
    "command", commands([TUTORIAL]), ids=lambda command: str(command.line[:60])
)
def test_command(command: Command, place: Place) -> None:
    """In the order of the text: each needs what those before it have made."""
    line = command.line
    if line.startswith("curl "):
        curl(line, place)
    elif line.startswith("laud serve "):
        serve(line, place)
    else:
        assert line.startswith("laud "), f"no test runs '{line}'"
        short = [more for start, more in SHORT.items() if line.startswith(start)]
        printed = run(" ".join([line, *short]), place)
        for start, check in CHECKS.items():
            if line.startswith(start):
                check(printed, place)
