"""`laud evaluate` of a detector: average precision of its points, and what they cost."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from service.cli.evaluation_tables import NONE, WIDTH, ran_text, short, table_of, timing_notes
from service.cli.output import say

if TYPE_CHECKING:
    from rich.table import Table

    from engines.detection.intervals import Bounded
    from engines.evaluation.detection import DetectionPlan, DetectionReport, DetectionResult
    from engines.evaluation.detection_rivals import DetectionRival


def evaluate_detection(
    bundle: str,
    folders: Sequence[Path],
    plan: DetectionPlan,
    *,
    as_json: bool,
    pareto: Path | None,
) -> None:
    """Measure and print, to stdout; then draw."""
    from engines.errors import InvalidInput
    from engines.evaluation.detection_run import evaluate_detector

    if len(folders) != 1:
        raise InvalidInput(f"a detector is evaluated on one split, got {len(folders)} folders")
    report = evaluate_detector(bundle, folders[0], plan, say)
    # What was measured is out before a full disk can spoil the picture.
    if as_json:
        typer.echo(json.dumps(report.flat()))
    else:
        _print(report)
    if pareto is not None:
        from engines.evaluation.picture import draw_detection

        draw_detection(pareto, report)
        say(f"wrote {pareto}")


def _print(report: DetectionReport) -> None:
    from rich.console import Console

    console = Console(width=WIDTH, highlight=False)
    scores = report.results[0].scores
    most = "/".join(map(str, scores.max_detections))
    ran = ran_text(report.plan.engine, report.precision, report.isa, report.threads)
    typer.echo(f"{ran}; {scores.images} pictures, {scores.objects} objects; maxDets {most}")
    console.print(_precision(report, "box"))
    if scores.mask_ap is not None:
        console.print(_precision(report, "mask"))
    console.print(_by_size(report))
    console.print(_answers(report))
    console.print(_costs(report))
    if report.shuffles:
        console.print(_shuffles(report))
    if rivals := report.rivals():
        console.print(_rivals(rivals, as_fast="as fast" if report.timing else "of as little work"))
    for note in _notes(report):
        typer.echo(textwrap.fill(note, WIDTH))


def _precision(report: DetectionReport, kind: str) -> Table:
    table = table_of(_KINDS[kind], "point", "px", "AP [95 %]", "AP50 [95 %]", "AP75")
    for each in report.results:
        of = each.boxes if kind == "box" else each.masks
        if of is None:
            continue
        table.add_row(
            _shown(each),
            str(each.point.image_size),
            *(f"{short(v)} [{short(low)} {short(high)}]" for v, low, high in (of.ap, of.ap50)),
            _score(getattr(each.scores, f"{kind}_ap75")),
        )
    return table


def _by_size(report: DetectionReport) -> Table:
    """Beside the intervals there is no room for it."""
    kinds = ("box",) if report.results[0].scores.mask_ap is None else ("box", "mask")
    heads = [f"{_KINDS[kind]}, {size}" for kind in kinds for size in _SIZES]
    table = table_of("AP by size of object", "point", *heads)
    for each in report.results:
        scores = [getattr(each.scores, f"{kind}_ap_{size}") for kind in kinds for size in _SIZES]
        table.add_row(_shown(each), *map(_score, scores))
    return table


def _answers(report: DetectionReport) -> Table:
    """What single answers are worth, which average precision does not tell."""
    heads = ("point", "Bowl", "Bowl, IoU .5", "unlabelled", "of them sure", "AP50 without")
    table = table_of("answers", *heads)
    for each in report.results:
        bowl, apart = each.bowl, each.unlabelled
        shown = bowl.cutoffs.index(_BOWL_AT) if bowl else 0
        table.add_row(
            _shown(each),
            *((NONE,) * 2 if bowl is None else map(short, (bowl.mean[shown], bowl.at50[shown]))),
            *(
                (NONE,) * 3
                if apart is None
                else (f"{apart.count:,}", f"{apart.sure:,}", short(apart.box_ap50))
            ),
        )
    return table


def _score(value: float | None) -> str:
    return NONE if value is None else short(value)


_KINDS = {"box": "boxes", "mask": "masks"}
_SIZES = ("small", "medium", "large")
_BOWL_AT = 0.5


def _costs(report: DetectionReport) -> Table:
    heads = ("point", "MACs, M", "/ full", "with area", "p50, ms", "p95, ms", "/ full", "padding")
    table = table_of("costs", *heads)
    full = report.latencies.get("full")
    for each in report.results:
        latency, ratio = report.latencies.get(each.name), report.macs_ratio(each)
        timed = (NONE,) * 3
        if latency is not None:
            timed = (
                f"{latency.p50_ms:.1f}",
                f"{latency.p95_ms:.1f}",
                NONE if full is None else f"{latency.p50_ms / full.p50_ms:.3f}",
            )
        table.add_row(
            _shown(each),
            f"{each.macs / 1e6:,.0f}",
            NONE if ratio is None else f"{ratio:.3f}",
            NONE if each.cost_area_correlation is None else f"{each.cost_area_correlation:+.2f}",
            *timed,
            f"{each.padding:.1%}",
        )
    return table


def _shown(result: DetectionResult) -> str:
    """A fixed mask stands below its point: a line has no room for both names."""
    return result.name if result.of is None else "fixed mask"


def _shuffles(report: DetectionReport) -> Table:
    table = table_of("masks of other pictures", "point", "AP50", "minus its own [95 %]")
    for name, each in report.shuffles.items():
        table.add_row(name, short(each.ap50.value), _difference(each.minus))
    return table


def _rivals(rivals: Sequence[DetectionRival], as_fast: str) -> Table:
    """as_fast: what a smaller image has to be."""
    heads = ("point", "against", "rival", "difference [95 %]")
    table = table_of(f"AP50 minus that of a rival {as_fast}", *heads)
    for each in rivals:
        rival = each.rival or "none"
        table.add_row(
            each.point,
            each.against,
            "same MACs" if each.against == "fixed mask" else rival,
            NONE if each.ap50 is None else _difference(each.ap50),
        )
    return table


def _difference(found: Bounded) -> str:
    value, low, high = (f"{part:+.3f}" for part in found)
    return f"{value} [{low} {high}]"


def _notes(report: DetectionReport) -> list[str]:
    from engines.detection.intervals import RESAMPLES

    most = report.results[0].scores.max_detections[-1]
    bowl, fixed = [], []
    if any(each.bowl for each in report.results):
        bowl.append(
            "Bowl: the Data Science Bowl 2018's measure of masks, TP / (TP + FP + FN) of a "
            f"picture, mean over IoU .50 to .95, of answers with a score from {_BOWL_AT:g} on "
            "(--json: others)."
        )
    if report.fixed_from is not None:
        fixed.append(
            "fixed mask: the patches most often active at the point above it on "
            f"{report.fixed_from}, for all pictures, at its MACs without the mask head."
        )
    return [
        "AP: average precision, mean over labels and over IoU .50 to .95; AP50, AP75: at IoU .50 "
        "and .75; small, medium, large: AP of objects of less than 32 x 32 pixels, of less than "
        f"96 x 96, and of the others; all with at most {most} objects a picture and label. 95 %: "
        f"bootstrap over pictures, {RESAMPLES} resamples. MACs: a picture's mean, mask head "
        "included; / full: without it. with area: correlation of a picture's MACs without it with "
        "the area that its objects' boxes cover. padding: share of the network's input that is no "
        "picture.",
        *bowl,
        "unlabelled: answers whose box overlaps no labelled one (IoU below .1), sure: with a score "
        "from .5 on; AP50 without: of boxes, had they not been made.",
        *fixed,
        *timing_notes(report.timing),
    ]
