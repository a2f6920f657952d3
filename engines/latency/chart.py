"""The picture of `laud plan`: latency ratio against activation rate, one column per stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engines.core import Paradigm
from engines.latency.design import Curve, Design

_INCHES_PER_STAGE, _INCHES_PER_ROW, _INCHES_OF_TITLE = 3.2, 3.0, 0.8
_DPI = 130
# Slower than this is bad whatever it is; a tall axis would flatten what matters.
_HIGHEST_RATIO = 2.0
# The upper end of the colour map is too pale for lines on white.
_PALEST = 0.88
_ROWS = (
    ("patches of S x S pixels, and whole blocks", (Paradigm.SPATIAL, Paradigm.LAYER)),
    ("groups of G channels", (Paradigm.CHANNEL,)),
)


def draw(path: Path, design: Design, curves: Sequence[Curve]) -> None:
    """Write a PNG of `curves`, with what `design` chose and at which rate.

    Needs matplotlib (ModuleNotFoundError where it is missing); OSError where it cannot write.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    stages = len(design.stages)
    figure = Figure(
        figsize=(_INCHES_PER_STAGE * stages + 1.2, _INCHES_PER_ROW * len(_ROWS) + _INCHES_OF_TITLE),
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    figure.suptitle(title(design), fontsize=11)
    axes = figure.subplots(len(_ROWS), stages, sharex=True, sharey=True, squeeze=False)
    top = min(_HIGHEST_RATIO, max(1.1, *(max(curve.ratios) for curve in curves)) + 0.05)
    for row, (what, paradigms) in enumerate(_ROWS):
        shown = [curve for curve in curves if curve.candidate.paradigm in paradigms]
        styles = _styles(shown, matplotlib.colormaps["viridis"])
        for column, each in enumerate(design.stages):
            axis = axes[row][column]
            axis.axhline(1.0, color="0.4", linewidth=1)
            for curve in shown:
                if curve.stage == each.stage.name:
                    axis.plot(curve.activations, curve.ratios, **styles[curve.candidate.short])
                if (curve.stage, curve.candidate) == (each.stage.name, each.chosen.candidate):
                    # On its curve, where the other stages are static; the table's ratio is with
                    # the others as chosen.
                    rate = design.rates.of(curve.candidate)
                    ratio = float(np.interp(rate, curve.activations, curve.ratios))
                    axis.plot(rate, ratio, "o", color="crimson", markersize=6, zorder=5)
                    axis.annotate(
                        "chosen", (rate, ratio), (4, -11), textcoords="offset points", fontsize=8
                    )
            axis.set(xlim=(0.0, 1.0), ylim=(0.0, top))
            axis.grid(alpha=0.25)
            if row == 0:
                size = f"{each.stage.map_height}x{each.stage.map_width}"
                axis.set_title(
                    f"{each.stage.name}: {each.stage.depth} blocks, {each.stage.width} inner "
                    f"channels, {size} px",
                    fontsize=8,
                )
            if row == len(_ROWS) - 1:
                axis.set_xlabel("activation rate (share of units)", fontsize=9)
        axes[row][0].set_ylabel(f"stage latency / static stage\n{what}", fontsize=9)
        handles = _handles(axes[row])
        if handles:
            axes[row][-1].legend(
                handles.values(),
                handles.keys(),
                loc="upper left",
                bbox_to_anchor=(1.01, 1.0),
                fontsize=8,
                frameon=False,
            )
    figure.savefig(path, dpi=_DPI, format="png")


def title(design: Design) -> str:
    """What the curves hold for, in one line."""
    of = design.setting
    threads = "" if of.threads is None else f", {of.threads} thread{'s' if of.threads > 1 else ''}"
    model = {"paper": ", model as published", "fixed": "", "native": ""}[of.model]
    return (
        f"{of.arch}, {of.size} px, {of.device}, batch {of.batch}, {of.precision}{threads}{model} "
        "(predicted)"
    )


def _styles(curves: Sequence[Curve], colours: Any) -> dict[str, dict[str, Any]]:
    """Fine granularities dark, coarse ones light, the same in every stage; layer black, dashed."""
    sizes = sorted({curve.candidate.patch or curve.candidate.group or 0 for curve in curves} - {0})
    styles: dict[str, dict[str, Any]] = {}
    for curve in curves:
        size, name = curve.candidate.patch or curve.candidate.group, curve.candidate.short
        styles[name] = {"label": name, "linewidth": 1.5, "color": "black", "linestyle": "--"}
        if size is not None:
            place = sizes.index(size) / max(len(sizes) - 1, 1) * _PALEST
            styles[name] |= {"color": colours(place), "linestyle": "-"}
    return styles


def _handles(axes: Any) -> dict[str, Any]:
    """One entry per label over all stages, fine first: a later stage lacks the large patches."""
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    order = sorted(found, key=lambda label: int(label[2:]) if "=" in label else 1 << 30)
    return {label: found[label] for label in order}
