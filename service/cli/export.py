"""`laud export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.cli.dial import print_dial
from service.cli.output import print_points, say


def export(
    source: Annotated[
        str,
        typer.Argument(help="Folder of a finished run; with --int8, --dial or --onnx a bundle."),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Bundle to write: NAME.laud; with --onnx NAME.onnx."),
    ],
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
        typer.Option(
            help="Pictures for the int8 scales: one folder a class, or an annotated split."
        ),
    ] = None,
    all_points: Annotated[
        bool, typer.Option("--all-points", help="Drop none of the run's points.")
    ] = False,
    dial: Annotated[
        bool, typer.Option("--dial", help="Choose the points of a bundle anew, on this machine.")
    ] = False,
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Write a bundle's network as ONNX, for GPUs.")
    ] = False,
    precision: Annotated[
        str | None, typer.Option(help="Of an ONNX network: fp32 or fp16 [fp32].")
    ] = None,
    one_image: Annotated[
        bool,
        typer.Option(
            "--one-image", help="An ONNX network that takes one at a time, with branches."
        ),
    ] = False,
) -> None:
    """Turn a finished run into a bundle that can be served, or a bundle into ONNX.

    Weights are rounded to 16 bits; thresholds are then calibrated and accuracy is measured on the
    validation split, with the rounded weights that ship. With --int8 activations are observed on
    the pictures of --calibrate, and all of that is done again in int8; a bundle will do as source,
    also one that finds objects.

    Last, the latency of every point is measured on this machine, one picture at a time: a point
    that another makes pointless (at most as slow, and no worse in log-loss) is dropped. Let the
    machine be quiet meanwhile. The points of a bundle stay as they are, unless --dial has them
    chosen anew: from the image sizes that it was exported from, its points that skip, and glances.
    Of a detector AP50 decides what is worse, and candidates are all sizes at all budgets.

        laud export runs/clothing -o clothing.laud

        laud export runs/clothing -o int8.laud --int8 --calibrate DIR/train

        laud export a.laud -o b.laud --int8 --calibrate DIR/train --data DIR

        laud export zoo:nuclei -o nuclei8.laud --int8 --calibrate DIR/train --data DIR

        laud export zoo:clothing -o mine.laud --dial --int8 --calibrate DIR/train --data DIR

        laud export zoo:nuclei -o mine.laud --dial --int8 --calibrate DIR/train --data DIR

    With --onnx the source is a bundle, and one file serves all its points, image sizes and batches:
    inputs are the bytes of images and, per image, thresholds and caps. ONNX Runtime runs it as it
    is, computing everything and then masking; its operators that skip are for plugins of TensorRT.
    Where objects have masks, NAME-masks.onnx makes them of what the network finds. With --one-image
    blocks that are skipped as a whole are branches, which every consumer leaves out.

        laud export zoo:clothing --onnx --precision fp16 -o clothing.onnx
    """
    from engines.errors import InvalidInput

    if onnx:
        for given, option in (
            (int8, "--int8"),
            (calibrate, "--calibrate"),
            (all_points, "--all-points"),
            (data, "--data"),
            (dial, "--dial"),
        ):
            if given:
                raise InvalidInput(f"--onnx measures nothing: it goes without {option}")
        _export_onnx(source, output, precision or "fp32", one_image=one_image)
        return
    for of_onnx, option in ((precision, "--precision"), (one_image, "--one-image")):
        if of_onnx:
            raise InvalidInput(f"{option} is of an ONNX network: give --onnx too")
    if int8 and calibrate is None:
        raise InvalidInput(
            "--int8 needs --calibrate DIR, a folder with one folder a class, or an annotated split"
        )
    if calibrate is not None and not int8:
        raise InvalidInput("--calibrate is for int8 scales: give --int8 too")
    is_bundle = _is_bundle(source)
    if dial:
        if not is_bundle:
            raise InvalidInput(f"'{source}' is no bundle; a run's points are chosen without --dial")
        if data is None:
            raise InvalidInput("--dial needs --data DIR, the folder with the validation split")
    if is_bundle and all_points:
        raise InvalidInput(f"'{source}' is a bundle: its points stay without --all-points")
    if dial and data is not None:
        from engines.export.redial import redial

        bundle = redial(source, output, data=data, calibration=calibrate, say=say)
    elif is_bundle:
        if calibrate is None:
            raise InvalidInput(
                f"'{source}' is a bundle already; with --int8 --calibrate DIR it gets int8 scales, "
                "with --dial --data DIR other points"
            )
        from engines.export.int8 import quantise_bundle

        bundle = quantise_bundle(source, output, calibration=calibrate, data=data, say=say)
    else:
        from engines.export.run import export as run_export

        bundle = run_export(
            Path(source),
            output,
            data=data,
            calibration=calibrate,
            all_points=all_points,
            say=say,
        )
    print_points((bundle.manifest.at("int8") if int8 else bundle.manifest).points)
    if bundle.manifest.dial is not None:
        print_dial(bundle.manifest.dial)
    say(f"wrote {output} ({bundle.hash[:12]})")


def _export_onnx(source: str, output: Path, precision: str, *, one_image: bool) -> None:
    from engines.export.onnx.run import export_onnx

    exported = export_onnx(source, output, precision, one_image=one_image)
    print_points(exported.bundle.manifest.points)
    counts = ", ".join(f"{count} {name}" for name, count in sorted(exported.operators.items()))
    say(f"operators that skip: {counts or 'none'}")
    for path in (output, exported.masks):
        if path is not None:
            say(f"wrote {path} ({exported.precision}, of {exported.bundle.hash[:12]})")


def _is_bundle(source: str) -> bool:
    from engines.bundle import MANIFEST, ZOO_PREFIX

    return source.startswith(ZOO_PREFIX) or (Path(source) / MANIFEST).is_file()
