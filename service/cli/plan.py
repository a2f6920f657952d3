"""`laud plan`: which paradigm and granularity each stage should have, and what it would cost."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.output import check_drawable

if TYPE_CHECKING:
    from rich.table import Table

    from engines.latency.candidates import SkipRates
    from engines.latency.design import Design, StageDesign, StageOption
    from engines.latency.design_costs import Costs

ONE_RATE_IS_NOT_ONE_ACCURACY = (
    "Rates are shares of units: equal rates of different paradigms do not mean equal accuracy."
)


def plan(
    arch: Annotated[
        str, typer.Option(help="resnet50, resnet101; on GPUs also regnet_y_400mf, regnet_y_800mf.")
    ],
    device: Annotated[
        str,
        typer.Option(
            help="this, FILE.json of `laud measure device`, or a GPU: v100, rtx3090, rtx3060, tx2, "
            "nano, a100, l4, h100."
        ),
    ],
    batch: Annotated[
        int | None,
        typer.Option(help="Images in a call [1; on GPUs what their published latencies are for]."),
    ] = None,
    rate: Annotated[float, typer.Option(help="Share of units that are active, 0 to 1.")] = 0.5,
    spatial_rate: Annotated[
        float | None, typer.Option(help="Of patches, where it differs [--rate].")
    ] = None,
    channel_rate: Annotated[
        float | None, typer.Option(help="Of channel groups, where it differs [--rate].")
    ] = None,
    layer_rate: Annotated[
        float | None, typer.Option(help="Of blocks, where it differs [--rate].")
    ] = None,
    size: Annotated[int, typer.Option(help="Pixels on a side of the image.")] = 224,
    granularity: Annotated[
        str | None, typer.Option(help="Patches to try, pixels on a side [1-2-4-7-8-14-28-56].")
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="Groups of channels to try [1-2-4-8-16-32-64].")
    ] = None,
    scattered: Annotated[
        bool, typer.Option("--scattered", help="Active patches lie apart, not together.")
    ] = False,
    precision: Annotated[
        str | None, typer.Option(help="Of our engine: fp32, bf16 or int8 [fp32].")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Of our engine [1].")] = None,
    mode: Annotated[
        str, typer.Option(help="GPUs: fixed, or paper (the published model, bugs included).")
    ] = "fixed",
    png: Annotated[
        Path | None,
        typer.Option(help="Draw latency ratio against activation for every candidate into FILE."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON for machines instead of tables.")
    ] = False,
) -> None:
    """Design a dynamic network for a device by predicted latency, before anything is trained.

    Every stage may stay static, or skip patches of S pixels, groups of G channels, or whole blocks
    (layer). Each is costed at its activation rate, maskers included; the fastest is chosen, and of
    those within 1 % of it the finest, since fine decisions cost least accuracy. On GPUs the table
    also says whether masker and first convolution should be one kernel (fused).

    What can be said at equal rates, for a server's GPU, drawn as well:

        laud plan --arch resnet101 --device v100 --batch 128 --rate 0.5 --png v100.png

    Rates are shares of units, not of accuracy. Where trainings have shown that layers bear less
    skipping than patches, say so:

        laud plan --arch resnet101 --device rtx3090 --layer-rate 0.7 --spatial-rate 0.4

    For this machine and our own engine. Measuring it takes half a minute, which a file saves:

        laud measure device -o here.json

        laud plan --arch resnet101 --device here.json --precision int8 --threads 2

    `laud bench plan` builds the choice and its rivals, and measures whether it was right.
    """
    from engines.latency.candidates import GROUPS, PATCHES
    from engines.latency.design import curves, design

    rates = skip_rates(rate, spatial_rate, channel_rate, layer_rate)
    patches = PATCHES if granularity is None else numbers("granularity", granularity)
    groups = GROUPS if group is None else numbers("group", group)
    if png is not None:
        check_drawable("--png", png)
    costs = _costs(
        arch,
        device,
        size=size,
        batch=batch,
        clustered=not scattered,
        precision=precision,
        threads=threads,
        mode=mode,
    )
    found = design(costs, rates, patches=patches, groups=groups)
    if png is not None:
        from engines.latency.chart import draw

        draw(png, found, curves(costs, patches=patches, groups=groups))
    if as_json:
        typer.echo(found.model_dump_json())
    else:
        _print(found)
    if png is not None:
        _say(f"wrote {png}")


def skip_rates(
    rate: float, spatial: float | None, channel: float | None, layer: float | None
) -> SkipRates:
    """One rate for all paradigms, replaced where one is given. InvalidInput outside 0 to 1."""
    from engines.latency.candidates import SkipRates

    return SkipRates(
        spatial=rate if spatial is None else spatial,
        channel=rate if channel is None else channel,
        layer=rate if layer is None else layer,
    )


def numbers(option: str, text: str) -> tuple[int, ...]:
    """`1-2-4` as numbers; InvalidInput when it is something else."""
    from engines.errors import InvalidInput

    try:
        return tuple(int(part) for part in text.split("-"))
    except ValueError:
        raise InvalidInput(
            f"--{option} takes the sizes to try, such as 1-2-4, got '{text}'"
        ) from None


def _costs(
    arch: str,
    device: str,
    *,
    size: int,
    batch: int | None,
    clustered: bool,
    precision: str | None,
    threads: int | None,
    mode: str,
) -> Costs:
    from engines.architecture import MapSize
    from engines.errors import InvalidInput
    from engines.latency.candidates import NUM_STAGES, STATIC, network_with
    from engines.latency.design_costs import GpuCosts, NativeCosts
    from engines.latency.devices import THIS, check_runs, corrections_of, device_named
    from engines.latency.hardware import Gpu
    from engines.latency.shapes import named_shape
    from engines.manifest import PRECISIONS

    # What is wrong is told before half a minute of measuring.
    for what, value in (("batch", batch), ("threads", threads)):
        if value is not None and value < 1:
            raise InvalidInput(f"--{what} must be at least 1, got {value}")
    if precision is not None and precision not in PRECISIONS:
        raise InvalidInput(f"--precision must be one of {', '.join(PRECISIONS)}, got '{precision}'")
    corrections_of(mode)
    named_shape(arch, image=MapSize(size, size))
    if device == THIS:
        network_with(arch, [STATIC] * NUM_STAGES)
    check_runs(device, precision or "fp32", threads or 1)
    machine = device_named(device, "paper" if mode == "paper" else "fixed", _say)
    if isinstance(machine, Gpu):
        if threads is not None or precision not in (None, "fp32"):
            option = "precision" if threads is None else "threads"
            raise InvalidInput(
                f"the model of GPUs is of fp32 kernels: --{option} goes with our own engine "
                "(--device this or FILE.json)"
            )
        return GpuCosts(
            arch,
            size,
            machine,
            batch=batch,
            mode="paper" if mode == "paper" else "fixed",
            clustered=clustered,
        )
    return NativeCosts(
        arch,
        size,
        machine,
        batch=1 if batch is None else batch,
        precision=precision or "fp32",
        threads=1 if threads is None else threads,
        clustered=clustered,
    )


def _print(found: Design) -> None:
    from rich.console import Console

    from engines.latency.chart import title

    of, rates = found.setting, found.rates
    lie = "together" if of.clustered else "apart"
    typer.echo(title(found))
    typer.echo(
        f"activation rates: spatial {rates.spatial:g} (active patches lie {lie}), "
        f"channel {rates.channel:g}, layer {rates.layer:g}"
    )
    console = Console()
    for stage in found.stages:
        console.print(_stage_table(stage))
    console.print(_networks_table(found))
    chosen, static = (each.total_s * 1e3 / of.batch for each in (found.chosen, found.static))
    typer.echo(
        f"chosen: {found.chosen.label}: {chosen:.3f} ms an image, nothing skipped {static:.3f} ms"
    )
    typer.echo("Within 1 % the finer granularity is preferred: fine decisions cost least accuracy.")
    typer.echo(ONE_RATE_IS_NOT_ONE_ACCURACY)


def _stage_table(design: StageDesign) -> Table:
    from rich.table import Table

    stage = design.stage
    fusible = any(option.fused_blocks is not None for option in design.options)
    table = Table(
        *("skips", "ms", "ratio", "MACs", *(["masker"] if fusible else []), ""),
        title=f"{stage.name}: {stage.depth} blocks of {stage.width} inner channels, "
        f"{stage.map_height}x{stage.map_width} px",
        title_justify="left",
    )
    for option in design.options:
        table.add_row(
            option.candidate.label,
            f"{option.seconds * 1e3:.3f}",
            f"{option.ratio:.3f}",
            f"{option.macs_ratio:.3f}",
            *([_fusion(option, stage.depth)] if fusible else []),
            "chosen" if option.candidate == design.chosen.candidate else "",
        )
    return table


def _fusion(option: StageOption, depth: int) -> str:
    if option.fused_blocks is None:
        return ""
    if option.fused_blocks in (0, depth):
        return "fused" if option.fused_blocks else "unfused"
    return f"{option.fused_blocks} of {depth} fused"


def _networks_table(found: Design) -> Table:
    from rich.table import Table

    table = Table(
        *("", *(stage.stage.name for stage in found.stages), "ms", "ratio", "MACs"),
        title="a call of whole networks, the best alternatives first",
        title_justify="left",
    )
    rows = [("static", found.static), ("chosen", found.chosen)]
    rows += [(f"{i}.", each) for i, each in enumerate(found.alternatives, 1)]
    rows += [("besides", each) for each in found.besides]
    for what, each in rows:
        table.add_row(
            what,
            *(candidate.short for candidate in each.stages),
            f"{each.total_s * 1e3:.3f}",
            f"{each.total_s / found.static.total_s:.3f}",
            f"{each.macs_ratio:.3f}",
        )
    return table


def _say(line: str) -> None:
    """Progress goes to stderr, so that stdout stays clean for pipes."""
    print(line, file=sys.stderr, flush=True)
