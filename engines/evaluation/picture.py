"""The picture of an evaluation: what a millisecond buys, and whether skipping buys more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engines.errors import InvalidInput
from engines.evaluation.label_places import Boxes, place_labels
from engines.evaluation.report import Kind, Report, Row

_DPI = 150
_INCHES = (10.5, 4.9)
_LABEL_SIZE = 7.5
# Okabe and Ito's colours, which the colour-blind tell apart, their purple darker so that text in it
# can be read; the marker says the same once more.
_STYLES: dict[Kind, tuple[str, str, str]] = {
    Kind.DIAL: ("#D55E00", "o", "skips per image"),
    Kind.FULL: ("#000000", "*", "full: nothing skipped"),
    Kind.SIZE: ("#0072B2", "s", "smaller image, nothing skipped"),
    Kind.FIXED: ("#A0467C", "^", "one mask for all images, same MACs"),
    Kind.BASELINE: ("#00795A", "D", "baseline"),
}
_MARKER_SIZE = {"*": 12.0, "o": 7.5}


def draw(path: Path, report: Report) -> None:
    """Write a PNG: latency against log-loss, and against accuracy, with 95 % intervals.

    The intervals of log-loss are those of its difference to `full`, image by image. Needs
    matplotlib (ModuleNotFoundError where it is missing). Raises InvalidInput for a report without
    latency, OSError where it cannot write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in report.rows if row.latency is not None]
    if not rows:
        raise InvalidInput("latency was not measured: there is nothing to draw")
    # Labels are placed in pixels: those of the file.
    figure = Figure(figsize=_INCHES, dpi=_DPI, layout="constrained")
    canvas: Any = FigureCanvasAgg(figure)
    figure.suptitle(title(report), fontsize=10)
    left, right = figure.subplots(1, 2)
    for axis, losses in ((left, True), (right, False)):
        _points(axis, rows, losses)
        axis.set_xlabel("latency of an image, ms", fontsize=9)
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.tick_params(labelsize=8)
        axis.margins(x=0.1, y=0.1)
        axis.spines[["right"]].set_visible(False)
        _ratio_axis(axis, rows)
    left.set_ylabel("log-loss (95 % of its difference to full)", fontsize=9)
    right.set_ylabel("accuracy (95 %, Wilson)", fontsize=9)
    handles, names = left.get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside lower center", ncols=len(names), fontsize=8, frameon=False
    )
    canvas.draw()
    for axis, losses in ((left, True), (right, False)):
        _labels(axis, rows, losses, canvas.get_renderer())
    figure.savefig(path, format="png")


def title(report: Report) -> str:
    """What the points hold for, in one line."""
    threads = report.threads
    many = "" if threads is None else f", {threads} thread{'s' if threads > 1 else ''}"
    isa = f" ({report.isa})" if report.isa else ""
    noise = report.timing
    quiet = "; the machine was NOT quiet" if noise is not None and noise.too_noisy else ""
    return (
        f"{report.name}: {report.engine} engine, {report.precision}{isa}{many}, one image a call, "
        f"{report.images} pictures{quiet}"
    )


def _points(axis: Any, rows: Sequence[Row], losses: bool) -> None:
    for kind, (colour, marker, name) in _STYLES.items():
        of_kind = sorted((row for row in rows if row.kind is kind), key=_latency)
        if not of_kind:
            continue
        if kind is Kind.SIZE:
            # `full` is the top of the ladder of sizes.
            ladder = sorted(
                (row for row in rows if row.kind in (Kind.SIZE, Kind.FULL)), key=_latency
            )
            axis.plot(
                [_latency(row) for row in ladder],
                [_height(row, losses) for row in ladder],
                color=colour,
                linewidth=1.0,
                alpha=0.6,
                zorder=1,
            )
        lower, upper = zip(*(_reach(row, losses) for row in of_kind), strict=True)
        axis.errorbar(
            [_latency(row) for row in of_kind],
            [_height(row, losses) for row in of_kind],
            yerr=(lower, upper),
            color=colour,
            marker=marker,
            markersize=_MARKER_SIZE.get(marker, 6.0),
            markeredgecolor="white",
            markeredgewidth=0.7,
            linestyle="none",
            ecolor=(colour, 0.45),
            elinewidth=1.0,
            capsize=2,
            label=name,
            zorder=3 if kind in (Kind.DIAL, Kind.FULL) else 2,
        )


def _ratio_axis(axis: Any, rows: Sequence[Row]) -> None:
    """A second axis above: latency over that of `full`."""
    one = next((row for row in rows if row.latency_ratio), None)
    if one is None or one.latency_ratio is None:
        return
    of_full = _latency(one) / one.latency_ratio
    above = axis.secondary_xaxis(
        "top", functions=(lambda ms: ms / of_full, lambda ratio: ratio * of_full)
    )
    above.set_xlabel("relative to full", fontsize=8)
    above.tick_params(labelsize=8)


def _labels(axis: Any, rows: Sequence[Row], losses: bool, renderer: Any) -> None:
    """Every point's name beside it, moved to where it covers no other one, nor a marker."""
    from matplotlib.patheffects import withStroke

    anchors = axis.transData.transform(
        [(_latency(row), _height(row, losses)) for row in rows]
    ).tolist()
    shown = [
        axis.annotate(
            _short(row),
            (_latency(row), _height(row, losses)),
            (0, 0),
            textcoords="offset pixels",
            fontsize=_LABEL_SIZE,
            color=_STYLES[row.kind][0],
            zorder=4,
            annotation_clip=False,
            path_effects=[withStroke(linewidth=2.0, foreground="white")],
        )
        for row in rows
    ]
    sizes = []
    for each in shown:
        box = each.get_window_extent(renderer)
        sizes.append((float(box.width), float(box.height)))
    inside = axis.get_window_extent(renderer)
    frame = (inside.x0, inside.y0, inside.x1, inside.y1)
    whiskers: Boxes = []
    for row in rows:
        lower, upper = _reach(row, losses)
        height = _height(row, losses)
        (x, bottom), (_, top) = axis.transData.transform(
            [(_latency(row), height - lower), (_latency(row), height + upper)]
        )
        whiskers.append((x - 1.5, bottom, x + 1.5, top))
    for each, offset in zip(shown, place_labels(anchors, sizes, whiskers, frame), strict=True):
        each.xyann = offset


def _short(row: Row) -> str:
    return row.name.replace(" (fixed mask)", " fixed") if row.kind is Kind.FIXED else row.name


def _latency(row: Row) -> float:
    return row.latency.mean_ms if row.latency else 0.0


def _height(row: Row, losses: bool) -> float:
    return row.answers.log_loss if losses else row.answers.accuracy


def _reach(row: Row, losses: bool) -> tuple[float, float]:
    """How far its interval reaches below and above."""
    of, difference = row.answers, row.difference
    if losses:
        return difference.mean - difference.low, difference.high - difference.mean
    return of.accuracy - of.accuracy_low, of.accuracy_high - of.accuracy
