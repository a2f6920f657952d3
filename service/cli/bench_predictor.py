"""`laud bench predictor`: are predictions of latency to be trusted?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.bench import TOO_NOISY_STATUS

if TYPE_CHECKING:
    from engines.bench.prediction_report import Errors, PredictorReport


def predictor(
    images: Annotated[
        Path | None,
        typer.Option(
            help="Folder of pictures to judge by; rates are observed on the folder `validation` "
            "beside it, if there is one [made-up ones]."
        ),
    ] = None,
    network: Annotated[
        list[str] | None,
        typer.Option(help="Only this one (may be repeated), see below [all]."),
    ] = None,
    host: Annotated[
        Path | None,
        typer.Option(help="FILE.json of `laud measure device` [measured first]."),
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of the engine.")] = 1,
    calls: Annotated[int, typer.Option(help="Timed calls of every case, in both passes.")] = 15,
    online_calls: Annotated[
        int, typer.Option(help="Calls over which coverage is counted, quiet and busy.")
    ] = 2000,
    settling: Annotated[
        float, typer.Option(help="Seconds beside a busy process before counting (0: without it).")
    ] = 60.0,
    seed: Annotated[int, typer.Option(help="Of masks, rates and made-up pictures.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON for machines instead of tables.")
    ] = False,
) -> None:
    """Compare predictions with measurements that the predictors have not seen.

    A latency table is taken of each network; then other image sizes, rates, batches and masks
    (clustered, random, the demo's own) are measured, twice. Top level: the table's predictions, of
    the demo's own masks by the operating point alone, before an image is seen; of forced masks
    given which pixels they make every layer compute. rates_only: of these too given only the rate,
    and whether they lie together. analytic: the model of the native engine, which has seen no
    network. online: coverage of the corrected 95 % quantile, quiet and beside a process that takes
    a core. Where both measurements differ by over 3 % the exit status is 3.

    Takes ten to fifteen minutes; nothing else should run. The networks: clothing-int8,
    clothing-fp32, resnet50-spatial-int8, resnet50-channel-fp32, resnet50-mix-int8,
    resnet101-layer-int8.

        laud bench predictor --images DIR/test --json

        laud bench predictor --network clothing-int8 --online-calls 200
    """
    from engines.bench.predictor import PredictorPlan, bench_predictor, check_possible
    from engines.latency.host import read_host
    from engines.latency.host_measuring import measure_host

    plan = PredictorPlan(
        images=images,
        networks=tuple(network or ()),
        threads=threads,
        calls=calls,
        online_calls=online_calls,
        settling_s=settling,
        seed=seed,
    )
    known = None if host is None else read_host(host)
    check_possible(plan)
    machine = known or measure_host(_say)
    report = bench_predictor(plan, machine, _say)
    if as_json:
        typer.echo(report.model_dump_json())
    else:
        _print(report)
    if report.too_noisy:
        _say(
            f"too noisy: the same networks, measured twice, differ by {report.repeat_ape:.1%} in "
            "the median; stop what else runs here"
        )
        raise typer.Exit(TOO_NOISY_STATUS)


def _print(report: PredictorReport) -> None:
    from rich.console import Console
    from rich.table import Table

    from engines.bench.prediction_report import Accuracy

    table = Table("predictor", "error", "95 %", "ranks", "in q95", "q95/q50", "again", "n")
    rows: list[tuple[str, Errors]] = [
        ("measured", report),
        ("measured, blocks", report.blocks),
        ("rates only", report.rates_only),
        ("analytic", report.analytic),
        ("analytic, blocks", report.analytic.blocks),
    ]
    for name, each in rows:
        table.add_row(
            name,
            f"{each.median_ape:.1%}",
            f"{each.p95_ape:.1%}",
            f"{each.rank_correlation:.3f}",
            f"{each.coverage95:.1%}" if isinstance(each, Accuracy) else "",
            f"{each.sharpness:.2f}" if isinstance(each, Accuracy) else "",
            f"{each.repeat_ape:.1%}",
            str(each.n),
        )
    Console().print(table)
    typer.echo(
        "error: median, and below which 95 % lie; ranks: correlation; in q95: calls within the "
        "predicted\n95 % quantile; again: median difference of the same thing measured twice"
    )
    for found in report.online:
        beside = f"beside a busy process for {found.settled_s:.0f} s" if found.busy else "quiet"
        typer.echo(
            f"online, threads: {found.threads}, {beside}: {found.coverage95:.1%} of "
            f"{found.calls} calls within the corrected 95 % quantile, "
            f"q95/q50 {found.sharpness:.2f}, drift {found.drift:.2f}"
            f"{', flagged' if found.flagged else ''}"
        )
    typer.echo(
        f"{report.microseconds_per_call:.1f} microseconds a prediction; passes "
        f"{report.passes_apart_s:.0f} s apart; {report.machine.cpu}, load {report.machine.load:.2f}"
    )


def _say(line: str) -> None:
    """Progress goes to stderr, so that stdout stays clean for pipes."""
    print(line, file=sys.stderr, flush=True)
