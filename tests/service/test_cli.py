"""`laud`: help, what the commands print and hand on, and errors as one line with exit status 2."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from engines import registry
from engines.bundle import MANIFEST, WEIGHTS, read_bundle
from engines.errors import ConfigError
from service.cli import main
from service.settings import Settings
from tests.service.process import bundle_in
from tests.service.scripted import LABELS, SIZE, ScriptedEngine, jpeg, manifest

COMMANDS = ("serve", "train", "export", "inspect", "evaluate")


@dataclass(frozen=True)
class Done:
    status: int
    out: str
    err: str


Laud = Callable[..., Done]


@pytest.fixture
def laud(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Laud:
    """`laud(*arguments)` in this process."""

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["laud", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Done(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings of every server that would have been started, in place of starting it."""
    started: list[Settings] = []
    monkeypatch.setattr("service.server.run", started.append)
    monkeypatch.setattr("service.logs.configure_logs", lambda style, level: None)
    return started


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> ScriptedEngine:
    """What `--engine scripted` loads."""
    engine = ScriptedEngine()
    monkeypatch.setitem(registry._ENGINES, "scripted", lambda bundle, threads: engine)
    return engine


def assert_one_line(done: Done) -> str:
    """Refused as the user's to mend; the reason is returned."""
    assert (done.status, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert line.startswith("laud: ")
    return line.removeprefix("laud: ")


def test_help_names_every_command(laud: Laud) -> None:
    done = laud("--help")
    assert (done.status, done.err) == (0, "")
    assert all(command in done.out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(laud: Laud, command: str) -> None:
    done = laud(command, "--help")
    assert done.status == 0
    assert f"laud {command}" in done.out
    assert "--help" in done.out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["fly"], "No such command 'fly'"),
        (["inspect"], "Missing argument 'bundle'"),
        (["serve", "--prot", "1"], "No such option: --prot"),
    ],
)
def test_wrong_usage_is_told(laud: Laud, arguments: list[str], reason: str) -> None:
    done = laud(*arguments)
    assert done.status == 2
    assert reason in done.err


def test_serve_hands_the_options_on(laud: Laud, served: list[Settings]) -> None:
    options = ("--host", "::1", "--port", "9", "--engine", "x", "--engine-threads", "3")
    assert laud("serve", "zoo:a", "b.laud", *options, "--log-format", "json").status == 0
    assert served == [
        Settings(
            bundles=("zoo:a", "b.laud"),
            host="::1",
            port=9,
            engine="x",
            engine_threads=3,
            log_format="json",
        )
    ]


