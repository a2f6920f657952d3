"""`laud measure` and `laud predict`: what networks cost here, and elsewhere."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from engines.latency.host import Host
    from engines.latency.paper import PaperCheck
    from engines.latency.questions import Answer
    from engines.latency.tables import LatencyTable

DEVICE = "device"
CHECK_PAPER = "check-paper"
MISSED_STATUS = 1

_JSON = typer.Option("--json", help="Print JSON for machines instead of a table.")


def measure(
    what: Annotated[str, typer.Argument(help="`device`, NAME.laud or zoo:NAME.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write [a bundle's own table; device: none]."),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(help="fp32, bf16, int8 (may be repeated) [all of the bundle]."),
    ] = None,
    threads: Annotated[
        list[int] | None, typer.Option(help="Of the engine (may be repeated) [1 and all CPUs].")
    ] = None,
    size: Annotated[
        list[int] | None,
        typer.Option(help="Pixels on a side (may be repeated) [those of the points]."),
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option(help="Images in a call (may be repeated) [1, 2, 4].")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of pictures, to observe what the points skip.")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Timed calls of every mask.")] = 10,
    seed: Annotated[int, typer.Option(help="Of masks and made-up pictures.")] = 0,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Measure this machine, or what a bundle costs on it.

    `device` measures cores, kernels and memory in half a minute: what the analytic model of the
    native engine needs to cost a network that is not built yet (`laud predict`, `laud plan`).

        laud measure device -o here.json

    A bundle is measured block by block: over what is active, image sizes, batches, threads and
    precisions, then as a whole for the quantiles. The table, latency-<device>.json, goes into the
    bundle's folder (of a zoo: bundle into this one); `laud predict` finds it there. Stop what else
    runs here: predictions are as good as this was quiet.

        laud measure clothing.laud --images DIR

        laud measure zoo:clothing --precision int8 --threads 2 -o table.json
    """
    if what == DEVICE:
        _refuse(
            "`laud measure device` measures the machine, and takes no",
            precision=precision,
            threads=threads,
            size=size,
            batch=batch,
            images=images,
        )
        _measure_device(output, as_json)
        return
    from engines.bundle import ZOO_PREFIX, read_bundle
    from engines.latency.identity import this_device
    from engines.latency.measuring import BATCHES, MeasurePlan
    from engines.latency.measuring import measure as take
    from engines.latency.tables import table_name, write_table

    plan = MeasurePlan(
        precisions=tuple(precision) if precision else None,
        sizes=tuple(size) if size else None,
        batches=tuple(batch) if batch else BATCHES,
        threads=tuple(threads) if threads else None,
        images=images,
        repeats=repeats,
        seed=seed,
    )
    bundle = read_bundle(what)
    # What ships in the package is not ours to write to.
    folder = Path() if what.startswith(ZOO_PREFIX) else bundle.path
    path = output or folder / table_name(this_device())
    _check_writable(path)
    table = take(bundle, plan, _say)
    write_table(path, table)
    if as_json:
        typer.echo(table.model_dump_json())
    else:
        _print_table(table)
    _say(f"wrote {path}")


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
    threads: Annotated[int | None, typer.Option(help="Of the native engine.")] = None,
    precision: Annotated[
        str | None, typer.Option(help="Of the native engine: fp32, bf16, int8.")
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

        laud predict zoo:clothing --table table.json --point skip-128 --json

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
    if as_json:
        typer.echo(json.dumps([each.model_dump(mode="json") for each in answers]))
        return
    _print_answers(answers)
    if parts:
        for each in answers:
            _print_parts(each)


def _measure_device(output: Path | None, as_json: bool) -> None:
    from engines.latency.host import write_host
    from engines.latency.host_measuring import measure_host

    if output is not None:
        _check_writable(output)
    host = measure_host(_say)
    if output is not None:
        write_host(output, host)
    if as_json:
        typer.echo(host.model_dump_json())
    else:
        _print_host(host)
    if output is not None:
        _say(f"wrote {output}")


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
        typer.echo(f"corrections: {', '.join(first.corrections) or 'none, as published'}")


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
                [f"{ms:.3f}" for ms in (part.compute_ms, part.memory_ms, part.fixed_ms)]
                if analytic
                else []
            ),
            *([part.masker or ""] if maskers else []),
        )
    Console().print(table)


def _print_host(host: Host) -> None:
    from rich.console import Console
    from rich.table import Table

    typer.echo(f"{host.device.cpu}, CPUs: {host.device.cpus} ({host.device.slug})")
    speeds = Table("precision", "kernels", "GMAC/s, one thread", "all threads, of one")
    for precision, costs in host.precisions.items():
        fastest = max(
            speed
            for table in (costs.pointwise, costs.spatial)
            for plane in table.macs_per_s
            for line in plane
            for speed in line
        )
        speeds.add_row(
            precision,
            host.device.isa[precision],
            f"{fastest / 1e9:.1f}",
            f"{costs.parallel_ratio:.2f}",
        )
    levels = Table("memory", "size", "GB/s, one thread", "GB/s, all")
    for level in host.memory:
        levels.add_row(
            level.name,
            f"{level.size_bytes / 2**20:.2f} MB",
            f"{level.read_bytes_per_s / 1e9:.1f}",
            f"{level.all_read_bytes_per_s / 1e9:.1f}",
        )
    Console().print(speeds)
    Console().print(levels)


def _print_table(table: LatencyTable) -> None:
    from rich.console import Console
    from rich.table import Table

    shown = Table("precision", "threads", "px", "batch", "nothing skipped, ms", "besides, ms")
    for each in table.profiles:
        shown.add_row(
            each.precision,
            str(each.threads),
            str(each.size),
            str(each.batch),
            f"{(sum(each.static_s) + each.overhead_s) * 1e3:.2f}",
            f"{each.overhead_s * 1e3:.2f}",
        )
    Console().print(shown)
    for spread in table.spreads:
        last = len(spread.ratios) - 1
        middle, high = (spread.ratios[round(q * last)] for q in (0.5, 0.95))
        typer.echo(
            f"{spread.precision}, threads: {spread.threads}: measured over predicted, median "
            f"{middle:.3f}, 95 % below {high:.3f} ({spread.calls} mixed calls)"
        )


def _check_writable(path: Path) -> None:
    """Minutes of measuring should not end in a file that cannot be written."""
    from engines.errors import InvalidInput

    if path.is_dir():
        raise InvalidInput(f"'{path}' is a folder; name a file with -o")
    there = next(each for each in path.absolute().parents if each.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise InvalidInput(f"cannot write '{path}'; name another file with -o")


def _refuse(why: str, **options: object) -> None:
    from engines.errors import InvalidInput

    given = [name for name, value in options.items() if value]
    if given:
        raise InvalidInput(f"{why} {' or '.join('--' + name for name in given)}")


def _say(line: str) -> None:
    """Progress goes to stderr, so that stdout stays clean for pipes."""
    print(line, file=sys.stderr, flush=True)
