"""`laud inspect`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from service.cli.dial import print_dial
from service.cli.output import JSON, print_points


def inspect(
    bundle: Annotated[str, typer.Argument(help="NAME.laud or zoo:NAME.")],
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Show what a bundle holds: task, labels, architecture, operating points, provenance.

    The last table, if there is one, is the dial: every candidate with what was measured of it, and
    why it was kept or dropped.

        laud inspect zoo:clothing
    """
    from engines.bundle import read_bundle

    found = read_bundle(bundle)
    manifest = found.manifest
    if as_json:
        typer.echo(json.dumps({"hash": found.hash, **manifest.model_dump(mode="json")}, indent=1))
        return
    weights = sum(array.nbytes for array in found.weights.values())
    stages = ", ".join(
        f"{stage.depth}x{stage.width} {stage.paradigm}"
        + (f" S={stage.spatial_granularity}" if stage.spatial_granularity else "")
        + (f" G={stage.channel_granularity}" if stage.channel_granularity else "")
        for stage in manifest.architecture.stages
    )
    typer.echo(f"{manifest.name}: {manifest.task}, {len(manifest.labels)} labels")
    typer.echo(f"  labels: {', '.join(manifest.labels)}")
    typer.echo(f"  {manifest.architecture.family}, stages {stages}")
    typer.echo(f"  weights: {manifest.weights.dtype}, {weights / 1e6:.1f} MB; hash {found.hash}")
    for notice in manifest.provenance.notices:
        typer.echo(f"  {notice}")
    print_points(manifest.points)
    if manifest.quantisation is not None:
        calibration = manifest.quantisation.calibration
        typer.echo(
            f"  int8: calibrated on {calibration.images} images of {calibration.split} "
            f"({calibration.method}); points in int8:"
        )
        print_points(manifest.quantisation.points)
    if manifest.dial is not None:
        print_dial(manifest.dial)
