"""`laud train`: a configuration file, or a folder of pictures and nothing else."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from service.cli.output import JSON, say

_NONE = "none"

_T = TypeVar("_T")


def train(
    config: Annotated[
        Path | None,
        typer.Argument(help="YAML file, such as configs/clothing.yaml or RUN/config.yaml."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder with train/ and validation/ or val/, or one folder a class "
            "(with CONFIG: replaces data.root)."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Run folder; an interrupted run there is resumed [runs/ and the name of DIR]."
        ),
    ] = None,
    arch: Annotated[
        str | None,
        typer.Option(help="Bundle whose weights and stages to start from: NAME.laud, zoo:NAME."),
    ] = None,
    budgets: Annotated[
        str | None,
        typer.Option(help="Shares of the work to train for, or none [.8,.65]."),
    ] = None,
    sizes: Annotated[
        str | None,
        typer.Option(help="Smaller image sizes to train, or none [.9 to .4 of the full one]."),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Full image size in pixels [that of --arch].")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(help="How long to train on this machine [by the number of pictures]."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of every random choice [0].")] = None,
    int8: Annotated[
        bool | None, typer.Option("--int8/--no-int8", help="Make the bundle ready for int8 [yes].")
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option("--set", help="Replace a value: --set dynamic.epochs=4 (may be repeated)."),
    ] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Train a dynamic network on labelled pictures.

    With --data alone everything else has defaults: the demo's network learns your classes, a bundle
    is exported, and its operating points are printed beside their rivals. DIR itself is only read.

        laud train --data DIR

    With CONFIG the run is what the file says and `laud export` is a step of its own.

        laud train configs/clothing.yaml --data DIR --out runs/clothing

    The time it will take is printed first. Stop it whenever you like: the same command goes on
    where it was, with the same result. The run folder gets the configuration, metrics.csv,
    curves.png and the activation rate per masker.
    """
    from engines.errors import InvalidInput

    only_without = {
        "--arch": arch, "--budgets": budgets, "--sizes": sizes, "--image-size": image_size,
        "--minutes": minutes, "--seed": seed, "--int8": int8, "--json": as_json or None,
    }  # fmt: skip
    overrides = _overrides(override or [])
    if config is not None:
        if config.is_dir():
            raise InvalidInput(
                f"'{config}' is a folder, not a configuration; train on its pictures with "
                f"--data {shlex.quote(str(config))}"
            )
        if given := [name for name, value in only_without.items() if value is not None]:
            raise InvalidInput(
                f"{', '.join(given)}: CONFIG says it all; change it with --set KEY=VALUE, or leave "
                "CONFIG out and name the pictures with --data DIR"
            )
        if out is None:
            raise InvalidInput("with CONFIG, say where the run goes: --out runs/NAME")
        if data is not None:
            overrides["data.root"] = str(data)
        from engines.training.run import train as run_training

        run_training(config, out, overrides, say)
        return
    if data is None:
        raise InvalidInput("name the pictures with --data DIR, or a configuration: CONFIG.yaml")
    from engines.training.defaults import DEFAULT_ARCH, Options
    from service.cli.train_folder import train_folder

    options = Options(
        budgets=_numbers("--budgets", ".8,.65", budgets, float),
        sizes=_numbers("--sizes", "128,96", sizes, int),
        image_size=image_size,
        seed=seed or 0,
    )
    train_folder(
        data,
        out,
        arch=arch or DEFAULT_ARCH,
        options=options,
        minutes=minutes,
        int8=int8 is not False,
        overrides=overrides,
        as_json=as_json,
    )


def _overrides(items: list[str]) -> dict[str, Any]:
    import yaml

    from engines.errors import ConfigError

    overrides: dict[str, Any] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals:
            raise ConfigError(f"--set takes KEY=VALUE, got '{item}'")
        try:
            overrides[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"--set {key}: '{value}' is not a YAML value") from None
    return overrides


def _numbers(
    option: str, such_as: str, text: str | None, kind: Callable[[str], _T]
) -> tuple[_T, ...] | None:
    """Numbers between commas; None where the option is absent."""
    from engines.errors import InvalidInput

    if text is None:
        return None
    if text == _NONE:
        return ()
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise InvalidInput(
            f"{option} takes numbers between commas, such as {such_as}, or {_NONE}; got '{text}'"
        ) from None
