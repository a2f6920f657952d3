"""What `laud evaluate` prints for people: tables of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from engines.evaluation.report import Report, Row, Timing
    from engines.evaluation.rivals import Comparison

WIDTH = 80
NONE = "-"


def print_report(report: Report) -> None:
    """Answers, costs, what depends on the image, and who wins; to stdout."""
    from rich.console import Console

    # Narrower than its terminal a table is still read; wider it is not.
    console = Console(width=WIDTH, highlight=False)
    ran = ran_text(report.engine, report.precision, report.isa, report.threads)
    typer.echo(f"{ran}; {report.images} images")
    console.print(_answers(report.rows))
    console.print(_costs(report))
    skipping = [row for row in report.rows if row.spread is not None]
    if skipping:
        console.print(_evidence(skipping))
    if any(row.shuffled for row in skipping):
        console.print(_shuffles(skipping))
    if report.comparisons:
        console.print(_comparisons(report.comparisons, report.cost))
    for note in _notes(report):
        typer.echo(textwrap.fill(note, WIDTH))


def _answers(rows: Sequence[Row]) -> Table:
    differs = any(row.differs for row in rows)
    # Where there is no room for all, what the reference says takes the place of the interval.
    last = ["answers differ", "masks differ"] if differs else ["- full, 95 %"]
    table = table_of("answers", "point", "px", "accuracy [95 %]", "agree", "loss", *last)
    for row in rows:
        of = row.answers
        table.add_row(
            row.name,
            str(of.image_size),
            f"{short(of.accuracy)} [{short(of.accuracy_low)} {short(of.accuracy_high)}]",
            short(of.agreement),
            short(of.log_loss),
            *(
                [_share(row.differs.get(key)) for key in ("answers_differ", "decisions_differ")]
                if differs
                else [_bounds(row.difference.low, row.difference.high)]
            ),
        )
    return table


def _costs(report: Report) -> Table:
    timed = report.timing is not None
    heads = ["ms mean", "p50", "p95", "/ full"] if timed else []
    again = any(row.again is not None for row in report.rows)
    table = table_of("cost", "point", "MACs / full", "again" if again else "active", *heads)
    for row in report.rows:
        latency = row.latency
        table.add_row(
            row.name,
            f"{row.answers.macs_ratio:.3f}",
            _share(row.again) if again else f"{row.answers.activation:.3f}",
            *(
                [
                    f"{latency.mean_ms:.2f}",
                    f"{latency.p50_ms:.2f}",
                    f"{latency.p95_ms:.2f}",
                    _ratio(row.latency_ratio),
                ]
                if latency
                else [NONE] * len(heads)
            ),
        )
    return table


def _evidence(rows: Sequence[Row]) -> Table:
    table = table_of(
        "what depends on the image",
        *("point", "blocks vary", "units differ", "MACs 5-95 %", "rank corr."),
        *("worst", "cap"),
    )
    for row in rows:
        of = row.spread
        if of is None:
            continue
        table.add_row(
            row.name,
            _share(of.blocks_varying),
            _share(of.units_differ),
            f"{of.macs_ratio_p5:.3f}-{of.macs_ratio_p95:.3f}",
            NONE if of.cost_difficulty_spearman is None else f"{of.cost_difficulty_spearman:+.2f}",
            f"{of.macs_worst_over_mean:.2f}",
            NONE
            if of.macs_ratio_cap is None
            else f"{of.macs_ratio_cap:.3f}{'' if of.under_cap else ' broken'}",
        )
    return table


def _shuffles(rows: Sequence[Row]) -> Table:
    table = table_of(
        "every image under the masks of another", "point", "accuracy", "loss", "rise [95 %]"
    )
    for row in rows:
        if row.shuffled is not None:
            rise = row.shuffled.rise
            table.add_row(
                row.name,
                f"{row.shuffled.accuracy:.3f}",
                f"{row.shuffled.log_loss:.3f}",
                _interval(rise.mean, rise.low, rise.high),
            )
    return table


def _comparisons(comparisons: Sequence[Comparison], cost: str) -> Table:
    as_fast = "as fast" if cost == "latency" else "of no more work"
    table = table_of(
        f"log-loss minus that of the best rival {as_fast}",
        *("point", "against", "rival", "difference [95 %]", "wins"),
    )
    for each in comparisons:
        found = each.difference is not None and each.low is not None and each.high is not None
        table.add_row(
            each.point,
            each.against,
            "same MACs" if each.against == "fixed mask" else _brief(each.rival or "none"),
            _interval(each.difference or 0.0, each.low or 0.0, each.high or 0.0) if found else NONE,
            _wins(each),
        )
    return table


def _brief(name: str) -> str:
    """As the picture has it: a line has no room for more."""
    return name.replace(" (fixed mask)", " fixed")


def _wins(each: Comparison) -> str:
    if each.wins is None or each.wins == "neither":
        return each.wins or NONE
    return "point" if each.wins == each.point else "rival"


def _notes(report: Report) -> list[str]:
    notes = [
        "agree: share of answers equal to those of full; loss: log-loss, less is better; - full: "
        "by how much it exceeds that of full; active: share of patches and channels computed."
    ]
    if any(row.spread for row in report.rows):
        notes.append(
            "blocks vary: share that decides differently on any two images; units differ: how "
            "often two images do; rank corr.: of an image's cost with 1 - confidence of full; "
            "worst: the dearest image over the mean; cap: what no image can exceed, over full."
        )
    if report.fixed_from is not None:
        notes.append(f"fixed masks: units most often active on {report.fixed_from}, labels unseen.")
    return [*notes, *timing_notes(report.timing)]


def timing_notes(timing: Timing | None) -> list[str]:
    """How latencies were measured, and whether to believe them."""
    if timing is None:
        return []
    notes = [
        f"latency: one image a call, {timing.calls} calls a point in turns; medians of two "
        f"halves differ by up to {timing.noise:.1%}."
    ]
    if timing.too_noisy:
        notes.append("The machine was not quiet: do not conclude from these latencies.")
    return notes


def table_of(title: str, *heads: str) -> Table:
    """A table whose first column are names."""
    from rich import box
    from rich.table import Table

    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for i, head in enumerate(heads):
        # Names are never broken; heads may be.
        table.add_column(head, justify="left" if i == 0 else "right", no_wrap=i == 0)
    return table


def ran_text(engine: str, precision: str, isa: str | None, threads: int | None) -> str:
    """What computed, in words."""
    many = "" if threads is None else f"{threads} thread{'s' if threads > 1 else ''}"
    return ", ".join(filter(None, (engine, precision, isa or "", many)))


def _interval(mean: float, low: float, high: float) -> str:
    return f"{short(mean, '+')} {_bounds(low, high)}"


def _bounds(low: float, high: float) -> str:
    return f"[{short(low, '+')} {short(high, '+')}]"


def short(value: float, sign: str = "") -> str:
    """Without the zero before the point, which three intervals a line have no room for."""
    return f"{value:{sign}.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:{sign}.3f}"


def _share(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"


def _ratio(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"
