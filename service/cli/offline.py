"""The commands that need no server: train, export, inspect, evaluate."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from engines.manifest import PointRecord

_JSON = typer.Option("--json", help="Print JSON for machines instead of a table.")


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
    run_training(config, out, overrides, _say)


def export(
    source: Annotated[
        str, typer.Argument(help="Folder of a finished run; with --int8 also NAME.laud, zoo:NAME.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Bundle to write: NAME.laud.")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder with the validation split [the run's; of a bundle: what --calibrate names]"
        ),
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Also calibrate and measure every point in int8.")
    ] = False,
    calibrate: Annotated[
        Path | None,
        typer.Option(help="Folder with one folder of pictures a class, for the int8 scales."),
    ] = None,
) -> None:
    """Turn a finished run into a bundle that can be served.

    Weights are rounded to 16 bits; thresholds are then calibrated and accuracy is measured on the
    validation split, with the rounded weights that ship. With --int8 activations are observed on
    the pictures of --calibrate, and all of that is done again in int8; a bundle will do as source.

        laud export runs/clothing -o clothing.laud
        laud export clothing.laud -o clothing-int8.laud --int8 --calibrate DIR/train --data DIR
    """
    from engines.errors import InvalidInput

    if int8 and calibrate is None:
        raise InvalidInput("--int8 needs --calibrate DIR, a folder with one folder a class")
    if calibrate is not None and not int8:
        raise InvalidInput("--calibrate is for int8 scales: give --int8 too")
    if _is_bundle(source):
        if calibrate is None:
            raise InvalidInput(
                f"'{source}' is a bundle already; with --int8 --calibrate DIR it gets int8 scales"
            )
        from engines.export.int8 import quantise_bundle

        bundle = quantise_bundle(source, output, calibration=calibrate, data=data, say=_say)
    elif calibrate is None:
        from engines.export.run import export as run_export

        bundle = run_export(Path(source), output, data=data, say=_say)
    else:
        from engines.export.run import export as run_export

        bundle = run_export(Path(source), output, data=data, calibration=calibrate, say=_say)
    _print_points((bundle.manifest.at("int8") if int8 else bundle.manifest).points)
    _say(f"wrote {output} ({bundle.hash[:12]})")


def _is_bundle(source: str) -> bool:
    from engines.bundle import MANIFEST, ZOO_PREFIX

    return source.startswith(ZOO_PREFIX) or (Path(source) / MANIFEST).is_file()


def inspect(
    bundle: Annotated[str, typer.Argument(help="NAME.laud or zoo:NAME.")],
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Show what a bundle holds: task, labels, architecture, operating points, provenance.

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
    _print_points(manifest.points)
    if manifest.quantisation is not None:
        calibration = manifest.quantisation.calibration
        typer.echo(
            f"  int8: calibrated on {calibration.images} images of {calibration.split} "
            f"({calibration.method}); points in int8:"
        )
        _print_points(manifest.quantisation.points)


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
    as_json: Annotated[bool, _JSON] = False,
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
        results = evaluate_points(running, points, labelled, say=_say)
        rows = summary(results, images.labels)
        for other in exact:
            _say("running the reference")
            against = evaluate_points(loaded.enter_context(other), points, labelled, say=_say)
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


def _print_points(records: Sequence[PointRecord]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("point", "px", "MACs", "ratio", "accuracy", "95 %", "agreement with full")
    for record in records:
        accuracy = record.accuracy
        table.add_row(
            record.point.name,
            str(record.point.image_size),
            f"{record.macs / 1e6:.0f} M",
            f"{record.macs_ratio:.3f}",
            f"{accuracy.value:.3f}" if accuracy else "-",
            f"{accuracy.low:.3f}-{accuracy.high:.3f}" if accuracy else "-",
            f"{record.agreement:.3f}" if record.agreement is not None else "-",
        )
    Console().print(table)


def _say(line: str) -> None:
    """Progress goes to stderr, so that stdout stays clean for pipes."""
    print(line, file=sys.stderr, flush=True)
