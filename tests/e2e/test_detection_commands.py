"""The commands about models that find objects, one after the other, on a few pictures of discs."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.e2e.server import LAUD, ROOT, environment, wait_for_url
from tests.e2e.texts import Command, commands, is_about_objects
from tests.engines.detection.tiny import discs, shown, voc_object, write_nuclei

pytestmark = [pytest.mark.e2e, pytest.mark.torch]

CELLS = ("Platelets", "RBC", "WBC")
# One epoch on crops of 64 pixels, and as little timing as there is.
SHORT = {
    "laud train": "--set image_size=64 --set crop_size=64 --set sizes=[32] --set batch_size=2 "
    "--set epochs=1 --set measure_every=1",
    "laud evaluate": "--latency-seconds 0.01",
}
# Of the one that learns to skip: 16 pixels of patches in a picture of 64.
SHORT_DYNAMIC = (
    "--set dynamic.epochs=1 --set dynamic.sizes=[64] --set dynamic.budgets=[0.7] "
    "--set dynamic.statistics_images=2 --set masks.epochs=1"
)
LICENCES = {"nuclei": "CC0", "bccd": "MIT, Copyright (c) 2017 shenggan"}


@dataclass
class Place:
    """Where the commands run, and the server that one of them has started."""

    path: Path
    servers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    url: str = ""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A folder that looks like the checkout, with both sets; what was started in it is stopped."""
    path = tmp_path_factory.mktemp("objects")
    (path / "configs").symlink_to(ROOT / "configs")
    (path / "service").mkdir()
    (path / "service" / "samples").symlink_to(ROOT / "service" / "samples")
    write_nuclei(path / "DIR", {"train": (4, 3), "validation": (3, 0), "test": (5, 2)})
    write_cells(path / "BCCD")
    shutil.copy(path / "DIR/test/images/0.png", path / "cells.png")
    found = Place(path)
    yield found
    for server in found.servers:
        server.kill()
        server.wait()


def write_cells(root: Path) -> None:
    """Two pictures a split in VOC's layout, a cell of each kind in each of them."""
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    for split in ("train", "val", "test"):
        names = [f"{split}{i}" for i in range(2)]
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names))
        for name in names:
            Image.fromarray(shown(discs(4, seed=len(name), width=64))).save(
                root / "JPEGImages" / f"{name}.jpg"
            )
            objects = "".join(
                voc_object(cell, 5 + 20 * i, 8, 20 + 20 * i, 30) for i, cell in enumerate(CELLS)
            )
            size = "<size><width>64</width><height>48</height></size>"
            annotation = f"<annotation>{size}{objects}</annotation>"
            (root / "Annotations" / f"{name}.xml").write_text(annotation)


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


def train(command: Command, place: Place) -> None:
    short = SHORT["laud train"]
    if "nuclei.yaml" in command.line:
        short = f"{short} {SHORT_DYNAMIC}"
    for phase in re.findall(r"--set (\S*epochs)=0", command.line):
        short = short.replace(f"--set {phase}=1", "")
    run(f"{command.line} {short}", place)
    (out,) = re.findall(r"--out (\S+)", command.line)
    assert (place.path / out / "model-static.safetensors").is_file()


def export(command: Command, place: Place) -> None:
    if "--onnx" in command.line:
        run(command.line, place)
        assert {"nuclei.onnx", "nuclei-masks.onnx"} <= {each.name for each in place.path.iterdir()}
        return
    assert "size-32" in run(command.line, place)
    bundle = place.path / shlex.split(command.line)[4]
    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    notices = " ".join(manifest["provenance"]["notices"])
    assert "Yahoo" in notices
    assert LICENCES[manifest["name"]] in notices
    labels = {"nuclei": ["nucleus"], "bccd": list(CELLS)}
    assert manifest["labels"] == labels[manifest["name"]]


def evaluate(command: Command, place: Place) -> None:
    printed = run(f"{command.line} {SHORT['laud evaluate']}", place)
    assert re.search(r"2 pictures, \d objects; maxDets 1/100/500", printed)
    for picture in re.findall(r"--pareto (\S+)", command.line):
        assert (place.path / picture).read_bytes().startswith(b"\x89PNG")


def bench(command: Command, place: Place) -> None:
    """The same comparison of the small network that was trained here, with few calls, which may
    well be noisy (status 3)."""
    line = re.sub(r"--point \S+ ", "", command.line.replace("zoo:nuclei", "nuclei.laud"))
    line = line.replace("--against-size 512", "--against-size 64")
    printed = run(f"{line} --repeats 4 || test $? = 3", place)
    assert "own_dense" in printed if "--json" in line else "nothing skipped" in printed


def serve(command: Command, place: Place) -> None:
    """It goes on serving, for the commands that come after."""
    log = place.path / "serve.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [LAUD, *shlex.split(command.line)[1:], "--port", "0"],
            cwd=place.path,
            env=environment(OMP_NUM_THREADS="1"),
            stderr=file,
        )
    place.servers.append(process)
    place.url = wait_for_url(process, log)


def curl(command: Command, place: Place) -> None:
    """A picture with objects, or JSON; a printed answer has the very fields of a real one."""
    line = command.line.replace("localhost:8000", place.url)
    if "overlay=1" in line:
        run(line, place)
        (drawn,) = re.findall(r"-o (\S+)", line)
        with Image.open(place.path / drawn) as picture:
            assert picture.format == "JPEG"
        return
    got = json.loads(run(line, place))
    assert "error" not in got
    # One epoch finds nothing surely.
    unsure = json.loads(run(re.sub(r"\?(min_score=[\d.]+&)?", "?min_score=0&", line), place))
    assert unsure["objects"]
    if command.printed:
        written = json.loads(command.printed)
        assert fields(got | {"objects": []}) == fields(written | {"objects": []})
        assert fields(unsure["objects"][0]) == fields(written["objects"][0])
    (first, *_) = unsure["objects"]
    assert ("mask" in first) == ("/v1/segment" in line)
    if "masks=polygon" in line:
        assert all(len(polygon) % 2 == 0 for polygon in first["mask"])
    if "explain=1" in line:
        assert got["explain"]["skips_nothing"] is (not got["point"].startswith("skip"))


def fields(value: Any) -> Any:
    """Names and kinds, without what stands in them."""
    if isinstance(value, dict):
        return {name: fields(of) for name, of in value.items()}
    return "number" if isinstance(value, int | float) else type(value).__name__


HOW = {
    "laud train ": train,
    "laud export ": export,
    "laud evaluate ": evaluate,
    "laud bench engine ": bench,
    "laud serve ": serve,
    "curl ": curl,
}
COMMANDS = [command for command in commands() if is_about_objects(command.line)]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: f"{c.file}: {c.line[:60]}")
def test_command(command: Command, place: Place) -> None:
    """In the order of the texts, the README first: each needs what those before it have made."""
    (how,) = [HOW[start] for start in HOW if command.line.startswith(start)]
    how(command, place)


def test_python_example(place: Place) -> None:
    (block,) = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs/serving.md").read_text("utf-8"), re.M | re.S
    )
    code = block.replace("localhost:8000", place.url.removeprefix("http://"))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code.replace('"min_score": 0.3', '"min_score": 0')],
        check=False, cwd=place.path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.match(r"\d+ \[\[", done.stdout)
