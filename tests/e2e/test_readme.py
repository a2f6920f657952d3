"""Every command of the README and the docs is run here, and its printed answer is compared."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.e2e.server import LAUD, ROOT, Server, environment, wait_for_url
from tests.e2e.texts import TEXTS, Command, commands, is_about_objects, on_path, run

pytestmark = pytest.mark.e2e

VOLATILE = {"milliseconds", "request_id", "slack_ms", "predicted", "measured"}
TRIES, PAUSE_S = 40, 0.25
"""A busy moment may have an answer come late or from a faster point; not ten seconds of them."""


def readme_blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXTS[0].read_text("utf-8"), re.M | re.S)


def labels() -> list[str]:
    manifest = json.loads((ROOT / "engines/zoo/clothing.laud/manifest.json").read_text("utf-8"))
    return [str(label) for label in manifest["labels"]]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set with the demo's classes: four noise pictures a class for training, two to evaluate."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("validation", 2), ("test", 2)):
        for label in labels():
            folder = root / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                noise = rng.integers(0, 256, (40, 40, 3), np.uint8)
                Image.fromarray(noise).resize((200, 180)).save(folder / f"{i}.jpg")
    return root


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like the checkout to the commands, but takes what they write."""
    place = tmp_path_factory.mktemp("checkout")
    for name in ("configs", "service"):
        (place / name).symlink_to(ROOT / name)
    return place


def curl(command: Command, demo: Server, pictures: Path, place: Path) -> None:
    line = command.line.replace("localhost:8000", demo.url)
    if not command.printed:
        assert run(line, place)
        return
    written = json.loads(command.printed)
    for _ in range(TRIES):
        got = json.loads(run(line, place))
        if all(got[key] == written[key] for key in ("reason", "outcome")):
            break
        time.sleep(PAUSE_S)
    else:
        pytest.fail(f"never answered at '{written['reason']}' and '{written['outcome']}'")
    assert_same_answer(got, written)


def assert_same_answer(got: dict[str, Any], written: dict[str, Any]) -> None:
    """Equal but for times, ids, and the last digits of probabilities."""
    assert got.keys() == written.keys()
    for one, other in zip(got.pop("labels"), written.pop("labels"), strict=True):
        assert one["label"] == other["label"]
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-3)
    for times in ("milliseconds", "predicted", "measured"):
        assert got[times].keys() == written[times].keys()
    # Three times what `full` takes here.
    assert got["objective"].pop("slo_ms") > 0 < written["objective"].pop("slo_ms")
    drop = VOLATILE
    assert {k: v for k, v in got.items() if k not in drop} == {
        k: v for k, v in written.items() if k not in drop
    }


