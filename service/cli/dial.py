"""How the commands print a dial: what was kept of the candidates, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engines.manifest import Dial


def print_dial(dial: Dial) -> None:
    """A table of all candidates to stdout: those kept, and those dropped for another.

    One that is kept although another dominates it names that in brackets.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    threads = "1 thread" if dial.threads == 1 else f"{dial.threads} threads"
    table = Table(
        title=f"dial: {dial.precision}, {threads}, {dial.device}",
        title_justify="left",
        caption=_caption(dial),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("candidate", no_wrap=True)
    losses = any(each.log_loss is not None for each in dial.candidates)
    for head in ("px", "ms", "/ full", "MACs", *(["loss", "accuracy"] if losses else ["AP50"])):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("kept, or\ndropped for", no_wrap=True)
    for each in dial.candidates:
        by = each.dominated_by
        kept = "kept" if by is None else f"kept ({by})"
        table.add_row(
            each.name,
            str(each.image_size),
            f"{each.latency_ms:.2f}",
            f"{each.latency_ratio:.3f}",
            f"{each.macs_ratio:.3f}",
            *([] if each.log_loss is None else [f"{each.log_loss:.3f}"]),
            f"{each.accuracy:.3f}",
            kept if each.kept else by,
        )
    Console(highlight=False).print(table)


def _caption(dial: Dial) -> str:
    said = (
        f"medians of {dial.repeats} runs, equal runs differ by {dial.noise_ratio:.1%}; "
        f"latencies within {dial.tolerance_ratio:.1%} are equal"
    )
    if dial.least_gain_ratio:
        said += f", and within {dial.least_gain_ratio:.1%} of full's"
    if any(each.kept and each.dominated_by is not None for each in dial.candidates):
        said += "; kept (NAME): NAME is as fast and no worse, but nothing was dropped for it"
    return said
