"""`laud bench serve`: what serving costs and what it can do, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.bench import TOO_NOISY_STATUS
from service.cli.output import JSON, check_drawable, say

if TYPE_CHECKING:
    from service.load.bench_report import (
        Agreement,
        Capacity,
        Contention,
        Goodput,
        Lag,
        Overhead,
        ServeBench,
    )


def serve(
    bundle: Annotated[str, typer.Argument(help="zoo:NAME or NAME.laud.")] = "zoo:clothing",
    images: Annotated[
        list[Path] | None,
        typer.Option(
            help="Picture files or folders (may be repeated), for all but overhead and lag "
            "[the package's samples]."
        ),
    ] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(
            help="overhead, capacity, lag, goodput, contention or agreement (may be repeated) "
            "[all]."
        ),
    ] = None,
    slo_ms: Annotated[
        float | None, typer.Option(help="Latency budget [the server's default].")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of the engine [every CPU it may use].")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp32, bf16 or int8 [the best there is].")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file of settings for the server.")
    ] = None,
    turns: Annotated[int, typer.Option(help="Requests of each contender for overhead.")] = 300,
    seconds: Annotated[float, typer.Option(help="Length of one run under load.")] = 10.0,
    rounds: Annotated[int, typer.Option(help="Repetitions of capacity and searches.")] = 3,
    steps: Annotated[int, typer.Option(help="Bisections of a search.")] = 6,
    hog: Annotated[float, typer.Option(help="Seconds for which a core is taken.")] = 30.0,
    share: Annotated[float, typer.Option(help="Load beside it, of the capacity of `full`.")] = 0.6,
    policies: Annotated[
        str, typer.Option(help="For agreement, with commas.")
    ] = "foresight,thresholds,fixed:full",
    loads: Annotated[
        str, typer.Option(help="For agreement, of the capacity of `full`, with commas.")
    ] = "0.9,1.3",
    cv2: Annotated[
        str,
        typer.Option(help="For agreement: squared coefficients of variation of the gaps."),
    ] = "1,8",
    seed: Annotated[int, typer.Option(help="Of arrivals and made-up pictures.")] = 0,
    png: Annotated[
        Path | None, typer.Option(help="Also draw it (needs matplotlib, extra `train`).")
    ] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Start the real server, measure it from outside, stop it. Nothing else should run.

    overhead: a 50 kB JPEG and a UINT8 tensor, end to end less decode, prepare and network, beside a
    bare FastAPI handler that reads the same bytes, in turns. capacity: throughput and CPU time per
    answer of every point, kept busy. lag: how late the event loop and how slow the policy is with
    1080p JPEGs, at 80 % of the highest rate of which 99 % are in time. goodput: the highest rate of
    which 99 % are in time, for the policy and for point `full`, by bisection in turns; beside the
    bound that CPU times give. contention: a busy process takes a core for a while. agreement: the
    same requests to the server and to the simulator of `laud simulate`, on the costs that the
    server's answers told; a server for each policy. Budgets there are --slo-ms, half and a quarter
    of it for 70, 20 and 10 % of the requests [15, 7.5 and 3.75 times an image at `full`]. All parts
    take about a quarter of an hour.

    The client runs beside the server and takes some of the same cores; its CPU time is told. Where
    two halves of the bare handler's own times differ by over 3 %, the exit status is 3.

        laud bench serve zoo:clothing

        laud bench serve zoo:clothing --part overhead --json

        laud bench serve big.laud --images DIR --part goodput --slo-ms 100 --threads 1

        laud bench serve zoo:clothing --part agreement --seconds 20 --threads 1
    """
    import os

    from service.cli.simulate import numbers
    from service.load.bench_plan import PARTS, BenchPlan
    from service.load.bench_run import bench_serve

    given: list[tuple[str, object]] = [
        ("--threads", threads),
        ("--precision", precision),
        ("--config", config),
    ]
    plan = BenchPlan(
        bundle=bundle,
        parts=tuple(part or PARTS),
        images=tuple(images or ()),
        server_options=tuple(
            word for name, value in given if value is not None for word in (name, str(value))
        ),
        slo_ms=slo_ms,
        turns=turns,
        seconds=seconds,
        rounds=rounds,
        steps=steps,
        hog_s=hog,
        share=share,
        policies=tuple(name.strip() for name in policies.split(",")),
        loads=numbers("--loads", loads),
        cv2s=numbers("--cv2", cv2),
        engine_threads=threads or len(os.sched_getaffinity(0)),
        seed=seed,
    )
    if png is not None:
        from service.load.bench_picture import check_parts

        check_drawable("--png", png)
        check_parts(plan.parts)
    report = bench_serve(plan, say)
    if as_json:
        typer.echo(report.model_dump_json())
    else:
        _print(report)
    if png is not None:
        from service.load.bench_picture import draw

        draw(png, report)
    noisy = [one for one in report.overhead or () if one.noise.too_noisy]
    for one in noisy:
        say(
            f"too noisy: two halves of the bare handler's own times ({one.what}) took "
            f"{one.noise.a_ms:.3f} and {one.noise.b_ms:.3f} ms; stop what else runs here"
        )
    if noisy:
        raise typer.Exit(TOO_NOISY_STATUS)


