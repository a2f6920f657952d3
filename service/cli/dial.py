"""How the commands print a dial: what was kept of the candidates, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engines.manifest import Dial


def print_dial(dial: Dial) -> None:
    """A table of all candidates to stdout: those kept, and those dropped for another.

    One that is kept although another dominates it names that in brackets.
    """
    from rich.console import Console
    from rich.table import Table

    threads = "1 thread" if dial.threads == 1 else f"{dial.threads} threads"
    table = Table(
        *("candidate", "px", "ms", "ratio", "MACs", "log loss", "accuracy", "dropped for"),
        title=f"dial: {dial.precision}, {threads}, {dial.device}",
        caption=(
            f"medians of {dial.repeats} runs, equal runs differ by {dial.noise_ratio:.1%}; "
            f"latencies within {dial.tolerance_ratio:.1%} are equal"
        ),
    )
    for each in dial.candidates:
        by = each.dominated_by
        kept = "kept" if by is None else f"kept ({by})"
        table.add_row(
            each.name,
            str(each.image_size),
            f"{each.latency_ms:.2f}",
            f"{each.latency_ratio:.3f}",
            f"{each.macs_ratio:.3f}",
            f"{each.log_loss:.3f}",
            f"{each.accuracy:.3f}",
            kept if each.kept else by,
        )
    Console().print(table)
