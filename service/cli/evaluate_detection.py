"""`laud evaluate` of a detector: average precision of its points."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from service.cli.output import say

if TYPE_CHECKING:
    from engines.evaluation.detection import DetectionResult

_WIDTH = 80


def finds_objects(ref: str) -> bool:
    """Whether `ref` names the bundle of a detector; one that cannot be read is told elsewhere."""
    from engines.bundle import read_bundle
    from engines.errors import BundleError

    try:
        return read_bundle(ref).manifest.detector is not None
    except BundleError:
        return False


def evaluate_detection(
    bundle: str,
    folders: Sequence[Path],
    points: Sequence[str] | None,
    *,
    engine: str,
    threads: int | None,
    seed: int,
    as_json: bool,
) -> None:
    """Measure and print, to stdout."""
    from engines.errors import InvalidInput
    from engines.evaluation.detection import evaluate_detector

    if len(folders) != 1:
        raise InvalidInput(f"a detector is evaluated on one split, got {len(folders)} folders")
    results = evaluate_detector(
        bundle, folders[0], points=points, engine=engine, threads=threads, seed=seed, say=say
    )
    if as_json:
        typer.echo(json.dumps({"engine": engine, "points": [each.flat() for each in results]}))
    else:
        _print(results, engine)


def _print(results: Sequence[DetectionResult], engine: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    scores = results[0].scores
    most = "/".join(map(str, scores.max_detections))
    masks = scores.mask_ap is not None
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for head in ("point", "px"):
        table.add_column(head, no_wrap=True)
    kinds = ("box", "mask") if masks else ("box",)
    heads = [f"{kind}\n{name}" for kind in kinds for name in ("AP", "AP50")]
    for head in (*heads, f"{kinds[-1]} AP50\n[95 %]", "MACs\n(M)", "ms", "padding"):
        table.add_column(head, justify="right", no_wrap=True)
    for each in results:
        found = each.scores
        values = [found.box_ap, found.box_ap50, found.mask_ap, found.mask_ap50]
        table.add_row(
            each.point.name,
            str(each.point.image_size),
            *(_short(value) for value in values if value is not None),
            f"[{_short(each.low)} {_short(each.high)}]",
            f"{each.macs / 1e6:.0f}",
            f"{each.latency_s * 1e3:.0f}",
            f"{each.padding:.0%}",
        )
    typer.echo(
        f"{engine}; {scores.images} pictures, {scores.objects} objects; AP with maxDets {most}"
    )
    Console(width=_WIDTH, highlight=False).print(table)


def _short(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")