def _print(report: ServeBench) -> None:
    typer.echo(f"{report.bundle} on {report.machine.cpu}, load {report.machine.load:.2f}")
    for one in report.overhead or ():
        _print_overhead(one)
    if report.capacity:
        _print_capacity(report.capacity)
    if report.lag:
        _print_lag(report.lag)
    if report.goodput and report.capacity:
        _print_goodput(report.goodput, report.capacity)
    if report.contention:
        _print_contention(report.contention)
    if report.agreement:
        _print_agreement(report.agreement)


def _print_overhead(found: Overhead) -> None:
    from service.load.bench_report import MOST_OVERHEAD_MS

    verdict = "at most" if found.is_small else "above"
    typer.echo(
        f"overhead, {found.what} of {found.body_bytes / 1e3:.0f} kB: {found.overhead_ms:+.3f} ms, "
        f"{verdict} {MOST_OVERHEAD_MS:.1f} ms (end to end {found.end_to_end_ms:.3f}, less decode, "
        f"prepare and network {found.own_ms:.3f}, bare handler {found.bare_ms:.3f}; "
        f"bare A/A {found.noise.difference:.1%})"
    )


def _print_capacity(found: Capacity) -> None:
    from rich.console import Console
    from rich.table import Table

    typer.echo(
        f"capacity, {found.pictures}; {found.cores} cores, engine on {found.engine_threads} "
        f"threads; CPU milliseconds per answer; `full` with itself: {found.throughput_spread:.1%}"
    )
    table = Table("point", "acc.", "per s", "front", "decode", "engine", "client", "bound")
    for one, bound in zip(found.points, found.bounds, strict=True):
        table.add_row(
            one.point,
            "" if one.accuracy is None else f"{one.accuracy:.3f}",
            f"{one.throughput_hz:.1f}",
            *(f"{ms:.2f}" for ms in (one.front_ms, one.decode_ms, one.engine_ms, one.client_ms)),
            f"{bound.throughput_hz:.1f}",
        )
    Console().print(table)
    limits = dict.fromkeys(bound.limiting for bound in found.bounds)
    typer.echo(f"bound: answers a second by CPU times; it runs out of {', '.join(limits)} first")


def _print_lag(found: Lag) -> None:
    typer.echo(
        f"lag at {found.share:.0%} of {found.sustained_hz:.1f}/s, the most of which "
        f"{found.level:.0%} are in time with {found.slo_ms:.0f} ms, {found.pictures}: event loop "
        f"p99 {_ms(found.loop_lag_p99_ms)}, policy decision p99 {_ms(found.decision_p99_ms)}; "
        f"{found.rate_hz:.1f}/s, in time {found.attainment:.2%}; server {found.server_cores:.2f} "
        f"cores, client {found.client_cores:.2f}, itself late by {found.send_lag_p99_ms:.1f} ms "
        "(p99)"
    )


def _print_goodput(found: Goodput, capacity: Capacity) -> None:
    from service.load.bench_plan import fastest, of_full

    cheapest, full = fastest(capacity.bounds), of_full(capacity.bounds)
    typer.echo(
        f"goodput at {found.attainment:.0%} in time, {found.slo_ms:.1f} ms: policy "
        f"{found.ours_hz:.1f}/s, full {found.full_hz:.1f}/s, ratio {found.ratio:.2f}; bound by CPU "
        f"times {found.bound_ratio:.2f}, reached {found.of_bound:.2f} of it; limiting: "
        f"{found.limiting}; engine time only {found.engine_ratio:.2f}"
    )
    typer.echo(
        f"  of what CPU times allow: policy {found.ours_hz / cheapest.throughput_hz:.2f} of "
        f"{cheapest.throughput_hz:.1f}/s ({cheapest.point}: {cheapest.limiting}), full "
        f"{found.full_hz / full.throughput_hz:.2f} of {full.throughput_hz:.1f}/s ({full.limiting})"
    )
    if found.client_was_late:
        typer.echo(f"  in {found.client_was_late} runs the client itself was late: use less load")


