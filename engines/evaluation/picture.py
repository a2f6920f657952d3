"""The picture of an evaluation: what a millisecond buys, and whether skipping buys more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.errors import InvalidInput
from engines.evaluation.detection import DetectionReport
from engines.evaluation.label_places import Boxes, place_labels
from engines.evaluation.report import Kind, Report, Row, Timing

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


@dataclass(frozen=True)
class _Mark:
    """A point of a panel: at `x` milliseconds and height `y`, its interval from low to high."""

    name: str
    kind: Kind
    x: float
    y: float
    low: float
    high: float


def draw(path: Path, report: Report) -> None:
    """Write a PNG: latency against log-loss, and against accuracy, with 95 % intervals.

    The intervals of log-loss are those of its difference to `full`, image by image. Needs
    matplotlib (ModuleNotFoundError where it is missing). Raises InvalidInput for a report without
    latency, OSError where it cannot write.
    """
    timed = next((row for row in report.rows if row.latency and row.latency_ratio), None)
    _draw(
        path,
        title(report),
        {
            "log-loss (95 % of its difference to full)": _marks(report.rows, losses=True),
            "accuracy (95 %, Wilson)": _marks(report.rows, losses=False),
        },
        _latency(timed) / timed.latency_ratio if timed and timed.latency_ratio else None,
    )


def draw_detection(path: Path, report: DetectionReport) -> None:
    """The same of a detector: average precision, and that at IoU .5, of masks where it has any."""
    heights: dict[str, list[_Mark]] = {}
    of = "boxes" if report.results[0].masks is None else "masks"
    for name, measure in (("AP", "ap"), ("AP50", "ap50")):
        marks = heights[f"{name} of {of} (95 %, bootstrap over pictures)"] = []
        for result in report.results:
            latency = report.latencies.get(result.name)
            if latency is not None:
                name = _brief(result.name, result.kind)
                marks.append(
                    _Mark(name, result.kind, latency.mean_ms, *getattr(result.best, measure))
                )
    full = report.latencies.get("full")
    _draw(path, detection_title(report), heights, full.mean_ms if full else None)


def title(report: Report) -> str:
    """What the points hold for, in one line."""
    ran = _ran(report.engine, report.precision, report.isa, report.threads)
    return f"{report.name}: {ran}, {report.images} pictures{_quiet(report.timing)}"


def detection_title(report: DetectionReport) -> str:
    """What the points of a detector hold for, in one line."""
    ran = _ran(report.plan.engine, report.precision, report.isa, report.threads)
    scores = report.results[0].scores
    held = f"{scores.images} pictures, {scores.objects} objects"
    return f"{report.bundle.manifest.name}: {ran}, {held}{_quiet(report.timing)}"


def _ran(engine: str, precision: str, isa: str | None, threads: int | None) -> str:
    many = "" if threads is None else f", {threads} thread{'s' if threads > 1 else ''}"
    return f"{engine} engine, {precision}{f' ({isa})' if isa else ''}{many}, one image a call"


def _quiet(timing: Timing | None) -> str:
    return "; the machine was NOT quiet" if timing is not None and timing.too_noisy else ""


def _draw(path: Path, text: str, panels: dict[str, list[_Mark]], full_ms: float | None) -> None:
    """Two panels by the titles of their heights. full_ms: what `full` takes, where it is known."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not all(panels.values()):
        raise InvalidInput("latency was not measured: there is nothing to draw")
    # Labels are placed in pixels: those of the file.
    figure = Figure(figsize=_INCHES, dpi=_DPI, layout="constrained")
    canvas: Any = FigureCanvasAgg(figure)
    figure.suptitle(text, fontsize=10)
    axes = figure.subplots(1, len(panels))
    for axis, (height, marks) in zip(axes, panels.items(), strict=True):
        _points(axis, marks)
        axis.set_xlabel("latency of an image, ms", fontsize=9)
        axis.set_ylabel(height, fontsize=9)
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.tick_params(labelsize=8)
        axis.margins(x=0.1, y=0.1)
        axis.spines[["right"]].set_visible(False)
        if full_ms is not None:
            _ratio_axis(axis, full_ms)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside lower center", ncols=len(names), fontsize=8, frameon=False
    )
    canvas.draw()
    for axis, marks in zip(axes, panels.values(), strict=True):
        _labels(axis, marks, canvas.get_renderer())
    figure.savefig(path, format="png")


