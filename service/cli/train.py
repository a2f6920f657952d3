"""`laud train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.output import say


def train(
    config: Annotated[Path, typer.Argument(help="YAML file, such as configs/clothing.yaml.")],
    out: Annotated[Path, typer.Option(help="Run folder; an interrupted run there is resumed.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder with train/ and validation/ (replaces data.root).")
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option("--set", help="Replace a value: --set dynamic.epochs=4 (may be repeated)."),
    ] = None,
) -> None:
    """Train a dynamic network on a folder of labelled pictures.

    The time it will take is printed first. Stop it whenever you like: the same command goes on
    where it was, with the same result. The run folder gets the configuration, metrics.csv,
    curves.png and the activation rate per masker.

        laud train configs/clothing.yaml --data DIR --out runs/clothing
    """
    import yaml

    from engines.errors import ConfigError
    from engines.training.run import train as run_training

    overrides: dict[str, Any] = {}
    for item in override or []:
        key, equals, value = item.partition("=")
        if not equals:
            raise ConfigError(f"--set takes KEY=VALUE, got '{item}'")
        try:
            overrides[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"--set {key}: '{value}' is not a YAML value") from None
    if data is not None:
        overrides["data.root"] = str(data)
    run_training(config, out, overrides, say)
