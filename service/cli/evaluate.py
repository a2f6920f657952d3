"""`laud evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from service.cli.evaluate_detection import evaluate_detection
from service.cli.output import JSON, check_drawable, say

# Of less nothing would be left after five halvings.
_LEAST_SIZE = 16


def evaluate(
    bundle: Annotated[str, typer.Argument(help="NAME.laud or zoo:NAME.")],
    folders: Annotated[
        list[Path],
        typer.Argument(
            help="Folders with one folder of pictures a class; taken together. Of a detector one "
            "split of annotated pictures."
        ),
    ],
    point: Annotated[
        list[str] | None, typer.Option(help="Only this operating point (may be repeated).")
    ] = None,
    sizes: Annotated[
        str | None,
        typer.Option(help="Image sizes to add with nothing skipped, such as 96,88,80."),
    ] = None,
    engine: Annotated[str | None, typer.Option(help="cpu, reference or tensorrt [cpu].")] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="fp32, bf16 or int8 [int8 where a bundle has it]."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of the engine [every CPU it may use].")
    ] = None,
    latency_seconds: Annotated[
        float,
        typer.Option(help="How long to time for, all points together (20 calls of each at least)."),
    ] = 10.0,
    no_latency: Annotated[
        bool, typer.Option("--no-latency", help="Time nothing; compare by work instead.")
    ] = False,
    shuffled: Annotated[
        bool,
        typer.Option("--shuffled", help="Also give every image the masks of another image."),
    ] = False,
    fixed_masks: Annotated[
        bool,
        typer.Option("--fixed-masks", help="Also run one mask for all images, at equal work."),
    ] = False,
    fixed_from: Annotated[
        Path | None,
        typer.Option(help="Folder of pictures to make fixed masks from [the evaluated ones]."),
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(help="Bundle to draw and list beside it (may be repeated)."),
    ] = None,
    pareto: Annotated[
        Path | None,
        typer.Option(help="Draw latency against loss and accuracy, or AP, into FILE.png."),
    ] = None,
    reference: Annotated[
        bool,
        typer.Option("--reference", help="Compare with the fp32 reference (slow, needs torch)."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of shuffles and of intervals.")] = 0,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Measure every operating point of a bundle on labelled pictures.

    Accuracy comes with its 95 % interval; agreement is the share of answers equal to those of
    `full`; log-loss is compared with that of `full` image by image (95 %, bootstrap). Latency is of
    one image a call, from uint8 tensor to probabilities, all points in turns.

    A point that skips stands beside what is free: the same weights on a smaller image, and with
    --fixed-masks the units most often active as one mask for every image, at equal work. Its best
    rival is the one with the lowest log-loss of those that take at most 2 % longer. Whether masks
    look at the image at all is what --shuffled tells.

        laud evaluate NAME.laud DIR/validation DIR/test --sizes 96,80

        laud evaluate NAME.laud DIR/test --fixed-masks --shuffled --pareto p.png

    With --reference, answers_differ and decisions_differ are the shares of answers and of mask
    decisions, at the same thresholds, that are not those of the reference engine.

        laud evaluate zoo:clothing DIR/test --no-latency --reference --json

    Of a detector average precision is measured, of boxes and of masks, with at most 500 objects a
    picture; how much of what the network saw was padding; and latency from uint8 tensor to objects.
    DIR is a split: images/ beside labels/, or that of a VOC or COCO folder. Rivals are compared by
    AP50, a fixed mask at the work of backbone, pyramid and dense heads.

        laud evaluate nuclei.laud DIR/test --fixed-masks --fixed-from DIR/validation

        laud evaluate nuclei.laud DIR/test --sizes 416,352
    """
    from engines.bundle import finds_objects
    from engines.errors import InvalidInput
    from engines.evaluation.detection import DetectionPlan
    from engines.evaluation.plan import EvaluationPlan
    from engines.evaluation.run import evaluate_bundle

    if pareto is not None:
        if no_latency:
            raise InvalidInput("--pareto draws latency: it cannot go with --no-latency")
        check_drawable("--pareto", pareto)
    if finds_objects(bundle):
        only_labels = {"--baseline": baseline, "--reference": reference or None}
        if given := [name for name, value in only_labels.items() if value is not None]:
            raise InvalidInput(f"{', '.join(given)}: not of a detector, '{bundle}' is one")
        detection = DetectionPlan(
            points=tuple(point) if point else None,
            sizes=_numbers(sizes),
            engine=engine or "cpu",
            precision=precision,
            threads=threads,
            latency_s=None if no_latency else latency_seconds,
            shuffled=shuffled,
            fixed_masks=fixed_masks,
            fixed_from=fixed_from,
            seed=seed,
        )
        evaluate_detection(bundle, folders, detection, as_json=as_json, pareto=pareto)
        return
    plan = EvaluationPlan(
        folders=tuple(folders),
        points=tuple(point) if point else None,
        sizes=_numbers(sizes),
        engine=engine or "cpu",
        precision=precision,
        threads=threads,
        latency_s=None if no_latency else latency_seconds,
        shuffled=shuffled,
        fixed_masks=fixed_masks,
        fixed_from=fixed_from,
        baselines=tuple(baseline or ()),
        reference=reference,
        seed=seed,
    )
    report = evaluate_bundle(bundle, plan, say)
    # What was measured is out before a full disk can spoil the picture.
    if as_json:
        typer.echo(json.dumps(report.flat()))
    else:
        from service.cli.evaluation_tables import print_report

        print_report(report)
    if pareto is not None:
        from engines.evaluation.picture import draw

        draw(pareto, report)
        say(f"wrote {pareto}")


def _numbers(text: str | None) -> tuple[int, ...]:
    from engines.errors import InvalidInput

    if text is None:
        return ()
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InvalidInput(f"--sizes takes pixels, such as 96,88,80, got '{text}'") from None
    if min(sizes) < _LEAST_SIZE:
        raise InvalidInput(f"--sizes: {_LEAST_SIZE} pixels at least, got {min(sizes)}")
    return sizes
