"""The picture of `laud bench serve`: CPU time by point, goodput beside its bound, a core taken, and
what server and simulator make of the same requests."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engines.errors import InvalidInput
from service.load.bench_report import (
    Agreement,
    AgreementCell,
    Capacity,
    Contention,
    Found,
    Goodput,
    Overhead,
    ServeBench,
)

DRAWN = ("overhead", "capacity", "goodput", "contention", "agreement")

_DPI = 130
_WIDTH, _HEIGHT = 4.4, 3.4
_PHASES = ("front", "decode", "engine", "client")


def check_parts(parts: Sequence[str]) -> None:
    """Raises InvalidInput where none of them has a panel."""
    if not set(parts) & set(DRAWN):
        raise InvalidInput(f"--png draws {', '.join(DRAWN)}; ask for one of them")


def draw(path: Path, report: ServeBench) -> None:
    """Write a PNG with a panel per part that was measured.

    Needs matplotlib (ModuleNotFoundError where it is missing); OSError where it cannot write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels: list[tuple[Any, Any]] = [
        (_overhead, report.overhead),
        (_capacity, report.capacity),
        (_goodput, report.goodput),
        (_contention, report.contention),
        (_agreement, report.agreement),
    ]
    shown = [(panel, part) for panel, part in panels if part]
    figure = Figure(figsize=(_WIDTH * len(shown), _HEIGHT), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(shown), squeeze=False)[0]
    for axis, (panel, part) in zip(axes, shown, strict=True):
        panel(axis, part)
        axis.tick_params(labelsize=7)
    figure.savefig(path, dpi=_DPI, format="png")


def _overhead(axis: Any, found: tuple[Overhead, ...]) -> None:
    axis.set_title("ms without decode and engine (p50)", fontsize=9)
    names = [one.what for one in found]
    axis.bar(names, [one.own_ms for one in found], label="laud", color="0.75")
    axis.bar(names, [one.bare_ms for one in found], label="bare FastAPI handler", color="0.45")
    axis.legend(fontsize=7)


def _capacity(axis: Any, found: Capacity) -> None:
    axis.set_title("CPU ms an answer, by point", fontsize=9)
    names = [one.point for one in found.points]
    below = [0.0] * len(names)
    for phase in _PHASES:
        heights = [float(getattr(one, f"{phase}_ms")) for one in found.points]
        axis.bar(names, heights, bottom=below, label=phase)
        below = [a + b for a, b in zip(below, heights, strict=True)]
    axis.legend(fontsize=7)
    axis.tick_params(axis="x", rotation=30)


def _goodput(axis: Any, found: Goodput) -> None:
    axis.set_title(f"answers a second, {found.attainment:.0%} in {found.slo_ms:.0f} ms", fontsize=9)
    axis.bar(["full", "policy"], [found.full_hz, found.ours_hz], color=["0.6", "C0"])
    for place, searches in enumerate((found.full_searches_hz, found.ours_searches_hz)):
        axis.plot([place] * len(searches), searches, "k.", markersize=4)
    bound_hz = found.full_hz * found.bound_ratio
    axis.axhline(bound_hz, color="crimson", linewidth=1)
    axis.annotate("bound by CPU times", (-0.4, bound_hz), fontsize=7, color="crimson", va="bottom")


def _contention(axis: Any, found: Contention) -> None:
    axis.set_title("a core is taken: % in time, and points", fontsize=9)
    axis.axvspan(found.begin_s, found.end_s, color="0.9")
    shown = [one for one in found.seconds if one.sent]
    times = [one.at_s for one in shown]
    names = sorted({name for one in shown for name in one.points})
    for name in names:
        shares = [100 * one.points.get(name, 0) / one.sent for one in shown]
        axis.plot(times, shares, linewidth=0.8, label=name)
    axis.plot(
        times, [100 * one.met / one.sent for one in shown], "k", linewidth=1.4, label="in time"
    )
    axis.set_ylim(-2, 102)
    axis.set_xlabel("s", fontsize=8)
    axis.legend(fontsize=6)


def _agreement(axis: Any, found: Agreement) -> None:
    axis.set_title("% in time: server (dot), simulator", fontsize=9)
    rows = range(len(found.cells))
    shown: list[tuple[str, str, Callable[[AgreementCell], Found | None]]] = [
        ("ko", "server", lambda cell: cell.server),
        ("C0|", "simulated", lambda cell: cell.simulated),
        ("C2+", "after a rehearsal", lambda cell: cell.rehearsed),
        ("C1x", "with the run's luck", lambda cell: cell.replayed),
    ]
    for mark, label, of in shown:
        values = [100 * one.attainment if (one := of(cell)) else math.nan for cell in found.cells]
        axis.plot(values, rows, mark, markersize=5, label=label)
    axis.set_yticks(rows, [f"{one.policy} {one.load:g}, {one.cv2:g}" for one in found.cells])
    axis.invert_yaxis()
    axis.set_xlim(-2, 102)
    axis.legend(fontsize=6)
