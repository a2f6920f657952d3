"""`laud verify`: a plan on this machine's GPU against its ONNX file on the CPU."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.output import JSON, say

if TYPE_CHECKING:
    from engines.tensorrt.latency import PlanTable
    from engines.tensorrt.verifying import Verdict

DISAGREES_STATUS = 1


def verify(
    plan: Annotated[Path, typer.Argument(help="NAME.plan of laud build.")],
    bundle: Annotated[
        str | None, typer.Option(help="NAME.laud or zoo:NAME [where the plan lies, or zoo:].")
    ] = None,
    device: Annotated[int, typer.Option(help="GPU of this machine.")] = 0,
    dense: Annotated[
        Path | None,
        typer.Option(help="Plan of laud build --dense, whose calls are timed beside."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of pictures [made-up ones; detectors need it].")
    ] = None,
    calls: Annotated[int, typer.Option(help="Timed calls of everything.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of masks and made-up pictures.")] = 0,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Latency table to write [in the plan's folder]."),
    ] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Compare a plan on your GPU with ONNX Runtime on the CPU, over the same file; then time it.

    Every operating point in every bucket, nothing and everything active, and random masks. Reported
    is the largest error of a probability, of images whose decisions are all equal, and the share of
    decisions that are not: logits next to a threshold, which rounding moves across. Exit status 1:
    more than the plan's precision may have (fp32: 1e-4, and 0.1 % of any bucket; fp16: 2e-2 and
    2 %), or in any image an error of more than 0.5 or what is no number. Of detectors these are
    errors of scores and masks; boxes may move by 0.1 % of their side (fp16: 5 %), and 2 % of the
    candidates may be lost. What those find, and so what calls of them take, is in the pictures:
    they need --images.

    Then calls of every point and bucket are timed, beside those of a dense plan where there is one,
    and the table is written that predictions are made of. Where layers are skipped as a whole, all
    of this is of both forms that calls of one image have; beside the plan, the table says which of
    them the engine takes from then on, point by point, and none that is wrong.

        laud build clothing.laud --dense

        laud verify clothing.laud/fp16-sm86.plan --dense clothing.laud/dense-fp16-sm86.plan
    """
    from contextlib import ExitStack
    from importlib.metadata import version

    from engines.bench.pictures import FolderPictures, MadeUpPictures
    from engines.errors import InvalidInput, PlanError
    from engines.tensorrt.latency import PlanTable, plan_table_name, write_plan_table
    from engines.tensorrt.loading import bundle_of, load_plan
    from engines.tensorrt.plans import read_plan
    from engines.tensorrt.verifying import check_beside, check_verifiable, measured
    from engines.tensorrt.verifying import verify as compare
    from engines.tensorrt.ways import ways_of

    if calls < 1:
        raise InvalidInput(f"--calls must be at least 1, got {calls}")
    found, other = read_plan(plan), None if dense is None else read_plan(dense)
    if found.manifest.dense:
        raise PlanError(f"'{plan}' is a dense plan: name it with --dense, beside one that skips")
    if other is not None:
        check_beside(found, other)
    source = bundle_of(found, bundle)
    check_verifiable(source, found)
    if source.manifest.detector is not None and images is None:
        raise InvalidInput(
            f"{source.manifest.name} finds objects: what calls take follows from the pictures; "
            "name a folder of such as it will see with --images"
        )
    manifest = found.manifest
    crop_ratio = source.manifest.preprocessing.crop_ratio
    pictures = MadeUpPictures(seed) if images is None else FolderPictures(images, crop_ratio, 1)
    at = cache(pictures.at)
    with ExitStack() as held:
        engine = held.enter_context(load_plan(source, found, device, every_form=True))
        beside = None if other is None else held.enter_context(load_plan(source, other, device))
        say(f"comparing on {engine.device} with {pictures.source}")
        ways = ways_of(source, found, engine)
        verdict = compare(source, ways, at, say, seed=seed, precision=manifest.precision)
        if not as_json:
            _print_verdict(verdict)
        if "blocks" in verdict.wrong:
            if as_json:
                typer.echo(_json(verdict, None))
            say("the plan does not answer what its ONNX file means: do not serve it")
            raise typer.Exit(DISAGREES_STATUS)
        say("timing")
        timed = measured(
            source, [way for way in ways if way.form not in verdict.wrong], at, say,
            calls=calls, dense=None if beside is None else beside.infer,
        )  # fmt: skip
        program, branches, masks = manifest.programs
        table = PlanTable(
            bundle=manifest.bundle,
            program=program,
            branches=branches,
            masks=masks,
            name=manifest.name,
            library=manifest.library,
            library_version=manifest.library_version,
            precision=manifest.precision,
            device=engine.device,
            version=version("laudserve"),
            calls=timed,
        )
    # Before it is written, which may fail.
    if as_json:
        typer.echo(_json(verdict, table))
    else:
        _print_latency(table)
    path = output or plan / plan_table_name(table.device)
    write_plan_table(path, table)
    say(f"wrote {path}")
    if not verdict.agrees:
        say(
            "the plan's branches do not answer what their ONNX file means: with this table in its "
            "folder no call takes them"
        )
        raise typer.Exit(DISAGREES_STATUS)


def _json(verdict: Verdict, table: PlanTable | None) -> str:
    """Null for what is no number, or more than any."""
    import json

    from pydantic import TypeAdapter

    from engines.tensorrt.verifying import Verdict

    told = json.loads(TypeAdapter(Verdict).dump_json(verdict))
    latency = None if table is None else table.model_dump(mode="json")
    return json.dumps({"verdict": told, "latency": latency}, allow_nan=False)


def _print_verdict(verdict: Verdict) -> None:
    from rich.console import Console
    from rich.table import Table

    shown = Table(
        *("what", "by", "px", "images", "max error", "of boxes", "of all images"),
        *("candidates lost", "decisions that differ"),
    )
    for each in verdict.agreements:
        shown.add_row(
            each.trial,
            each.form,
            str(each.image_size),
            str(each.images),
            "-" if each.max_error is None else f"{each.max_error:.1e}",
            f"{each.max_moved:.1e}",
            f"{each.worst_error:.1e}",
            f"{each.lost:.2%}",
            f"{each.differing:.2%}",
        )
    Console().print(shown)
    typer.echo(
        f"max error {verdict.max_error:.1e}, of boxes {verdict.max_moved:.1e}, of all images "
        f"{verdict.worst_error:.1e}, candidates lost {verdict.lost:.2%}, decisions that differ "
        f"{verdict.differing:.2%}: "
        f"{'agrees' if verdict.agrees else 'does not agree'}"
    )


def _print_latency(table: PlanTable) -> None:
    from rich.console import Console
    from rich.table import Table

    timed = Table(
        "point", "by", "px", "images", "median, ms", "95 %", "looked at again", "dense, ms"
    )
    for call in table.calls:
        middle, high = (call.seconds[round(q * (len(call.seconds) - 1))] for q in (0.5, 0.95))
        again = "-" if call.again is None else f"{call.again[len(call.again) // 2] * 1e3:.3f}"
        timed.add_row(
            call.point,
            call.form,
            str(call.image_size),
            str(call.images),
            f"{middle * 1e3:.3f}",
            f"{high * 1e3:.3f}",
            again,
            "-" if call.dense_s is None else f"{call.dense_s * 1e3:.3f}",
        )
    Console().print(timed)
