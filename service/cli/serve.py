"""`laud serve`: read the settings, take the port, load the bundles, run until asked to stop."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def serve(
    bundles: Annotated[
        list[str] | None, typer.Argument(help="zoo:NAME or NAME.laud directories.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on [127.0.0.1].")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on [8000].")] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file of settings; options outrank it.")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="cpu or reference [cpu].")] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp32, bf16 or int8 [the best there is].")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of the engine [every CPU it may use].")
    ] = None,
    log_format: Annotated[str | None, typer.Option(help="auto, json or console.")] = None,
) -> None:
    """Serve bundles over HTTP: our own /v1 routes, the Open Inference Protocol v2, /metrics.

    Every setting can stand in the YAML file, or in the environment as LAUD_NAME (for example
    LAUD_MAX_BODY_BYTES); `GET /docs` describes the routes.

        laud serve zoo:clothing
        curl --data-binary @photo.jpg -H 'content-type: image/jpeg' localhost:8000/v1/classify
    """
    from service.errors import SettingsError
    from service.logs import configure_logs
    from service.server import run
    from service.settings import CONFIG_VARIABLE, load_settings

    if config is None and CONFIG_VARIABLE in os.environ:
        config = Path(os.environ[CONFIG_VARIABLE])
    settings = load_settings(
        config,
        {
            "bundles": tuple(bundles) if bundles else None,
            "host": host,
            "port": port,
            "engine": engine,
            "precision": precision,
            "threads": threads,
            "log_format": log_format,
        },
    )
    if not settings.bundles:
        raise SettingsError("name a bundle to serve, for example: laud serve zoo:clothing")
    configure_logs(settings.log_format, settings.log_level)
    run(settings)
