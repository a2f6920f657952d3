"""`laud bench`: measure on this machine, beside the strongest rivals there are."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from engines.bench.detectors.plan import DetectorPlan
    from engines.bench.report import Report
    from engines.bench.timing import Noise

TOO_NOISY_STATUS = 3

app = typer.Typer(
    help="Measure on this machine, beside the strongest rivals there are.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def bench() -> None:
    """Measure on this machine, beside the strongest rivals there are."""


@app.command()
def engine(
    arch: Annotated[str, typer.Option(help="resnet50, resnet101, NAME.laud or zoo:NAME.")],
    precision: Annotated[str, typer.Option(help="fp32, bf16 or int8.")] = "fp32",
    rate: Annotated[
        float | None, typer.Option(help="Share of units that are active, 0 to 1.")
    ] = None,
    rate_of: Annotated[
        str | None,
        typer.Option(
            help="What --rate is a share of: units, or macs of the static network [units]."
        ),
    ] = None,
    masks: Annotated[
        str | None,
        typer.Option(help="random, clustered or trained [random; a detector's are trained]."),
    ] = None,
    paradigm: Annotated[
        str | None, typer.Option(help="spatial, layer, channel or mix [spatial].")
    ] = None,
    mix: Annotated[
        str | None,
        typer.Option(help="What stages 3 and 4 of a mix skip: layer or channel [layer]."),
    ] = None,
    granularity: Annotated[
        str | None, typer.Option(help="Pixels on a side of a patch, per stage [8-4-2-1].")
    ] = None,
    group: Annotated[int | None, typer.Option(help="Channels in a group [64].")] = None,
    size: Annotated[
        int | None, typer.Option(help="Pixels on a side of the image [224, or the point's].")
    ] = None,
    point: Annotated[
        str | None, typer.Option(help="Operating point of a bundle [the cheapest that skips].")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Folder of pictures, at any depth [made-up ones]; an annotated split for a "
            "detector."
        ),
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Images in a call [1].")] = None,
    threads: Annotated[int, typer.Option(help="Threads, of every engine.")] = 1,
    repeats: Annotated[int, typer.Option(help="Timed runs of every engine.")] = 24,
    seed: Annotated[
        int | None, typer.Option(help="Of weights, masks and made-up pictures [0].")
    ] = None,
    rivals: Annotated[
        bool,
        typer.Option("--rivals", help="Also our engine on a smaller image, and with a fixed mask."),
    ] = False,
    against: Annotated[
        str | None, typer.Option(help="Bundle that OpenVINO runs, nothing skipped [the same].")
    ] = None,
    against_size: Annotated[
        int | None, typer.Option(help="Pixels on a side of OpenVINO's image [as ours].")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder that keeps OpenVINO's int8 networks [none].")
    ] = None,
    emptiest: Annotated[
        float | None,
        typer.Option(
            help="Detectors: share of the pictures, those with the least foreground, which are "
            "measured once more on their own [0.25]."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON for machines instead of a table.")
    ] = False,
) -> None:
    """Time the native engine against OpenVINO, from uint8 pixels to probabilities, or to objects.

    In one process, in turns, each timed call after an untimed one: our engine with masks, with
    everything active, OpenVINO in the same precision, and OpenVINO in whatever is fastest here.
    OpenVINO gets its best: latency hint, one stream, as many threads, uint8 images, folded batch
    norm, static shape, int8 by NNCF with both presets. Ratios above 1 mean that ours is faster.

    A network by name has random weights; its masks are drawn, at a rate. Our runs are also
    compared with themselves: where two halves differ by over 3 %, the exit status is 3.

    Half of all patches, one thread, one image:

        laud bench engine --arch resnet50 --rate 0.5 --images DIR

    Blocks skipped whole, int8; keep what OpenVINO needs a minute to quantise:

        laud bench engine --arch resnet101 --paradigm layer --rate 0.4 --precision int8
            --images DIR --cache CACHE

    Patches early, layers late, 0.4 of the multiply-accumulates:

        laud bench engine --arch resnet50 --paradigm mix --rate 0.4 --rate-of macs --images DIR

    A trained network at its own masks, beside its free rivals:

        laud bench engine --arch zoo:clothing --masks trained --images DIR --rivals

    A point that glances is timed looking once and looking twice; ours is what it is expected to
    take, with the share that the bundle records as looked at again.

    One point, skipping or not, against a static network at another size:

        laud bench engine --arch zoo:clothing --masks trained --point full --precision int8
            --images DIR --against STATIC.laud --against-size 160

    A detector at its own masks, on annotated pictures, against the static one at the size of
    `full`; up to the dense heads' answers, and up to boxes and masks:

        laud bench engine --arch zoo:nuclei --point skip-384-60 --against-size 512
            --images DIR/test --cache CACHE
    """
    from engines.bench.detectors.plan import SHARE, DetectorPlan, check_options
    from engines.bench.plan import Plan, patch_sizes
    from engines.bundle import finds_objects
    from engines.errors import InvalidInput

    if finds_objects(arch):
        of_classifiers = {
            **{"rate": rate, "rate-of": rate_of, "masks": masks, "paradigm": paradigm},
            **{"mix": mix, "granularity": granularity, "group": group, "size": size},
            **{"batch": batch, "seed": seed, "rivals": rivals or None},
        }
        check_options(arch, of_classifiers)
        detector_plan = DetectorPlan(
            arch=arch,
            images=images,
            precision=precision,
            point=point,
            threads=threads,
            repeats=repeats,
            cache=cache,
            against=against,
            against_size=against_size,
            emptiest=SHARE if emptiest is None else emptiest,
        )
        _bench_detector(detector_plan, as_json)
        return
    if emptiest is not None:
        raise InvalidInput(f"--emptiest is for detectors, '{arch}' finds no objects")
    plan = Plan(
        arch=arch,
        precision=precision,
        masks=masks or "random",
        rate=rate,
        rate_of=rate_of or "units",
        paradigm=paradigm,
        patches=None if granularity is None else patch_sizes(granularity),
        group=group,
        mix=mix,
        size=size,
        point=point,
        images=images,
        batch=1 if batch is None else batch,
        threads=threads,
        repeats=repeats,
        seed=seed or 0,
        rivals=rivals,
        cache=cache,
        against=against,
        against_size=against_size,
    )
    from engines.bench.run import bench_engine

    report = bench_engine(plan, _say)
    if as_json:
        typer.echo(report.model_dump_json())
    else:
        _print(report)
    _exit_if_noisy([report.noise])


def _bench_detector(plan: DetectorPlan, as_json: bool) -> None:
    from engines.bench.detectors.run import bench_detector
    from service.cli.bench_detector import print_report

    report = bench_detector(plan, _say)
    if as_json:
        typer.echo(report.model_dump_json())
    else:
        print_report(report)
    _exit_if_noisy([report.every.noise, report.emptiest.noise])


def _exit_if_noisy(noises: list[Noise]) -> None:
    for noise in noises:
        if noise.too_noisy:
            _say(
                f"too noisy: two halves of our own runs took {noise.a_ms:.2f} and "
                f"{noise.b_ms:.2f} ms; stop what else runs here, or take more --repeats"
            )
            raise typer.Exit(TOO_NOISY_STATUS)


def _print(report: Report) -> None:
    from rich.console import Console

    skipped = ", ".join(report.stages)
    asked = "" if report.rate is None else f" at {report.rate:g} of {report.rate_of}"
    typer.echo(
        f"{report.arch} ({skipped}), {report.size} px, batch {report.batch}, "
        f"{report.threads} thread{'s' if report.threads > 1 else ''}"
    )
    typer.echo(
        f"{report.precision} ({report.isa}) on {report.machine.cpu}, load {report.machine.load:.2f}"
    )
    typer.echo(
        f"{report.masks} masks{asked}: {report.activation:.3f} of the units active, "
        f"{report.macs / 1e6:.0f} of {report.dense_macs / 1e6:.0f} M MACs"
    )
    if report.again is not None:
        typer.echo(
            f"every image at {report.first_size} px first ({report.first_ms:.2f} ms), "
            f"{report.again:.1%} of them again ({report.worst_ms:.2f} ms in all); "
            "ours is what that takes on the average"
        )
    typer.echo(f"images: {report.images}")
    if (report.against, report.against_size) != (report.arch, report.size):
        typer.echo(f"OpenVINO runs {report.against} at {report.against_size} px")
    Console().print(_table(report))
    baseline = report.baseline
    typer.echo(
        f"{baseline.engine} {baseline.versions['openvino'].partition('-')[0]}, "
        f"{', '.join(f'{key}={value}' for key, value in baseline.properties.items())}; tried: "
        + "; ".join(f"{form.name} {form.ms:.2f} ms" for form in baseline.candidates)
    )


def _table(report: Report) -> Table:
    from rich.table import Table

    table = Table("", "ms", "min", "speed-up of ours")
    same, best = report.baseline.same, report.baseline.best
    rows: list[tuple[str, str, float | None]] = [
        ("ours", "ours", None),
        (f"OpenVINO, same precision ({same.name})", "openvino_same", report.ratio_same),
        (f"OpenVINO, best here ({best.name})", "openvino_best", report.ratio_best),
        ("ours with everything active", "own_dense", report.ratio_own_dense),
    ]
    rows += [
        (f"ours, {each.what} ({each.size} px, {each.macs / 1e6:.0f} M MACs)", each.what, each.ratio)
        for each in report.rivals
    ]
    for label, name, ratio in rows:
        run = report.runs[name]
        table.add_row(
            label,
            f"{run.median_ms:.2f}",
            f"{run.min_ms:.2f}",
            "" if ratio is None else f"{ratio:.2f}",
        )
    table.add_row("ideal: MACs left out cost nothing", "", "", f"{report.ideal_ratio:.2f}")
    return table


def _say(line: str) -> None:
    """Progress goes to stderr, so that stdout stays clean for pipes."""
    print(line, file=sys.stderr, flush=True)
