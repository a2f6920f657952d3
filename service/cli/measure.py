"""`laud measure`: this machine, and what a bundle costs on it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.bench import TOO_NOISY_STATUS

if TYPE_CHECKING:
    from engines.latency.host import Host
    from engines.latency.tables import LatencyTable

DEVICE = "device"
NOISY_RATIO = 1.25
"""Run-to-run noise of one layer (95 % quantile over median) above which a machine is not quiet."""

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
    precisions, then as a whole for the quantiles. All of the demo takes three minutes, one
    precision on one thread half a minute. The table, latency-<device>.json, goes into the bundle's
    folder (of a zoo: bundle into this one), where `laud predict` finds it; what a table there
    already has of other ways to run is kept. Stop what else runs here: predictions are as good as
    this was quiet (exit status 3: it was not).

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
    from importlib.metadata import version

    from engines.bundle import ZOO_PREFIX, classifier, read_bundle
    from engines.errors import LatencyError
    from engines.latency.identity import this_device
    from engines.latency.measuring import BATCHES, MeasurePlan
    from engines.latency.measuring import measure as take
    from engines.latency.tables import (
        check_table,
        merged,
        read_table,
        table_name,
        write_table,
    )

    plan = MeasurePlan(
        precisions=tuple(precision) if precision else None,
        sizes=tuple(size) if size else None,
        batches=tuple(batch) if batch else BATCHES,
        threads=tuple(threads) if threads else None,
        images=images,
        repeats=repeats,
        seed=seed,
    )
    bundle = classifier(read_bundle(what), "laud measure")
    # What ships in the package is not ours to write to.
    folder = Path() if what.startswith(ZOO_PREFIX) else bundle.path
    path = output or folder / table_name(this_device())
    _check_writable(path)
    # What is there already is kept, and refused before the work where it is of something else.
    before = read_table(path) if path.is_file() else None
    if before is not None:
        check_table(before, bundle, this_device())
        if before.version != version("laudserve"):
            raise LatencyError(
                f"'{path}' was taken by laudserve {before.version}: remove it, or name another "
                "file with -o"
            )
    table = take(bundle, plan, _say)
    whole = table if before is None else merged(before, table)
    write_table(path, whole)
    if as_json:
        typer.echo(whole.model_dump_json())
    else:
        _print_table(table)
    added = "" if before is None else f", with the {len(before.profiles)} ways it already had"
    _say(f"wrote {path}{added}")
    noisy = [spread for spread in table.spreads if spread.noisy]
    for spread in noisy:
        _say(
            f"too noisy: {spread.precision}, threads: {spread.threads}: whole calls took "
            f"{spread.shift:.2f} times what was measured of their parts just before; stop what "
            "else runs here and measure again"
        )
    if noisy:
        raise typer.Exit(TOO_NOISY_STATUS)


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
    if host.noise_ratio > NOISY_RATIO:
        _say(
            f"too noisy: of one layer, timed over and over, the slowest runs took "
            f"{host.noise_ratio:.2f} times the median; stop what else runs here and measure again"
        )
        raise typer.Exit(TOO_NOISY_STATUS)


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