def test_options_outrank_the_environment_which_outranks_the_file(
    laud: Laud, served: list[Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "laud.yaml"
    config.write_text("bundles: [zoo:file]\nport: 1\nhost: file\n", encoding="utf-8")
    monkeypatch.setenv("LAUD_CONFIG", str(config))
    monkeypatch.setenv("LAUD_HOST", "environment")
    monkeypatch.setenv("LAUD_PORT", "2")
    assert laud("serve", "--port", 3).status == 0
    (settings,) = served
    assert settings.bundles == ("zoo:file",)
    assert (settings.host, settings.port) == ("environment", 3)


def test_the_option_config_outranks_the_variable(
    laud: Laud, served: list[Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "laud.yaml"
    config.write_text("bundles: zoo:a\n", encoding="utf-8")
    monkeypatch.setenv("LAUD_CONFIG", "absent.yaml")
    assert laud("serve", "--config", config).status == 0
    assert "cannot read the configuration absent.yaml" in assert_one_line(laud("serve"))
    assert len(served) == 1


@pytest.mark.parametrize(
    ("variables", "arguments", "reason"),
    [
        ({}, [], "name a bundle to serve, for example: laud serve zoo:clothing"),
        ({"LAUD_PROT": "1"}, ["zoo:a"], "'LAUD_PROT' in the environment; did you mean 'LAUD_PORT'"),
        ({"LAUD_MAX_BATCH": "0"}, ["zoo:a"], "LAUD_MAX_BATCH in the environment: "),
        ({}, ["zoo:a", "--port", "70000"], "option --port: "),
        ({}, ["zoo:a", "--log-format", "xml"], "option --log-format: "),
    ],
)
def test_wrong_settings_are_one_line(
    laud: Laud,
    served: list[Settings],
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    arguments: list[str],
    reason: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert reason in assert_one_line(laud("serve", *arguments))
    assert served == []


def flip(file: Path) -> None:
    """Damage one bit of the last byte."""
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), **changes}), "utf-8")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda bundle: flip(bundle / WEIGHTS), f"{WEIGHTS}' is damaged: its hash does not match"),
        (lambda bundle: edit(bundle / MANIFEST, schema_version=2), "install a newer laudserve"),
        (lambda bundle: edit(bundle / MANIFEST, colour="x"), "is not valid: colour: Extra inputs"),
        (lambda bundle: edit(bundle / MANIFEST, labels=["a", "b", "c"]), "its hash does not match"),
        (lambda bundle: (bundle / WEIGHTS).unlink(), "cannot read"),
        (lambda bundle: (bundle / MANIFEST).write_text("{"), "is not JSON"),
    ],
    ids=["flipped-byte", "newer", "unknown-key", "changed", "no-weights", "no-json"],
)
@pytest.mark.parametrize("command", ["serve", "inspect"])
def test_bad_bundle_is_refused_with_the_reason(
    laud: Laud,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    command: str,
    damage: Callable[[Path], None],
    reason: str,
) -> None:
    monkeypatch.setattr("service.logs.configure_logs", lambda style, level: None)
    bundle = bundle_in(tmp_path)
    damage(bundle)
    options = ("--port", 0) if command == "serve" else ()
    assert reason in assert_one_line(laud(command, bundle, *options))


@pytest.mark.parametrize("name", ["zoo:nothing", "nowhere.laud"])
def test_missing_bundle_is_refused(laud: Laud, name: str) -> None:
    assert name in assert_one_line(laud("inspect", name))


def test_inspect_prints_the_manifest_as_json(laud: Laud, tmp_path: Path) -> None:
    bundle = bundle_in(tmp_path)
    done = laud("inspect", bundle, "--json")
    printed = json.loads(done.out)
    assert done.status == 0
    assert printed.pop("hash") == (found := read_bundle(bundle)).hash
    assert printed == found.manifest.model_dump(mode="json")