def _points(axis: Any, marks: Sequence[_Mark]) -> None:
    for kind, (colour, marker, name) in _STYLES.items():
        of_kind = sorted((mark for mark in marks if mark.kind is kind), key=lambda mark: mark.x)
        if not of_kind:
            continue
        if kind is Kind.SIZE:
            # `full` is the top of the ladder of sizes.
            rungs = [mark for mark in marks if mark.kind in (Kind.SIZE, Kind.FULL)]
            ladder = sorted(rungs, key=lambda mark: mark.x)
            axis.plot(
                [mark.x for mark in ladder],
                [mark.y for mark in ladder],
                color=colour,
                linewidth=1.0,
                alpha=0.6,
                zorder=1,
            )
        axis.errorbar(
            [mark.x for mark in of_kind],
            [mark.y for mark in of_kind],
            yerr=(
                [mark.y - mark.low for mark in of_kind],
                [mark.high - mark.y for mark in of_kind],
            ),
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


def _ratio_axis(axis: Any, full_ms: float) -> None:
    """A second axis above: latency over that of `full`."""
    above = axis.secondary_xaxis(
        "top", functions=(lambda ms: ms / full_ms, lambda ratio: ratio * full_ms)
    )
    above.set_xlabel("relative to full", fontsize=8)
    above.tick_params(labelsize=8)


def _labels(axis: Any, marks: Sequence[_Mark], renderer: Any) -> None:
    """Every point's name beside it, moved to where it covers no other one, nor a marker."""
    from matplotlib.patheffects import withStroke

    anchors = axis.transData.transform([(mark.x, mark.y) for mark in marks]).tolist()
    shown = [
        axis.annotate(
            mark.name,
            (mark.x, mark.y),
            (0, 0),
            textcoords="offset pixels",
            fontsize=_LABEL_SIZE,
            color=_STYLES[mark.kind][0],
            zorder=4,
            annotation_clip=False,
            path_effects=[withStroke(linewidth=2.0, foreground="white")],
        )
        for mark in marks
    ]
    sizes = []
    for each in shown:
        box = each.get_window_extent(renderer)
        sizes.append((float(box.width), float(box.height)))
    inside = axis.get_window_extent(renderer)
    frame = (inside.x0, inside.y0, inside.x1, inside.y1)
    whiskers: Boxes = []
    for mark in marks:
        (x, bottom), (_, top) = axis.transData.transform([(mark.x, mark.low), (mark.x, mark.high)])
        whiskers.append((x - 1.5, bottom, x + 1.5, top))
    for each, offset in zip(shown, place_labels(anchors, sizes, whiskers, frame), strict=True):
        each.xyann = offset


def _marks(rows: Sequence[Row], *, losses: bool) -> list[_Mark]:
    return [
        _Mark(_brief(row.name, row.kind), row.kind, _latency(row), *_height(row, losses))
        for row in rows
        if row.latency is not None
    ]


def _brief(name: str, kind: Kind) -> str:
    return name.replace(" (fixed mask)", " fixed") if kind is Kind.FIXED else name


def _latency(row: Row) -> float:
    return row.latency.mean_ms if row.latency else 0.0


def _height(row: Row, losses: bool) -> tuple[float, float, float]:
    """Of its point, and of both ends of its interval."""
    of, difference = row.answers, row.difference
    if not losses:
        return of.accuracy, of.accuracy_low, of.accuracy_high
    # That of the difference, moved to where the loss is.
    moved = of.log_loss - difference.mean
    return of.log_loss, moved + difference.low, moved + difference.high
