"""`laud build`: plans of TensorRT."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.output import JSON, say

if TYPE_CHECKING:
    from engines.tensorrt.building import Built


def build(
    bundle: Annotated[str, typer.Argument(help="NAME.laud or zoo:NAME.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="NAME.plan to write [in the bundle; of zoo:NAME here]."
        ),
    ] = None,
    device: Annotated[
        int | None, typer.Option(help="GPU of this machine that will run the plan [0].")
    ] = None,
    rtx: Annotated[
        bool, typer.Option("--rtx", help="Compile with TensorRT-RTX, which needs no GPU.")
    ] = False,
    sm: Annotated[
        list[int] | None,
        typer.Option(help="With --rtx: compute capability, 86 for 8.6 (may be repeated)."),
    ] = None,
    precision: Annotated[str, typer.Option(help="fp16 or fp32.")] = "fp16",
    batch: Annotated[
        list[int] | None,
        typer.Option(help="Images of a bucket (may be repeated) [1, 2, 4, 8]."),
    ] = None,
    size: Annotated[
        list[int] | None,
        typer.Option(help="Pixels on a side (may be repeated) [those of the points]."),
    ] = None,
    timing_cache: Annotated[
        Path | None, typer.Option(help="File of what was timed before, read and written.")
    ] = None,
    dense: Annotated[
        bool, typer.Option("--dense", help="Without maskers, for laud verify to compare with.")
    ] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Compile a bundle's network into a plan for NVIDIA GPUs.

    Without --rtx on the machine whose GPU will run it: TensorRT times kernels there. What skips
    becomes plugins, and every size and batch a bucket of its own; that takes minutes, a second time
    with --timing-cache less.

        laud build clothing.laud --device 0

    With --rtx for RTX cards that need not be here. TensorRT-RTX takes no plugins: answers are the
    same, everything is computed, and no time is saved by skipping, but for branches.

        laud build zoo:clothing --rtx --sm 86

    Where layers are skipped as a whole, calls of one image have two forms in the plan: those of all
    calls, and branches, before which the GPU waits for the host. laud verify times both, and the
    engine takes the faster one, point by point; before, TensorRT takes block kernels and
    TensorRT-RTX, which has none, branches.

    A detector whose objects have masks gets a second program that makes them; TensorRT-RTX has no
    RoiAlign for it.

    A plan has the ONNX files that it was made of: laud verify compares them on your GPU.
    """
    from engines.errors import InvalidInput
    from engines.tensorrt.building import BATCHES, BuildPlan, build_on_gpu, build_rtx

    plan = BuildPlan(
        precision=precision,
        sizes=tuple(size) if size else None,
        batches=tuple(batch) if batch else BATCHES,
        out=output,
        timing_cache=timing_cache,
        dense=dense,
    )
    if rtx:
        for given, option in ((device, "--device"), (timing_cache, "--timing-cache")):
            if given is not None:
                raise InvalidInput(f"--rtx uses no device: it goes without {option}")
        built = build_rtx(bundle, plan, sm or (), say)
    else:
        if sm:
            raise InvalidInput("--sm is of cards that are not here: give --rtx too")
        built = build_on_gpu(bundle, plan, device or 0, say)
    if as_json:
        typer.echo(built.manifest.model_dump_json(indent=1))
    else:
        _print(built)
    say(f"wrote {built.path}")


def _print(built: Built) -> None:
    from engines.tensorrt.plans import TITLES, spelled

    manifest = built.manifest
    sizes = sorted({bucket.image_size for bucket in manifest.buckets})
    batches = sorted({bucket.images for bucket in manifest.buckets})
    typer.echo(
        f"{manifest.name}: {manifest.precision}, {TITLES[manifest.library]} "
        f"{manifest.library_version}, for compute capability "
        f"{', '.join(map(spelled, manifest.capabilities))}"
    )
    typer.echo(f"  bundle {manifest.bundle[:12]}, ONNX {manifest.onnx[:12]}")
    typer.echo(f"  layers: {built.layers}; plugins: {', '.join(manifest.plugins) or 'none'}")
    if manifest.masks is not None:
        typer.echo(f"  masks: a second program, {manifest.masks.objects} objects a call")
    if manifest.branches is not None:
        typer.echo("  one image alone: in both forms; laud verify says which is faster")
    typer.echo(
        f"  images of {', '.join(map(str, sizes))} px, {', '.join(map(str, batches))} a call"
    )
