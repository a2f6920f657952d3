"""`laud evaluate`."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from service.cli.output import JSON, say


def evaluate(
    bundle: Annotated[str, typer.Argument(help="NAME.laud or zoo:NAME.")],
    folder: Annotated[Path, typer.Argument(help="Folder with one folder of pictures a class.")],
    point: Annotated[
        list[str] | None, typer.Option(help="Only this operating point (may be repeated).")
    ] = None,
    engine: Annotated[str, typer.Option(help="cpu or reference.")] = "cpu",
    precision: Annotated[
        str | None, typer.Option(help="fp32, bf16 or int8 [the best there is].")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of the engine [every CPU it may use].")
    ] = None,
    reference: Annotated[
        bool,
        typer.Option("--reference", help="Compare with the fp32 reference (slow, needs torch)."),
    ] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Measure every operating point of a bundle on labelled pictures.

    Accuracy comes with its 95 % interval; agreement is the share of answers equal to those of
    `full`; macs_ratio is the mean work relative to `full`. With --reference, answers_differ and
    decisions_differ are the shares of answers and of mask decisions, at the same thresholds, that
    are not those of the reference engine.

        laud evaluate zoo:clothing DIR/test --json
    """
    from engines.bundle import read_bundle
    from engines.evaluation import LabelledImages, differences, evaluate_points, summary
    from engines.folders import relabel, scan_folder
    from engines.registry import load_engine

    found = read_bundle(bundle)
    manifest = found.manifest
    images = relabel(scan_folder(folder, min_classes=1), manifest.labels)
    names = ["full", *(name for name in point or [] if name != "full")]
    wanted = names if point else [record.point.name for record in manifest.points]
    for name in wanted:
        # An unknown name is refused before anything is loaded.
        manifest.point(name)
    with ExitStack() as loaded:
        running = loaded.enter_context(
            load_engine(found, kind=engine, threads=threads, precision=precision)
        )
        # Before anything is measured, since torch may be missing.
        exact = [load_engine(found, kind="reference", threads=threads)] if reference else []
        calibrated = manifest.at(running.precision)
        points = [calibrated.point(name).point for name in wanted]
        labelled = LabelledImages(images, manifest.preprocessing.crop_ratio)
        results = evaluate_points(running, points, labelled, say=say)
        rows = summary(results, images.labels)
        for other in exact:
            say("running the reference")
            against = evaluate_points(loaded.enter_context(other), points, labelled, say=say)
            for row, differs in zip(rows, differences(results, against), strict=True):
                row.update(differs)
    if point:
        rows = [row for row in rows if row["name"] in point]
    if as_json:
        ran = {"bundle": found.hash, "engine": running.name, "precision": running.precision}
        typer.echo(json.dumps({**ran, "points": rows}))
        return
    from rich.console import Console
    from rich.table import Table

    heads = ["point", "px", "accuracy", "95 %", "agreement", "log loss", "MACs", "activation"]
    more = [key for key in ("answers_differ", "decisions_differ") if key in rows[0]]
    isa = getattr(running, "isa", "")
    ran_on = ", ".join(filter(None, (running.name, running.precision, isa)))
    table = Table(*heads, *more, title=f"{ran_on}; {rows[0]['images']} images")
    for row in rows:
        table.add_row(
            str(row["name"]),
            str(row["image_size"]),
            f"{row['accuracy']:.3f}",
            f"{row['accuracy_low']:.3f}-{row['accuracy_high']:.3f}",
            f"{row['agreement']:.3f}",
            f"{row['log_loss']:.3f}",
            f"{row['macs_ratio']:.3f}",
            f"{row['activation']:.3f}",
            *(f"{row[key]:.4f}" for key in more),
        )
    Console().print(table)
