"""`laud load`: offer load to a running server, and say what became of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.output import JSON, check_drawable, say

if TYPE_CHECKING:
    from service.load.report import LoadReport, LoadReports

FAILED_STATUS = 1


def load(
    url: Annotated[str, typer.Argument(help="Of the server, such as http://127.0.0.1:8000.")],
    images: Annotated[
        list[Path] | None,
        typer.Argument(help="Picture files, or folders of them [the package's samples]."),
    ] = None,
    rate: Annotated[
        list[float] | None,
        typer.Option(help="Requests a second (may be repeated: one run each) [10]."),
    ] = None,
    rates: Annotated[
        str | None, typer.Option(help="The same with commas, a sweep: 20,40,80.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(help="Length of a run [10].")] = None,
    minutes: Annotated[float | None, typer.Option(help="The same in minutes, a soak.")] = None,
    cv2: Annotated[
        float,
        typer.Option(
            help="Squared coefficient of variation of the gaps: 0 even, 1 Poisson, 8 bursts."
        ),
    ] = 1.0,
    bursty: Annotated[
        float | None,
        typer.Option(help="Share of the rate that comes evenly; the rest has --cv2 [none]."),
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(
            help='Recorded traffic: {"at_s": 0.25, "slo_ms": 50, "image": "a.jpg"} a line, or '
            "microseconds between requests as perf_analyzer takes them."
        ),
    ] = None,
    slo_ms: Annotated[
        float | None, typer.Option(help="Latency budget of every request [the server's default].")
    ] = None,
    mix: Annotated[
        str | None, typer.Option(help="Budgets in percent:milliseconds, 70:100,20:50,10:25.")
    ] = None,
    slo_class: Annotated[
        str | None, typer.Option(help="A latency class that the server knows.")
    ] = None,
    point: Annotated[str | None, typer.Option(help="Pin an operating point.")] = None,
    min_accuracy: Annotated[
        float | None, typer.Option(help="Ask for points at least this accurate.")
    ] = None,
    on_infeasible: Annotated[
        str | None, typer.Option(help="degrade or reject [the server's default].")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Where the server has several.")] = None,
    tensor: Annotated[
        bool, typer.Option("--tensor", help="UINT8 tensors to /v2 instead of files to /v1.")
    ] = False,
    header: Annotated[
        list[str] | None, typer.Option(help="name:value on every request (may be repeated).")
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="File with an API key, kept off the command line.")
    ] = None,
    metrics_url: Annotated[
        str | None, typer.Option(help="Where /metrics is, with a second port [the URL].")
    ] = None,
    connections: Annotated[
        int, typer.Option(help="Most connections; open requests beyond wait, and count as late.")
    ] = 256,
    warm_up: Annotated[float, typer.Option(help="Seconds of traffic that do not count.")] = 2.0,
    patience: Annotated[
        float, typer.Option(help="Seconds to wait at the end for what is still open.")
    ] = 30.0,
    seed: Annotated[int, typer.Option(help="Of times, budgets and pictures.")] = 0,
    fail_below_attainment: Annotated[
        float | None,
        typer.Option(help="Exit with 1 where a smaller share, 0 to 1, is in time."),
    ] = None,
    fail_above_mb_per_minute: Annotated[
        float | None,
        typer.Option(help="Exit with 1 where the server's memory grows faster."),
    ] = None,
    png: Annotated[
        Path | None, typer.Option(help="Also draw it (needs matplotlib, extra `train`).")
    ] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Send pictures to a server at times that do not depend on its answers.

    Open loop: latency counts from when a request was due, so that a server which falls behind
    cannot hide it. In time is what the server answered (200) before its deadline by the clock of
    this client, out of everything sent: refusals and errors are misses. Where the client itself was
    late by over a millisecond at the 99th percentile, it says so: use another machine, fewer
    requests, or more --connections.

        laud load http://127.0.0.1:8000 --rate 50 --slo-ms 40

    Bursts, mixed deadlines, three loads, a picture:

        laud load http://127.0.0.1:8000 DIR --rates 40,80,160 --cv2 8 --mix 70:100,20:50,10:25
            --seconds 60 --png load.png

    A soak that fails on a leak:

        laud load http://127.0.0.1:8000 DIR --rate 60 --minutes 30 --fail-below-attainment 0.99
            --fail-above-mb-per-minute 1
    """
    from engines.errors import InvalidInput
    from service.load.session import Session, read_key, run_session
    from service.load.target import Ask, parse_header

    if seconds is not None and minutes is not None:
        raise InvalidInput("--seconds and --minutes both say how long; choose one")
    duration_s = minutes * 60 if minutes is not None else seconds
    if duration_s is None and replay is None:
        duration_s = 10.0
    headers = [parse_header(one) for one in header or ()]
    if key_file is not None:
        headers.append(("authorization", f"Bearer {read_key(key_file)}"))
    session = Session(
        url=url,
        images=tuple(images or ()),
        rates_hz=_rates(rate, rates),
        duration_s=duration_s,
        cv2=cv2,
        base_share=bursty,
        replay=replay,
        mix=mix,
        slo_ms=slo_ms,
        tensor=tensor,
        model=model,
        ask=Ask(slo_class, point, min_accuracy, on_infeasible, tuple(headers)),
        metrics_url=metrics_url,
        connections=connections,
        warm_up_s=warm_up,
        patience_s=patience,
        seed=seed,
    )
    if png is not None:
        check_drawable("--png", png)
    reports = run_session(session, say)
    if as_json:
        typer.echo(reports.model_dump_json())
    else:
        _print(reports)
    if png is not None:
        from service.load.picture import draw

        draw(png, reports)
    _judge(reports, fail_below_attainment, fail_above_mb_per_minute)