def _print_contention(found: Contention) -> None:
    recovered = "never" if found.recovered_s is None else f"after {found.recovered_s:.0f} s"
    back = "never" if found.accuracy_back_s is None else f"after {found.accuracy_back_s:.0f} s"
    typer.echo(
        f"a core taken for {found.end_s - found.begin_s:.0f} s at {found.rate_hz:.1f}/s, "
        f"{found.slo_ms:.1f} ms: in time {found.attainment_before:.2%} before, "
        f"{found.attainment_during:.2%} during, {found.attainment_after:.2%} after; above 99 % "
        f"again {recovered}; accuracy {_share(found.accuracy_before)} before, "
        f"{_share(found.accuracy_during)} during, back {back}"
    )


def _print_agreement(found: Agreement) -> None:
    from rich.table import Table

    from service.cli.machines import wide_console
    from service.load.bench_report import MOST_ACCURACY_APART, MOST_ATTAINMENT_APART, apart

    for told in found.tables:
        points = ", ".join(
            f"{point.point} {'/'.join(f'{ms:.2f}' for ms in point.ms)} ({point.own_ms:.2f})"
            for point in told.points
        )
        budgets = ", ".join(f"{ms:.1f}" for ms in told.budgets_ms)
        typer.echo(
            f"{told.policy}, as answers told: {told.capacity_hz:.1f}/s at full; ms of calls (by "
            f"the server's own table) {points}; p95 {told.p95_ratio:.2f} times, after a rest "
            f"{told.rested_ratio:.2f} times; decode {told.decode_ms:.2f} ms, front "
            f"{told.front_ms:.2f} ms, before it {told.entry_ms:.2f}, answering "
            f"{told.answer_ms:.2f}; budgets {budgets} ms"
        )
    knowing = ("simulated", "rehearsed", "replayed")
    in_time = Table(
        *("policy", "load", "CV²", "per s", "in time", *knowing, "speed", ""),
        title="the same requests; in brackets: points that the simulator is above the server",
        title_justify="left",
        box=None,
    )
    accuracy = Table("policy", "load", "CV²", "accuracy", *knowing, box=None)
    for cell in found.cells:
        name = (cell.policy, f"{cell.load:g}", f"{cell.cv2:g}")
        asked = [
            None if one is None else (one, *apart(cell.server, one))
            for one in (cell.simulated, cell.rehearsed, cell.replayed)
        ]
        in_time.add_row(
            *(*name, f"{cell.rate_hz:.1f}", f"{cell.server.attainment:.2%}"),
            *(
                "-" if one is None else f"{one[0].attainment:.2%} ({one[1] * 100:+.2f})"
                for one in asked
            ),
            "-" if cell.speed is None else f"x {cell.speed:.2f}",
            "agrees" if cell.agrees else "apart",
        )
        accuracy.add_row(
            *(*name, _share(cell.server.accuracy)),
            *(
                "-" if one is None else f"{_share(one[0].accuracy)} ({_points(one[2])})"
                for one in asked
            ),
        )
    for table in (in_time, accuracy):
        wide_console().print(table)
    total = len(found.cells)
    typer.echo(
        f"agreement within {MOST_ATTAINMENT_APART * 100:g} points of attainment and "
        f"{MOST_ACCURACY_APART * 100:g} of accuracy: {sum(cell.agrees for cell in found.cells)} of "
        f"{total} cells with the luck of the run replayed, "
        f"{sum(cell.rehearsed_well for cell in found.cells)} after a rehearsal of other arrivals, "
        f"{sum(cell.foreseen for cell in found.cells)} with nothing known of the load"
    )
    late = sum(cell.client_was_late for cell in found.cells)
    if late:
        typer.echo(f"  in {late} cells the client itself was late")


def _ms(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f} ms"


def _points(value: float | None) -> str:
    return "-" if value is None else f"{value * 100:+.2f}"


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"
