"""The picture of `laud load`: latencies, attainment over time, operating points over time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from service.load.report import Bin, LoadReport, LoadReports

_DPI = 130
_WIDTH, _ROW, _TITLE = 12.0, 3.2, 0.6
# The upper end of the colour map is too pale for lines on white.
_PALEST = 0.88


def draw(path: Path, reports: LoadReports) -> None:
    """Write a PNG with one row per run.

    Needs matplotlib (ModuleNotFoundError where it is missing); OSError where it cannot write.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = len(reports.runs)
    figure = Figure(figsize=(_WIDTH, _ROW * rows + _TITLE), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 3, squeeze=False)
    for row, report in zip(axes, reports.runs, strict=True):
        _latencies(row[0], report)
        _attainment(row[1], report)
        _points(row[2], report, matplotlib.colormaps["viridis"])
    figure.savefig(path, dpi=_DPI, format="png")


def _latencies(axis: Any, report: LoadReport) -> None:
    from matplotlib.ticker import LogFormatter, ScalarFormatter

    axis.set_title(f"{report.load}: latency from when it was due", fontsize=9)
    axis.plot(report.latency_percentiles_ms, np.linspace(0, 100, 101)[: _count(report)])
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.xaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
    axis.tick_params(axis="x", which="both", labelsize=7)
    axis.set_xlabel("ms", fontsize=8)
    axis.set_ylabel("% of answers", fontsize=8)
    axis.grid(alpha=0.3)


def _attainment(axis: Any, report: LoadReport) -> None:
    axis.set_title(f"in time: {report.attainment:.1%} of all sent", fontsize=9)
    shown = [one for one in report.bins if one.sent]
    in_time = [100 * one.met / one.sent for one in shown]
    axis.step([one.at_s for one in shown], in_time, where="post")
    axis.set_ylim(-2, 102)
    axis.set_xlabel("s", fontsize=8)
    axis.set_ylabel(f"% in time, per {report.bin_s:.0f} s", fontsize=8)
    axis.grid(alpha=0.3)


def _points(axis: Any, report: LoadReport, colours: Any) -> None:
    axis.set_title("operating points of the answers", fontsize=9)
    names = sorted(report.points, key=lambda name: -report.points[name])
    shown = [one for one in report.bins if one.points]
    times = [one.at_s for one in shown]
    heights = [[_share(one, name) for one in shown] for name in names]
    if names:
        steps = np.linspace(0, _PALEST, len(names))
        axis.stackplot(
            times, heights, labels=names, step="post", colors=[colours(step) for step in steps]
        )
        axis.legend(fontsize=7, loc="lower right")
    axis.set_xlabel("s", fontsize=8)
    axis.set_ylabel("% of answers", fontsize=8)


def _share(one: Bin, name: str) -> float:
    return 100 * one.points.get(name, 0) / sum(one.points.values())


def _count(report: LoadReport) -> int:
    return len(report.latency_percentiles_ms)