def make(command: Command, demo: Server, pictures: Path, place: Path) -> None:
    """All are run for real by .ci/run; here: the target exists and does what the README says."""
    target = command.line.split()[1]
    recipe = subprocess.run(
        ["make", "--dry-run", "--always-make", target],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    expected = {
        "serve": "laud serve zoo:clothing --host 127.0.0.1 --port 8000",
        "test": "pytest",
        "gpu-checks": "pytest -m wheels",
    }
    assert expected[target] in recipe
    assert ("reference" in recipe) == (target != "serve"), "make serve needs no torch"


def footprint(command: Command, demo: Server, pictures: Path, place: Path) -> None:
    """The same measurement, of one start instead of five."""
    script, *arguments = shlex.split(command.line)[1:]
    printed = run(shlex.join([sys.executable, script, *arguments, "--starts", "1"]), ROOT)
    report = json.loads(printed)
    assert report.keys() == json.loads(command.printed).keys()
    assert report["engine"] == "cpu"
    assert report["resident_mb"] < 300


def own_script(command: Command, demo: Server, pictures: Path, place: Path) -> None:
    """A script of the checkout, on what a command above it made or on the demo."""
    line = command.line.replace("DIR", shlex.quote(str(pictures)))
    printed = run(line.replace(".venv/bin/python ", f"{sys.executable} {ROOT}/", 1), place)
    told = {
        "cascade.py": ("two passes", "log-loss  size log-loss"),
        "shares.py": ("glance-",),
        "mirrored.py": ("equal answers",),
        "front.py": ('"p50_us"',),
    }
    script = Path(command.line.split()[1]).name
    assert any(words in printed for words in told[script])


def inspect(command: Command, demo: Server, pictures: Path, place: Path) -> None:
    assert "full" in run(command.line, place)


def evaluate(command: Command, demo: Server, pictures: Path, place: Path) -> None:
    printed = run(command.line.replace("DIR", shlex.quote(str(pictures))), place)
    images = 2 * command.line.count("DIR/") * len(labels())
    if "--json" in command.line:
        assert json.loads(printed)["points"][0]["images"] == images
    else:
        assert re.search("cpu, (int8|fp32), ", printed)
        assert f"{images} images" in printed
    for picture in re.findall(r"--pareto (\S+)", command.line):
        assert (place / picture).read_bytes().startswith(b"\x89PNG")


def train(command: Command, demo: Server, pictures: Path, place: Path) -> None:
    """The same command on a few pictures, with phases of one epoch."""
    short = " ".join(
        f"--set {key}=1" for key in ("static.epochs", "sizes.epochs", "dynamic.epochs")
    )
    short += " --set dynamic.statistics_images=8 --set batch_size=8"
    run(command.line.replace("DIR", shlex.quote(str(pictures))) + " " + short, place)
    (out,) = re.findall(r"--out (\S+)", command.line)
    assert (place / out / "model-sizes.safetensors").is_file()
    assert (place / out / "curves.png").is_file()


def export(command: Command, demo: Server, pictures: Path, place: Path) -> None:
    printed = run(command.line.replace("DIR", shlex.quote(str(pictures))), place)
    assert "full" in printed
    (out,) = re.findall(r"-o (\S+)", command.line)
    assert (place / out if "--onnx" in command.line else place / out / "manifest.json").is_file()


def bench(command: Command, demo: Server, pictures: Path, place: Path) -> None:
    """The same comparison on small images and few runs, which may well be noisy (status 3)."""
    line = command.line.replace("DIR", shlex.quote(str(pictures)))
    small = "" if "zoo:" in line else " --size 32"
    printed = run(f"{line}{small} --repeats 8 || test $? = 3", place)
    assert "ratio_same" in printed or "OpenVINO" in printed


def measure(command: Command, demo: Server, pictures: Path, place: Path) -> None:
    """The same on one thread in one precision, with few repeats; it may well be noisy."""
    line = command.line.replace("DIR", shlex.quote(str(pictures)))
    output = shlex.split(line)[-1]
    if " device " not in line:
        line += " --precision int8 --threads 1 --batch 1 --batch 2 --repeats 3"
    run(f"{line} || test $? = 3", place)
    assert json.loads((place / output).read_text("utf-8"))["device"]["cpus"] >= 1


def predict(command: Command, demo: Server, pictures: Path, place: Path) -> None:
    """What a command above it measured is read; a printed answer is compared."""
    printed = run(command.line, place)
    assert printed
    if command.printed:
        assert printed.strip() == command.printed
    if "--json" in command.line:
        assert json.loads(printed)


def plan(command: Command, demo: Server, pictures: Path, place: Path) -> None:
    printed = run(command.line, place)
    assert "layer" in printed
    for picture in re.findall(r"--png (\S+)", command.line):
        assert (place / picture).read_bytes().startswith(b"\x89PNG")


def bench_predictor(command: Command, demo: Server, pictures: Path, place: Path) -> None:
    """The same comparison of the demo alone, with few calls, which may well be noisy."""
    line = command.line.replace("DIR", shlex.quote(str(pictures)))
    few = "--network clothing-int8 --calls 3 --online-calls 20 --settling 0"
    printed = run(f"{line} {few} || test $? = 3", place)
    assert "analytic" in printed


def bench_plan(command: Command, demo: Server, pictures: Path, place: Path) -> None:
    """The same comparison on small images and few runs, which may well be noisy (status 3)."""
    printed = run(f"{command.line} --size 32 --repeats 4 || test $? = 3", place)
    assert "fastest" in printed


def compile_matrix(command: Command, demo: Server, pictures: Path, place: Path) -> None:
    pytest.importorskip("triton")
    printed = run(command.line.replace(".venv/bin/python ", f"{sys.executable} ", 1), ROOT)
    assert printed.startswith("| kernel | sm_86 |")


def pip(command: Command, demo: Server, pictures: Path, place: Path) -> None:
    """What is to be installed exists; installing it is what `make test` has done."""
    if "tensorrt-cu13>=" in command.line:
        pytest.skip("TensorRT whole comes from NVIDIA's own index and is of use on a GPU only")
    (extra,) = re.findall(r"^pip install -c constraints.txt '\.\[(\w+)\]'$", command.line)
    assert extra in (metadata("laudserve").get_all("Provides-Extra") or [])


def on_gpu(command: Command, demo: Server, pictures: Path, place: Path) -> None:
    """Without a GPU, or the wheel that would do without one, it says so in one line."""
    done = subprocess.run(
        command.line, shell=True, check=False, cwd=place, env=on_path(),
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    if done.returncode == 0:
        pytest.skip("this machine has what the command needs: it did what it says")
    said = [line for line in done.stderr.splitlines() if line.startswith("laud: ")]
    assert (done.returncode, len(said)) == (2, 1), done.stderr
    assert re.search("driver|GPU|plan|tensorrt|TensorRT", said[0])


def container(command: Command, demo: Server, pictures: Path, place: Path) -> None:
    """What it names is there; images are not built here."""
    for file in re.findall(r"-f (\S+)", command.line):
        assert (ROOT / file).is_file()
    for name in re.findall(r"laudserve-gpu (\w+)", command.line):
        assert "Usage" in run(f"laud {name} --help", place)
    pytest.skip("containers are linted, not built: no docker and no GPU here")


def serve(command: Command, demo: Server, pictures: Path, place: Path) -> None:
    if "--engine tensorrt" in command.line:
        on_gpu(command, demo, pictures, place)
        return
    log = place / "serve.log"
    line = command.line.replace("--admin-port 9000", "--admin-port 0")
    arguments = [str(LAUD), *shlex.split(line)[1:], "--port", "0"]
    with log.open("wb") as file:
        process = subprocess.Popen(arguments, cwd=place, env=environment(), stderr=file)
    try:
        assert wait_for_url(process, log)
        process.terminate()
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()


def simulate(command: Command, demo: Server, pictures: Path, place: Path) -> None:
    """The same with few runs."""
    few = " --seeds 2 --requests 200" if "simulate" in command.line else ""
    printed = run(command.line.replace("docs/", f"{ROOT}/docs/") + few, place)
    assert "foresight" in printed or "40 ms" in printed or "in time" in printed


def load(command: Command, demo: Server, pictures: Path, place: Path) -> None:
    """The same load, on the server that the tests started."""
    printed = run(command.line.replace("http://localhost:8000", demo.url), place)
    assert "attainment" in printed or "in time" in printed


def bench_serve(command: Command, demo: Server, pictures: Path, place: Path) -> None:
    """The same measurement of a server of its own, which may well be noisy (status 3)."""
    short = "--turns 20 --seconds 1 --rounds 1 --steps 1 --hog 2"
    assert "zoo:clothing" in run(f"{command.line} {short} || test $? = 3", place)


def keys(command: Command, demo: Server, pictures: Path, place: Path) -> None:
    assert run(command.line, place).strip()
    assert "alice" in (place / "keys.yaml").read_text("utf-8")


HOW: dict[str, Callable[[Command, Server, Path, Path], None]] = {
    "curl": curl,
    "make": make,
    ".venv/bin/python tests/benchmarks/footprint.py": footprint,
    ".venv/bin/python tests/benchmarks/cascade.py": own_script,
    ".venv/bin/python tests/benchmarks/shares.py": own_script,
    ".venv/bin/python tests/benchmarks/mirrored.py": own_script,
    ".venv/bin/python tests/benchmarks/front.py": own_script,
    ".venv/bin/python -m engines.tensorrt.compile_matrix": compile_matrix,
    "laud bench engine": bench,
    "laud bench predictor": bench_predictor,
    "laud bench plan": bench_plan,
    "laud bench serve": bench_serve,
    "laud whatif": simulate,
    "laud simulate": simulate,
    "laud load": load,
    "laud keys": keys,
    "laud measure": measure,
    "laud predict": predict,
    "laud plan": plan,
    "laud inspect": inspect,
    "laud evaluate": evaluate,
    "laud train": train,
    "laud export": export,
    "laud serve": serve,
    "laud build": on_gpu,
    "laud verify": on_gpu,
    "mkdir": lambda command, demo, pictures, place: None,
    "docker": container,
    "pip install": pip,
}


# They make networks or draw; serving, inspecting and evaluating them needs no torch. `laud serve
# clothing.laud` serves what the two before it made.
NEED_TORCH = (
    "laud train ",
    "laud export ",
    "laud bench ",
    "laud serve clothing.laud",
    ".venv/bin/python -m engines.tensorrt",
)


def needs_torch(line: str) -> bool:
    made = ("nested.laud", "clothing-128.laud", "px224.laud", "seed2.laud", "direct.laud")
    return line.startswith(NEED_TORCH) or any(
        word in line for word in ("--reference", "--png", "--pareto", *made)
    )


def parameters() -> list[Any]:
    """One test a command, marked where it needs torch."""
    return [
        pytest.param(
            command,
            id=f"{command.file}: {command.line[:60]}",
            marks=[pytest.mark.torch] if needs_torch(command.line) else [],
        )
        for command in commands()
        if not is_about_objects(command.line)
    ]


@pytest.mark.parametrize("command", parameters())
def test_command(command: Command, demo: Server, pictures: Path, workplace: Path) -> None:
    how = [HOW[start] for start in HOW if f"{command.line} ".startswith(f"{start} ")]
    assert len(how) == 1, f"no test runs '{command.line}': add it to HOW"
    how[0](command, demo, pictures, workplace)


def test_the_readme_opens_with_the_two_commands_and_one_curl() -> None:
    lines = [c.line for c in commands() if c.file == "README.md"]
    assert lines[:2] == ["make serve", "make test"]
    assert lines[2].startswith("curl ")


def test_python_examples(demo: Server) -> None:
    blocks = readme_blocks("python")
    assert blocks
    for block in blocks:
        code = block.replace("localhost:8000", demo.url.removeprefix("http://"))
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            check=False, cwd=ROOT, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "hat" in done.stdout


def test_yaml_example_is_a_valid_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from service.settings import load_settings

    for variable in [name for name in os.environ if name.startswith("LAUD_")]:
        monkeypatch.delenv(variable)
    (block,) = readme_blocks("yaml")
    path = tmp_path / "settings.yaml"
    path.write_text(block, encoding="utf-8")
    assert load_settings(path).bundles == ("zoo:clothing",)
