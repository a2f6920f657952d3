"""What the commands print: progress, and tables of operating points."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from engines.manifest import PointRecord

JSON = typer.Option("--json", help="Print JSON for machines instead of a table.")


def say(line: str) -> None:
    """Progress goes to stderr, so that stdout stays clean for pipes."""
    print(line, file=sys.stderr, flush=True)


def check_drawable(option: str, png: Path) -> None:
    """Refuse a picture that could not be drawn or written: before a long run, not after it.

    Raises InvalidInput, and ModuleNotFoundError where matplotlib is not installed.
    """
    from engines.errors import InvalidInput

    if not png.absolute().parent.is_dir():
        raise InvalidInput(f"{option} {png}: no such folder")
    if png.is_dir():
        raise InvalidInput(f"{option} {png} is a folder; name a file in it")
    if png.suffix.lower() != ".png":
        raise InvalidInput(f"{option} writes a PNG picture; name it so, such as {png.stem}.png")
    import matplotlib  # noqa: F401 - missing, it is told now


def print_points(records: Sequence[PointRecord]) -> None:
    """A table of operating points, to stdout, and below it what those do that glance."""
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
    for record in records:
        glance = record.point.glance
        if glance is not None and record.again is not None:
            typer.echo(
                f"  {record.point.name}: every image at {glance.image_size} px first, where that "
                f"is less sure than {glance.confidence:.3g} at {record.point.image_size} px too: "
                f"{record.again:.1%} of them"
            )