def test_inspect_prints_a_summary(laud: Laud, tmp_path: Path) -> None:
    done = laud("inspect", bundle_in(tmp_path))
    assert done.status == 0
    assert "colours: classification, 3 labels" in done.out
    assert "labels: red, green, blue" in done.out
    assert "1x4 spatial S=2" in done.out
    for name in ("full", "small", "skip"):
        assert name in done.out


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two pictures a class, but one of the red ones is blue."""
    root = tmp_path / "pictures"
    for label in LABELS:
        (root / label).mkdir(parents=True)
        for i in range(2):
            colour = "blue" if (label, i) == ("red", 1) else label
            (root / label / f"{i}.jpg").write_bytes(jpeg(colour))
    return root


def test_evaluate_prints_every_point_as_json(
    laud: Laud, scripted: ScriptedEngine, tmp_path: Path, pictures: Path
) -> None:
    bundle = bundle_in(tmp_path)
    done = laud("evaluate", bundle, pictures, "--engine", "scripted", "--json")
    assert done.status == 0, done.err
    printed = json.loads(done.out)
    assert (printed["bundle"], printed["engine"]) == (read_bundle(bundle).hash, "scripted")
    points = {point["name"]: point for point in printed["points"]}
    assert [*points] == [record.point.name for record in manifest().points]
    full = points["full"]
    assert full["images"] == 6
    assert full["accuracy"] == pytest.approx(5 / 6, abs=1e-4)
    assert full["accuracy_low"] < full["accuracy"] < full["accuracy_high"]
    assert (full["agreement"], full["macs_ratio"], full["activation"]) == (1.0, 1.0, 1.0)
    assert (points["skip"]["macs_ratio"], points["skip"]["activation"]) == (0.5, 0.5)
    assert scripted.is_closed


def test_evaluate_prints_a_table_of_the_asked_points(
    laud: Laud, scripted: ScriptedEngine, tmp_path: Path, pictures: Path
) -> None:
    options = ("--engine", "scripted", "--point", "small")
    done = laud("evaluate", bundle_in(tmp_path), pictures, *options)
    assert done.status == 0, done.err
    (row,) = [line for line in done.out.splitlines() if "0.833" in line]
    assert "small" in row
    assert {*scripted.batches[0]} <= {"full", "small"}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--point", "tiny"], "'colours' has no operating point 'tiny'; it has: full, small, skip"),
        (["--engine", "abacus"], "unknown engine 'abacus'; there are: reference"),
    ],
    ids=str,
)
def test_evaluate_refuses_what_there_is_not(
    laud: Laud, tmp_path: Path, pictures: Path, options: list[str], reason: str
) -> None:
    assert reason in assert_one_line(laud("evaluate", bundle_in(tmp_path), pictures, *options))


def test_evaluate_refuses_a_folder_without_pictures(laud: Laud, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty" in assert_one_line(laud("evaluate", bundle_in(tmp_path), tmp_path / "empty"))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, Path, dict[str, Any]]]:
    """Configuration, run folder and overrides of every training, in place of training."""
    runs: list[tuple[Path, Path, dict[str, Any]]] = []

    def train(config: Path, out: Path, overrides: dict[str, Any], say: object) -> None:
        if config.name == "bad.yaml":
            raise ConfigError("not this one")
        runs.append((config, out, overrides))

    module = ModuleType("engines.training.run")
    module.train = train  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return runs


def test_train_replaces_values_of_the_configuration(
    laud: Laud, trained: list[tuple[Path, Path, dict[str, Any]]]
) -> None:
    done = laud(
        "train", "a.yaml", "--out", "run", "--data", "photos",
        "--set", "dynamic.epochs=4", "--set", "name=a=b", "--set", "sizes=[1, 2]",
    )  # fmt: skip
    assert done.status == 0
    expected = {"dynamic.epochs": 4, "name": "a=b", "sizes": [1, 2], "data.root": "photos"}
    assert trained == [(Path("a.yaml"), Path("run"), expected)]


@pytest.mark.parametrize(
    ("config", "override", "reason"),
    [
        ("a.yaml", "epochs", "--set takes KEY=VALUE, got 'epochs'"),
        ("a.yaml", "epochs=[1", "--set epochs: '[1' is not a YAML value"),
        ("bad.yaml", "epochs=1", "not this one"),
    ],
)
def test_train_refuses_in_one_line(
    laud: Laud,
    trained: list[tuple[Path, Path, dict[str, Any]]],
    config: str,
    override: str,
    reason: str,
) -> None:
    assert assert_one_line(laud("train", config, "--out", "run", "--set", override)) == reason
    assert trained == []


def test_export_says_what_it_wrote(
    laud: Laud, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = read_bundle(bundle_in(tmp_path))
    module = ModuleType("engines.export.run")
    module.export = lambda run, output, data, say: bundle  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    done = laud("export", "run", "-o", "new.laud")
    assert done.status == 0
    assert done.err == f"wrote new.laud ({bundle.hash[:12]})\n"
    assert all(word in done.out for word in ("full", "small", "skip", str(SIZE)))


def test_an_interrupt_is_no_error(laud: Laud, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(ref: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("engines.bundle.read_bundle", interrupt)
    assert laud("inspect", os.devnull) == Done(130, "", "")
