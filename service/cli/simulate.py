"""`laud simulate`: every policy on the costs of this machine, over loads and burstiness."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.machines import (
    BUNDLE,
    DECODE_MS,
    MAX_BATCH,
    OVERHEAD_MS,
    PRECISION,
    PROFILE,
    SAVE_PROFILE,
    TABLE,
    THREADS,
    decimals,
    decode_s,
    points_used,
    the_machine,
    the_policy,
    wide_console,
)
from service.cli.output import JSON, check_drawable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from service.policy.core import Policy
    from service.simulation.core import Machine
    from service.simulation.grid import Cell, GridReport, Plan


def simulate(
    bundle: BUNDLE = None,
    profile: PROFILE = None,
    save_profile: SAVE_PROFILE = None,
    policies: Annotated[
        str | None,
        typer.Option(help="Names with commas, ours first; fixed:POINT is a policy too [all]."),
    ] = None,
    loads: Annotated[
        str, typer.Option(help="Of the capacity of `full` (without it, of the best point).")
    ] = "0.5,0.9,1.3,2.0",
    cv2: Annotated[
        str, typer.Option(help="Squared coefficients of variation of the gaps: 1 Poisson.")
    ] = "1,8",
    mix: Annotated[
        str | None,
        typer.Option(
            help="Budgets in percent:milliseconds, 70:100,20:50,10:25 "
            "[70, 20, 10 % at 15, 7.5, 3.75 times an image at `full`]."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Runs of each policy in each cell.")] = 20,
    requests: Annotated[int, typer.Option(help="Requests of each run.")] = 2000,
    reject: Annotated[
        bool, typer.Option("--reject", help="Refuse what cannot be in time, answer nothing late.")
    ] = False,
    table: TABLE = None,
    threads: THREADS = None,
    precision: PRECISION = None,
    max_batch: MAX_BATCH = None,
    decode_ms: DECODE_MS = 0.0,
    overhead_ms: OVERHEAD_MS = None,
    png: Annotated[
        Path | None, typer.Option(help="Also draw it (needs matplotlib, extra `train`).")
    ] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Compare policies in simulated time, with the queue, the rules and the policies of the server.

    Costs are those of a latency table, or measured on the spot (a second or two), with the scatter
    that was measured. All policies meet the same arrivals and the same luck. Effective accuracy is
    the sum of the accuracy of all answers in time, over all requests; `behind` is how much ours has
    more, run by run, with its 95 % interval.

        laud simulate zoo:clothing

    One load, a deadline mix, two policies, a picture:

        laud simulate zoo:clothing --loads 1.3 --cv2 4 --mix 70:100,20:50,10:25
            --policies foresight,thresholds --png policies.png

    Another machine's costs:

        laud simulate zoo:clothing --save-profile here.json
        laud simulate --profile here.json
    """
    from service.load.arrivals import parse_mix
    from service.policy import POLICIES
    from service.simulation.grid import Plan

    names = list(POLICIES) if policies is None else [one.strip() for one in policies.split(",")]
    chosen = [the_policy(name) for name in names]
    plan = Plan(
        loads=numbers("--loads", loads),
        cv2s=numbers("--cv2", cv2),
        seeds=seeds,
        requests=requests,
        mix=None if mix is None else parse_mix(mix),
        decode_s=decode_s(decode_ms),
        degrade=not reject,
    )
    if png is not None:
        check_drawable("--png", png)
    name, machine = the_machine(
        bundle,
        profile,
        save_profile,
        table=table,
        threads=threads,
        precision=precision,
        max_batch=max_batch,
        overhead_ms=overhead_ms,
    )
    report = _run(name, machine, chosen, plan)
    if as_json:
        typer.echo(report.model_dump_json())
    else:
        _print(report)
    if png is not None:
        from service.simulation.picture import draw

        draw(png, report)


def _run(name: str, machine: Machine, policies: Sequence[Policy], plan: Plan) -> GridReport:
    from rich.console import Console
    from rich.progress import Progress

    from service.simulation.grid import num_runs, run_grid
    from service.simulation.learning import learnt_costs

    console = Console(file=sys.stderr)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("simulating", total=num_runs(plan, policies))
        return run_grid(
            name,
            machine,
            policies,
            plan,
            costs_of=learnt_costs,
            advance=lambda: progress.advance(task),
        )


def numbers(option: str, text: str) -> tuple[float, ...]:
    """Numbers with commas between them. InvalidInput names the option."""
    from engines.errors import InvalidInput

    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InvalidInput(
            f"{option} takes numbers with commas, such as 0.5,0.9: '{text}'"
        ) from None


def _print(report: GridReport) -> None:
    console = wide_console()
    for cell in report.cells:
        _print_cell(console, report, cell)


def _print_cell(console: Console, report: GridReport, cell: Cell) -> None:
    from rich.table import Table

    table = Table(
        *("policy", "effective", "behind ours", "in time", "accuracy", "goodput/s", "p99/budget"),
        *("late", "refused"),
        title=f"{report.machine}: load {cell.load:g} ({cell.rate_hz:.1f}/s), CV² {cell.cv2:g}; the "
        f"fastest point could do {cell.headroom:.2f} times that",
        title_justify="left",
        box=None,
    )
    for result in cell.policies:
        behind = result.behind
        table.add_row(
            result.name,
            f"{result.effective_accuracy.mean:.4f}",
            "" if result.name == report.ours else f"{behind.low:+.4f} to {behind.high:+.4f}",
            f"{result.attainment.mean:.2%}",
            decimals(result.mean_accuracy, 4),
            f"{result.goodput_hz.mean:.1f}",
            decimals(result.p99_over_deadline, 2),
            f"{result.late:.2%}",
            f"{result.refused + result.expired:.2%}",
        )
    console.print(table)
    ours = cell.policies[0]
    console.print(f"points of {ours.name}: {points_used(ours.points)}", highlight=False)
    reached = "reaches the first" if cell.ours_reaches_first else "does not reach the first"
    said = f"{report.ours} {reached}" if cell.first != report.ours else f"{report.ours} is first"
    console.print(f"first: {cell.first}; {said}\n", highlight=False)
