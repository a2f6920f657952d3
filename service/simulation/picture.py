"""The picture of `laud simulate`: effective accuracy and attainment per cell and policy."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import Any

from service.simulation.grid import Cell, GridReport

_DPI = 130
_CELL, _ROW, _TITLE = 3.2, 2.8, 1.0
_TITLE_LETTERS = 40
# The upper end of the colour map is too pale for marks on white.
_PALEST = 0.88


def draw(path: Path, report: GridReport) -> None:
    """Write a PNG: a row per burstiness, a column per load.

    Needs matplotlib (ModuleNotFoundError where it is missing); OSError where it cannot write.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    cv2s = sorted({cell.cv2 for cell in report.cells})
    loads = sorted({cell.load for cell in report.cells})
    figure = Figure(
        figsize=(_CELL * len(loads) + 1.0, _ROW * len(cv2s) + _TITLE), layout="constrained"
    )
    FigureCanvasAgg(figure)
    title = f"{report.machine}: accuracy of answers in time, over how many are; up right is better"
    figure.suptitle(fill(title, _TITLE_LETTERS * len(loads)), fontsize=10)
    axes = figure.subplots(len(cv2s), len(loads), squeeze=False)
    names = [result.name for result in report.cells[0].policies]
    steps = [_PALEST * place / max(len(names) - 1, 1) for place in range(len(names))]
    colours = [matplotlib.colormaps["viridis"](step) for step in steps]
    for cell in report.cells:
        _draw_cell(axes[cv2s.index(cell.cv2)][loads.index(cell.load)], cell, colours)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2 * len(loads), fontsize=8)
    figure.savefig(path, dpi=_DPI, format="png")


def _draw_cell(axis: Any, cell: Cell, colours: list[Any]) -> None:
    axis.set_title(f"load {cell.load:g}, CV² {cell.cv2:g}: {cell.rate_hz:.0f}/s", fontsize=9)
    for place, (result, colour) in enumerate(zip(cell.policies, colours, strict=True)):
        attained, accuracy = result.attainment, result.mean_accuracy
        if accuracy is None:
            continue
        axis.errorbar(
            100 * attained.mean,
            100 * accuracy.mean,
            xerr=[
                [100 * (attained.mean - attained.low)],
                [100 * (attained.high - attained.mean)],
            ],
            yerr=[
                [100 * (accuracy.mean - accuracy.low)],
                [100 * (accuracy.high - accuracy.mean)],
            ],
            fmt="*" if place == 0 else "o",
            markersize=9 if place == 0 else 5,
            color=colour,
            label=result.name,
        )
    axis.set_xlabel("% in time", fontsize=8)
    axis.set_ylabel("accuracy, %", fontsize=8)
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.3)
