"""`laud bench engine` for a detector: its report for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from engines.bench.detectors.report import DetectorReport, Form, Group, Span

_LABELS = {
    "own_dense": "ours, nothing skipped",
    "openvino_same": "OpenVINO, same precision",
    "openvino_best": "OpenVINO, best here",
}


def print_report(report: DetectorReport) -> None:
    """Print all of it."""
    from rich.console import Console

    console = Console()
    typer.echo(
        f"{report.arch}, point {report.point}, {report.size} px, {report.threads} "
        f"thread{'s' if report.threads > 1 else ''}; against {report.against} with nothing "
        f"skipped at {report.against_size} px"
    )
    typer.echo(
        f"{report.precision} ({report.isa}) on {report.machine.cpu}, load {report.machine.load:.2f}"
    )
    typer.echo(
        f"images: {report.images}; AP50 with nothing skipped {report.ap50:.3f}, AP {report.ap:.3f}"
    )
    for group in (report.every, report.emptiest):
        typer.echo(
            f"\n{group.chosen} ({group.timed} of {group.pictures} timed): {group.foreground:.3f} "
            f"foreground, {group.objects:.0f} objects, {group.activation:.3f} of the units active, "
            f"{group.macs / 1e6:.0f} of {group.dense_macs / 1e6:.0f} M MACs "
            f"(ideal {group.ideal_ratio:.2f})"
        )
        console.print(_timed(group))
    typer.echo("\nparts: ours at the point; ours and OpenVINO's with nothing skipped")
    console.print(_parts(report))
    baseline = report.baseline
    properties = ", ".join(f"{key}={value}" for key, value in baseline.properties.items())
    typer.echo(
        f"{baseline.engine} {baseline.versions['openvino'].partition('-')[0]}, {properties}; tried:"
    )
    for form in baseline.forms:
        typer.echo(f"  {_tried(form)}")


def _timed(group: Group) -> Table:
    from rich.table import Table

    table = Table("", "ms", "speed-up of ours", "quartiles")
    for title, span in (("dense part", group.dense), ("everything", group.everything)):
        table.add_row(f"{title}: ours", f"{span.ours_ms:.2f}", "", "")
        for name, label in _LABELS.items():
            if name in span.ratios:
                table.add_row(f"{title}: {label}", *_against(span, name))
    return table


def _against(span: Span, name: str) -> tuple[str, str, str]:
    ratio = span.ratios[name]
    return (
        f"{ratio.of_medians * span.ours_ms:.2f}",
        f"{ratio.of_medians:.2f}",
        f"{ratio.lower_quartile:.2f}-{ratio.upper_quartile:.2f}",
    )


def _parts(report: DetectorReport) -> Table:
    from rich.table import Table

    table = Table("", "M MACs", "MB", "point, ms", "ours, ms", "OpenVINO, ms")
    for part in report.parts:
        times = (part.point_ms, part.ours_ms, part.openvino_ms)
        table.add_row(
            part.name,
            f"{part.macs / 1e6:.0f}",
            f"{part.num_bytes / 1e6:.1f}",
            *(f"{ms:.2f}" for ms in times),
        )
    return table


def _tried(form: Form) -> str:
    judged = (
        f"AP50 {form.ap50:.3f} (loss {form.loss:+.3f}), AP {form.ap:.3f} ({form.ap_loss:+.3f}), "
        f"agrees on {form.agreement:.3f}"
    )
    if form.dense_ms is None or form.whole_ms is None:
        return f"{form.name}: not right, {judged}"
    return f"{form.name}: {form.dense_ms:.2f} ms dense, {form.whole_ms:.2f} ms in all; {judged}"
