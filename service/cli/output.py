"""What the commands print: progress, and tables of operating points."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from engines.manifest import PointRecord

JSON = typer.Option("--json", help="Print JSON for machines instead of a table.")


def say(line: str) -> None:
    """Progress goes to stderr, so that stdout stays clean for pipes."""
    print(line, file=sys.stderr, flush=True)


def print_points(records: Sequence[PointRecord]) -> None:
    """A table of operating points, to stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table("point", "px", "MACs", "ratio", "accuracy", "95 %", "agreement with full")
    for record in records:
        accuracy = record.accuracy
        table.add_row(
            record.point.name,
            str(record.point.image_size),
            f"{record.macs / 1e6:.0f} M",
            f"{record.macs_ratio:.3f}",
            f"{accuracy.value:.3f}" if accuracy else "-",
            f"{accuracy.low:.3f}-{accuracy.high:.3f}" if accuracy else "-",
            f"{record.agreement:.3f}" if record.agreement is not None else "-",
        )
    Console().print(table)
