"""`laud train --data DIR`: train, export, evaluate, and say what to do next."""

from __future__ import annotations

import json
import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from service.cli.output import say

if TYPE_CHECKING:
    from engines.bundle import Bundle
    from engines.evaluation.report import Report
    from engines.training.config import TrainConfig
    from engines.training.defaults import Options
    from engines.training.split import Pictures

_CONFIG = "config.yaml"
_LINKS = "pictures"
# Latency of one picture on one thread, as the dial is chosen by.
_THREADS = 1


def train_folder(
    data: Path,
    out: Path | None,
    *,
    arch: str,
    options: Options,
    minutes: float | None,
    int8: bool,
    overrides: dict[str, Any],
    as_json: bool,
) -> None:
    """Train on the pictures below `data` into `out`, export a bundle there and print its points.

    What cannot work is refused before the first step: options, folder, pictures, output.
    """
    from engines.bundle import check_output, classifier, read_bundle
    from engines.export.run import export
    from engines.folders import find_split
    from engines.training.config import parse_config
    from engines.training.defaults import (
        bundle_reference,
        check_options,
        default_content,
        name_for,
    )
    from engines.training.run import train_config
    from engines.training.split import check_links, check_pictures, find_pictures, link_splits

    name = name_for(data)
    out = Path("runs", name) if out is None else out
    target = out / f"{name}.laud"
    backbone = classifier(read_bundle(bundle_reference(arch)), "--arch")
    check_options(options, backbone)
    _check_overrides(overrides, minutes)
    check_output(target)
    pictures = find_pictures(data)
    check_links(pictures, out / _LINKS)
    begun = (out / _CONFIG).exists()
    if not begun:
        splits = [pictures.train, pictures.validation, pictures.test]
        check_pictures([split for split in splits if split is not None], say)
    _check_writable(out)
    root = link_splits(pictures, out / _LINKS, begun=begun)
    content = default_content(
        options, backbone, name=name, root=root, num_pictures=len(pictures.train.files)
    )
    config = parse_config(content, overrides, "the configuration")
    if minutes is not None:
        config = _in_minutes(config, out, pictures, minutes)
    _say_plan(pictures, config, backbone, minutes)
    done = _exported(out, target, config, int8=int8)
    train_config(config, out, say)
    if done is None:
        calibration = find_split(root, "train") if int8 else None
        bundle = export(out, target, calibration=calibration, say=say)
    else:
        say(f"'{target}' was made of this run before; delete it to have it made again")
        bundle = done
    report = _evaluated(target, root, pictures, config)
    if as_json:
        typer.echo(json.dumps({"path": str(target), **report.flat()}))
    else:
        _print(bundle, report, config)
    wrote = "wrote" if done is None else "kept"
    say(
        f"{wrote} {target} ({bundle.hash[:12]}); "
        f"serve it with: laud serve {shlex.quote(str(target))}"
    )


def _exported(out: Path, target: Path, config: TrainConfig, *, int8: bool) -> Bundle | None:
    """The bundle that an earlier call made of the finished run, in the precision asked now."""
    from engines.bundle import MANIFEST, read_bundle
    from engines.runs import model_file

    last = model_file(out, "dynamic" if config.dynamic.budgets else "sizes")
    if not last.is_file() or not (target / MANIFEST).is_file():
        return None
    bundle = read_bundle(target)
    return bundle if (bundle.manifest.quantisation is not None) == int8 else None


def _check_overrides(overrides: dict[str, Any], minutes: float | None) -> None:
    from engines.errors import InvalidInput

    if "data" in overrides or "data.root" in overrides:
        raise InvalidInput("name the pictures with --data DIR, not with --set")
    if minutes is None:
        return
    if not 0 < minutes < float("inf"):
        raise InvalidInput(f"--minutes must be above 0, got {minutes:g}")
    if given := [key for key in overrides if key.endswith(".epochs")]:
        raise InvalidInput(f"--minutes chooses the epochs: leave out --minutes or --set {given[0]}")


def _check_writable(out: Path) -> None:
    """Raises InvalidInput with the folder and the reason."""
    from engines.errors import InvalidInput

    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise InvalidInput(f"--out: cannot write into '{out}': {error.strerror}") from None


def _in_minutes(config: TrainConfig, out: Path, pictures: Pictures, minutes: float) -> TrainConfig:
    """Epochs by a timed step; a run that has begun keeps those that it was given then."""
    from engines.training.config import load_config
    from engines.training.defaults import epochs_of, with_epochs
    from engines.training.run import with_time

    before = out / _CONFIG
    if before.exists():
        return with_epochs(config, epochs_of(load_config(before)))
    return with_time(config, pictures.train, minutes)


def _say_plan(
    pictures: Pictures, config: TrainConfig, backbone: Bundle, minutes: float | None
) -> None:
    from engines.training.defaults import epochs_of

    test = "no test pictures" if pictures.test is None else f"{len(pictures.test.files)} to test"
    count = len(pictures.train.files)
    say(
        f"{len(pictures.train.classes)} classes; {count} pictures to train, "
        f"{len(pictures.validation.files)} to validate, {test}"
    )
    say(pictures.how)
    sizes = ", ".join(map(str, (config.image_size, *config.sizes.sizes)))
    budgets = ", ".join(f"{budget:g}" for budget in config.dynamic.budgets) or "none"
    say(f"start: {backbone.ref}; image sizes: {sizes} px; budgets: {budgets}")
    epochs = ", ".join(f"{phase} {n}" for phase, n in epochs_of(config).items() if n)
    why = f"for {count} pictures" if minutes is None else f"for {minutes:g} minutes on this machine"
    say(f"epochs: {epochs} ({why}; --minutes sets how long)")


def _evaluated(target: Path, root: Path, pictures: Pictures, config: TrainConfig) -> Report:
    """The bundle's points, and what is free beside them: smaller images, fixed masks.

    On test pictures where there are any; else on those that thresholds were calibrated on.
    """
    from engines.evaluation.plan import EvaluationPlan
    from engines.evaluation.run import evaluate_bundle
    from engines.folders import find_split

    validation = find_split(root, "validation")
    on, fixed_from = validation, None
    if pictures.test is None:
        say(
            "evaluating on the validation pictures, which the points were chosen on: expect a "
            "little less of others (pictures in a test/ beside train/ would tell)"
        )
    else:
        on, fixed_from = pictures.test.root, validation
        say("evaluating on the test pictures, which nothing was chosen on")
    # Where no budget was trained there is no mask to stand beside.
    skipping = bool(config.dynamic.budgets)
    plan = EvaluationPlan(
        folders=(on,),
        sizes=config.sizes.sizes,
        threads=_THREADS,
        fixed_masks=skipping,
        fixed_from=fixed_from if skipping else None,
    )
    return evaluate_bundle(target, plan, say)


def _print(bundle: Bundle, report: Report, config: TrainConfig) -> None:
    """What was kept of the candidates and why, then the points that ship beside their rivals."""
    from service.cli.dial import print_dial
    from service.cli.evaluation_tables import print_report

    if bundle.manifest.dial is not None:
        print_dial(bundle.manifest.dial)
    print_report(report)
    ships_none = all(record.point.skips_nothing for record in bundle.manifest.points)
    if config.dynamic.budgets and ships_none:
        typer.echo(
            "No point that skips was worth its time on this machine: what ships is the network at "
            "these image sizes."
        )
