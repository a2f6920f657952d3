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
    engine: Annotated[str | None, typer.Option(help="cpu, reference or tensorrt [cpu].")] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="fp32, bf16, int8, of a plan fp16 [int8 where a bundle has it]."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of the engine [every CPU it may use].")
    ] = None,
    max_batch: Annotated[
        int | None, typer.Option(help="Images that may run together [2 to 8].")
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="What chooses operating points and batches [ours].")
    ] = None,
    default_class: Annotated[
        str | None, typer.Option(help="SLO class of requests that name none; see slo_classes.")
    ] = None,
    api_keys: Annotated[
        Path | None, typer.Option(help="Key file of `laud keys`; without it everyone may ask.")
    ] = None,
    tls_certificate: Annotated[
        Path | None, typer.Option(help="PEM certificate, with its chain: serve HTTPS.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM private key of it.")] = None,
    admin_port: Annotated[
        int | None, typer.Option(help="Move /metrics and /docs to this port [the same port].")
    ] = None,
    admin_host: Annotated[
        str | None, typer.Option(help="Address of the admin port [127.0.0.1].")
    ] = None,
    log_format: Annotated[str | None, typer.Option(help="auto, json or console.")] = None,
) -> None:
    """Serve bundles over HTTP: our own /v1 routes, the Open Inference Protocol v2, /metrics.

        \b
        laud serve zoo:clothing
        curl -F image=@photo.jpg -H 'x-slo-ms: 20' localhost:8000/v1/classify

    Every answer is as accurate as its deadline allows: x-slo-ms, in milliseconds from the first
    byte sent. Named objectives, and everything else that can be set, stand in a YAML file:

        \b
        slo_classes:
          interactive: {slo_ms: 20}
          batch: {slo_ms: 500, min_accuracy: 0.9, on_infeasible: reject}
        default_class: interactive

        \b
        laud serve zoo:clothing --config laud.yaml
        curl -F image=@photo.jpg -H 'x-slo-class: batch' localhost:8000/v1/classify

    Every setting can also stand in the environment as LAUD_NAME (for example LAUD_MAX_BODY_BYTES).
    Others than this machine reach it with --host 0.0.0.0; make keys first, with `laud keys add`.

    SIGTERM or Ctrl-C: not ready at once, requests in flight are answered, exit status 0. Twice:
    the process ends at once. SIGHUP: the key file is read again.
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
            "max_batch": max_batch,
            "policy": policy,
            "default_class": default_class,
            "api_keys": api_keys,
            "tls_certificate": tls_certificate,
            "tls_key": tls_key,
            "admin_port": admin_port,
            "admin_host": admin_host,
            "log_format": log_format,
        },
    )
    if not settings.bundles:
        raise SettingsError("name a bundle to serve, for example: laud serve zoo:clothing")
    configure_logs(settings.log_format, settings.log_level)
    run(settings)
