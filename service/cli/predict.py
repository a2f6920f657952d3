"""`laud predict`: what networks cost here, and elsewhere."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from engines.latency.paper import PaperCheck
    from engines.latency.questions import Answer

CHECK_PAPER = "check-paper"
MISSED_STATUS = 1

_JSON = typer.Option("--json", help="Print JSON for machines instead of a table.")


def predict(
    what: Annotated[
        str,
        typer.Argument(
            help="NAME.laud, zoo:NAME, resnet50, resnet101, regnet_y_400mf, regnet_y_800mf, or "
            "check-paper."
        ),
    ],
    device: Annotated[
        str | None,
        typer.Option(
            help="this, FILE.json of `laud measure device`, or a GPU: v100, rtx3090, rtx3060, tx2, "
            "nano, a100, l4, h100 [a bundle: its latency table; a network: this]."
        ),
    ] = None,
    table: Annotated[
        Path | None, typer.Option(help="Latency table of the bundle [the one in its folder].")
    ] = None,
    point: Annotated[str | None, typer.Option(help="Operating point of the bundle [all].")] = None,
    rate: Annotated[
        float | None, typer.Option(help="Share of patches, layers or groups that are active.")
    ] = None,
    channel_rate: Annotated[
        float | None, typer.Option(help="Share of channel groups, where it differs [--rate].")
    ] = None,
    scattered: Annotated[
        bool, typer.Option("--scattered", help="Active patches lie apart, not together.")
    ] = False,
    paradigm: Annotated[
        str | None,
        typer.Option(help="Of a network by name: static, spatial, channel, layer, mix."),
    ] = None,
    granularity: Annotated[
        str | None, typer.Option(help="Pixels on a side of a patch, per stage [8-4-2-1].")
    ] = None,
    group: Annotated[int | None, typer.Option(help="Channels in a group [64; on GPUs 2].")] = None,
    size: Annotated[
        int | None, typer.Option(help="Pixels on a side of the image [224, or the point's].")
    ] = None,
    batch: Annotated[int, typer.Option(help="Images in a call.")] = 1,
    threads: Annotated[
        int | None, typer.Option(help="Of the engine [a table: the most it has; else 1].")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp32, bf16, int8 [int8 where a bundle has it].")
    ] = None,
    quantile: Annotated[float, typer.Option(help="Also predicted, by a latency table.")] = 0.95,
    mode: Annotated[
        str, typer.Option(help="GPUs: fixed, or paper (the published model, bugs included).")
    ] = "fixed",
    correct: Annotated[
        list[str] | None,
        typer.Option(help="GPUs: only this correction is on (may be repeated)."),
    ] = None,
    parts: Annotated[bool, typer.Option("--parts", help="Show stem, blocks and head.")] = False,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Predict what a call takes, before it runs or before the network is built.

    A bundle that was measured here (`laud measure`) is predicted by its table, with a quantile:

        laud predict clothing.laud

        laud predict zoo:clothing --table table.json --point size-112 --json

    A network that nobody built yet, on this machine's native engine:

        laud predict resnet101 --device here.json --paradigm layer --rate 0.4

    The same on a GPU that is not here, by LAUDNet's model with its bugs fixed:

        laud predict resnet101 --device v100 --batch 128 --rate 0.5 --parts

    Whether the published model is reproduced, by its authors' own figures (exit status 1 if not):

        laud predict check-paper --json
    """
    if what == CHECK_PAPER:
        _check_paper(as_json)
        return
    from engines.bench.plan import patch_sizes
    from engines.latency.answers import answer
    from engines.latency.questions import Question

    answers = answer(
        Question(
            what=what,
            device=device,
            table=table,
            point=point,
            rate=rate,
            channel_rate=channel_rate,
            scattered=scattered,
            paradigm=paradigm,
            patches=None if granularity is None else patch_sizes(granularity),
            group=group,
            size=size,
            batch=batch,
            threads=threads,
            precision=precision,
            quantile=quantile,
            mode=mode,
            corrections=tuple(correct or ()),
        ),
        _say,
    )
    if any(each.noisy for each in answers):
        _say("the table was taken while something else ran here: measure again when it is quiet")
    if as_json:
        typer.echo(json.dumps([each.model_dump(mode="json") for each in answers]))
        return
    _print_answers(answers)
    if parts:
        for each in answers:
            _print_parts(each)


def _check_paper(as_json: bool) -> None:
    from engines.latency.paper import check_paper

    found = check_paper()
    if as_json:
        typer.echo(found.model_dump_json())
    else:
        _print_check(found)
    if found.misses:
        raise typer.Exit(MISSED_STATUS)


def _print_check(found: PaperCheck) -> None:
    typer.echo(
        f"{found.vectors} published latencies; largest relative error {found.max_rel_error:.2%}, "
        f"where random numbers were drawn {found.max_rel_error_monte_carlo:.2%}"
    )
    for miss in found.misses:
        typer.echo(
            f"  missed: {miss.name}: {miss.predicted_s:.4e} s instead of {miss.expected_s:.4e} "
            f"({miss.rel_error:.2%}, allowed {miss.tolerance:.2%})"
        )


def _print_answers(answers: tuple[Answer, ...]) -> None:
    from rich.console import Console
    from rich.table import Table

    from engines.latency.corrections import CORRECTION_NAMES

    first = answers[0]
    threads = "" if first.threads is None else f", threads: {first.threads}"
    how = "measured" if first.model == "measured" else f"{first.model} model"
    typer.echo(
        f"{first.network} on {first.device}, {first.precision}{threads}, batch {first.batch} "
        f"({how})"
    )
    quantile = [] if first.quantile is None else [f"{first.quantile * 100:g} % below, ms"]
    table = Table("point", "px", "ms", *quantile, "ms an image", "nothing skipped, ms", "ratio")
    for each in answers:
        asked = "" if each.rate is None else f"rate {each.rate:g}"
        table.add_row(
            each.point or asked or "static",
            str(each.size),
            f"{each.ms:.3f}",
            *([] if each.quantile_ms is None else [f"{each.quantile_ms:.3f}"]),
            f"{each.ms_per_image:.3f}",
            f"{each.static_ms:.3f}",
            f"{each.ratio:.2f}",
        )
    Console().print(table)
    if first.corrections is not None:
        named = ", ".join(first.corrections) or "none, as published"
        everything = len(first.corrections) == len(CORRECTION_NAMES)
        typer.echo(f"corrections: {'all (docs/latency.md)' if everything else named}")


def _print_parts(answer: Answer) -> None:
    from rich.console import Console
    from rich.table import Table

    analytic = answer.model != "measured"
    shares = ["compute, ms", "memory, ms", "fixed, ms"] if analytic else []
    maskers = any(part.masker for part in answer.parts)
    table = Table("part", "ms", *shares, *(["masker"] if maskers else []), title=answer.point)
    for part in answer.parts:
        table.add_row(
            part.name,
            f"{part.ms:.3f}",
            *(
                f"{ms:.3f}"
                for ms in (part.compute_ms, part.memory_ms, part.fixed_ms)
                if ms is not None
            ),
            *([part.masker or ""] if maskers else []),
        )
    Console().print(table)


def _say(line: str) -> None:
    """Progress goes to stderr, so that stdout stays clean for pipes."""
    print(line, file=sys.stderr, flush=True)
