"""`laud bench plan`: is the network that a plan chooses the fastest one here?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from engines.bench.plan_report import PlanReport

TOO_NOISY_STATUS = 3


def plan(
    arch: Annotated[str, typer.Option(help="resnet50 or resnet101.")],
    device: Annotated[
        str, typer.Option(help="this, or FILE.json of `laud measure device`, taken here.")
    ] = "this",
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
    masks: Annotated[str, typer.Option(help="random or clustered.")] = "random",
    granularity: Annotated[
        str | None, typer.Option(help="Patches to try, pixels on a side [1-2-4-7-8-14-28-56].")
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="Groups of channels to try [1-2-4-8-16-32-64].")
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32, bf16 or int8.")] = "fp32",
    threads: Annotated[int, typer.Option(help="Threads of the engine.")] = 1,
    batch: Annotated[int, typer.Option(help="Images in a call.")] = 1,
    size: Annotated[int, typer.Option(help="Pixels on a side of the image.")] = 224,
    images: Annotated[
        Path | None, typer.Option(help="Folder of pictures, at any depth [made-up ones].")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Timed runs of every network.")] = 32,
    seed: Annotated[int, typer.Option(help="Of weights, masks and made-up pictures.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON for machines instead of a table.")
    ] = False,
) -> None:
    """Build what `laud plan` chooses and its best alternatives, and measure all of them.

    The choice, the ten alternatives that are predicted to be fastest, the best network of each
    paradigm and the static one, with the same random weights. Masks are drawn at the rates, the
    same for all networks; all run in one process, in turns, each timed call after an untimed one.
    The choice is good when it takes at most 5 % more than the fastest of them. Its runs are also
    compared with themselves: where two halves differ by over 3 %, the exit status is 3.

    Stop what else runs here, measure the machine, then the plan; two or three minutes:

        laud measure device -o here.json

        laud bench plan --arch resnet101 --device here.json --rate 0.5

        laud bench plan --arch resnet50 --device here.json --precision int8 --layer-rate 0.7
    """
    from engines.bench.plan_check import PlanQuestion, check_plan
    from engines.latency.candidates import GROUPS, PATCHES
    from service.cli.plan import numbers, skip_rates

    question = PlanQuestion(
        arch=arch,
        device=device,
        rates=skip_rates(rate, spatial_rate, channel_rate, layer_rate),
        masks=masks,
        precision=precision,
        threads=threads,
        batch=batch,
        size=size,
        patches=PATCHES if granularity is None else numbers("granularity", granularity),
        groups=GROUPS if group is None else numbers("group", group),
        images=images,
        repeats=repeats,
        seed=seed,
    )
    report = check_plan(question, _say)
    if as_json:
        typer.echo(report.model_dump_json())
    else:
        _print(report)
    if report.too_noisy:
        _say(
            f"too noisy: two halves of the runs of the chosen network took {report.noise.a_ms:.2f} "
            f"and {report.noise.b_ms:.2f} ms; stop what else runs here, or take more --repeats"
        )
        raise typer.Exit(TOO_NOISY_STATUS)


def _print(report: PlanReport) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from engines.latency.chart import title

    rates = report.design.rates
    typer.echo(title(report.design))
    typer.echo(
        f"{report.isa} on {report.machine.cpu}, load {report.machine.load:.2f}; {report.masks} "
        f"masks: spatial {rates.spatial:g}, channel {rates.channel:g}, layer {rates.layer:g}"
    )
    # Nine columns have to fit into 80 characters.
    table = Table(
        *("", *(f"{i}" for i in range(1, len(report.design.stages) + 1))),
        *("predicted", "measured", "ratio", "MACs"),
        title="what stages skip, ms a call, measured over chosen, MACs over static",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    numbers = iter(range(1, len(report.networks)))
    for each in report.networks:
        table.add_row(
            f"{next(numbers)}." if each.role == "alternative" else each.role,
            *("-" if candidate.short == "static" else candidate.short for candidate in each.stages),
            f"{each.predicted_ms:.2f}",
            f"{each.measured_ms:.2f}",
            f"{each.measured_ms / report.chosen_ms:.3f}",
            f"{each.macs_ratio:.3f}",
        )
    Console().print(table)
    verdict = "within 5 % of it" if report.within_5_percent else "more than 5 % off"
    typer.echo(
        f"chosen {report.chosen_ms:.2f} ms, fastest {report.fastest_ms:.2f} ms: "
        f"{report.chosen_over_fastest:.3f}, {verdict}"
    )
    typer.echo(
        f"rank correlation {report.rank_correlation:.3f}, median error of predictions "
        f"{report.median_error:.1%}"
    )


def _say(line: str) -> None:
    """Progress goes to stderr, so that stdout stays clean for pipes."""
    print(line, file=sys.stderr, flush=True)
