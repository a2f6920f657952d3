"""`laud`: help, what the commands print and hand on, and errors as one line with exit status 2."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from engines.bundle import MANIFEST, WEIGHTS, read_bundle
from engines.errors import ConfigError
from service.settings import Settings
from tests.service.commands import Done, Laud, assert_one_line
from tests.service.process import bundle_in
from tests.service.scripted import SIZE

COMMANDS = ("serve", "train", "export", "inspect", "evaluate")


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings of every server that would have been started, in place of starting it."""
    started: list[Settings] = []
    monkeypatch.setattr("service.server.run", started.append)
    monkeypatch.setattr("service.logs.configure_logs", lambda style, level: None)
    return started


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
    options = ("--host", "::1", "--port", "9", "--log-format", "json")
    engine = ("--engine", "reference", "--precision", "fp32", "--threads", "3")
    assert laud("serve", "zoo:a", "b.laud", *options, *engine).status == 0
    assert served == [
        Settings(
            bundles=("zoo:a", "b.laud"),
            host="::1",
            port=9,
            engine="reference",
            precision="fp32",
            threads=3,
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
        (
            {},
            ["zoo:a", "--engine", "warp"],
            "option --engine: there are: cpu, reference, tensorrt, got 'warp'",
        ),
        (
            {},
            ["zoo:a", "--precision", "fp8"],
            "option --precision: there are: fp32, bf16, int8, fp16, got 'fp8'",
        ),
        ({"LAUD_THREADS": "0"}, ["zoo:a"], "LAUD_THREADS in the environment: "),
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
    module.export = lambda run, output, **options: bundle  # type: ignore[attr-defined]
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