def _rates(rate: list[float] | None, rates: str | None) -> tuple[float, ...]:
    from engines.errors import InvalidInput

    try:
        swept = [float(part) for part in rates.split(",")] if rates else []
    except ValueError:
        raise InvalidInput(f"--rates takes numbers with commas, such as 20,40: '{rates}'") from None
    return (*(rate or ()), *swept) or (10.0,)


def _judge(
    reports: LoadReports, least_attainment: float | None, most_mb_per_minute: float | None
) -> None:
    """End with a status where something was not as asked, or is not to be trusted."""
    failed = False
    for report in reports.runs:
        slope = report.server.mb_per_minute if report.server else None
        if least_attainment is not None and report.attainment < least_attainment:
            say(f"failed: {report.attainment:.2%} in time, asked were {least_attainment:.2%}")
            failed = True
        if most_mb_per_minute is not None and slope is None:
            say("failed: cannot tell how memory grows; is /metrics open, and the run long enough?")
            failed = True
        elif most_mb_per_minute is not None and slope is not None and slope > most_mb_per_minute:
            say(f"failed: memory grows by {slope:.2f} MB a minute")
            failed = True
    for report in reports.runs:
        if not report.client_was_late:
            continue
        say(
            f"not to be trusted: at {report.load} the client sent 1 % of its requests over "
            f"{report.send_lag_ms.p99:.1f} ms late; its machine or its --connections do not suffice"
        )
    if failed:
        raise typer.Exit(FAILED_STATUS)


def _print(reports: LoadReports) -> None:
    for number, report in enumerate(reports.runs):
        if number:
            typer.echo("")
        _print_run(report)


def _print_run(report: LoadReport) -> None:
    typer.echo(f"{report.url}{report.route}, {report.load}, {report.duration_s:g} s")
    typer.echo(f"pictures: {report.pictures}")
    said = ", ".join(f"{name} {number}" for name, number in report.server_said.items())
    typer.echo(
        f"sent {report.sent}, in time {report.met} ({report.attainment:.2%}), late {report.late}"
        + (f"; the server said: {said}" if said else "")
    )
    if report.refused or report.unanswered:
        refused = ", ".join(f"{status}: {number}" for status, number in report.refused.items())
        typer.echo(f"refused {refused or 0}; without an answer {report.unanswered}")
    typer.echo(f"goodput {report.goodput_hz:.2f}/s of {report.offered_hz:.2f}/s offered")
    if report.mean_accuracy is not None and report.effective_accuracy is not None:
        typer.echo(
            f"accuracy expected: {report.mean_accuracy:.4f} of answers in time, "
            f"{report.effective_accuracy:.4f} over all sent"
        )
    if report.latency_ms:
        ms = report.latency_ms
        line = f"latency ms: p50 {ms.p50:.2f}, p95 {ms.p95:.2f}, p99 {ms.p99:.2f}"
        line += f", most {ms.max:.2f}"
        if report.over_deadline:
            line += f"; over its budget: p99 {report.over_deadline.p99:.2f}"
        typer.echo(line)
    if report.points:
        shares = sorted(report.points.items(), key=lambda one: -one[1])
        typer.echo("points: " + ", ".join(f"{name} {share:.1%}" for name, share in shares))
    typer.echo(
        f"client: sent after it was due by p50 {report.send_lag_ms.p50:.2f}, "
        f"p99 {report.send_lag_ms.p99:.2f} ms"
    )
    if report.server:
        use = report.server
        line = f"server: {use.cores:.2f} cores, {use.rss_mb:.0f} MB"
        if use.cpu_ms_per_request is not None:
            line += f", {use.cpu_ms_per_request:.2f} ms of CPU time an answer"
        if use.mb_per_minute is not None:
            line += f", memory {use.mb_per_minute:+.2f} MB a minute"
        typer.echo(line)
