"""`laud export`: round weights to 16 bits, calibrate and measure candidates, write the dial."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from pydantic import ValidationError
from torch import nn

from engines.architecture import MapSize
from engines.bundle import (
    Bundle,
    Manifest,
    PointRecord,
    Provenance,
    Weights,
    WeightsFile,
    check_output,
    explain,
    read_bundle,
    write_bundle,
)
from engines.core import Engine, OperatingPoint, static_point
from engines.errors import CheckpointError, ConfigError
from engines.evaluation import LabelledImages, evaluate_points
from engines.export.calibrate import settle
from engines.export.dial import dialled
from engines.export.drafts import (
    NO_HASH,
    changed,
    learned_point,
    measured_records,
    serving_engine,
)
from engines.export.glances import MOST, glancing_points
from engines.export.int8 import quantised
from engines.export.pictures import PixelCache, Say, some_pictures
from engines.folders import ImageFolder, find_split, scan_folder
from engines.macs import static_macs
from engines.manifest import MOST_POINTS
from engines.models.checkpoints import load_strictly
from engines.models.regnet import network_of
from engines.runs import PointRequest, Run, model_file, read_run

_VERSIONED = ("laudserve", "numpy", "torch", "pillow", "simplejpeg")


def export(
    folder: Path,
    out: Path,
    *,
    data: Path | None = None,
    calibration: Path | None = None,
    all_points: bool = False,
    say: Say = print,
) -> Bundle:
    """Write the bundle of the finished run in `folder` to `out` (NAME.laud), and read it back.

    Thresholds are calibrated and accuracy is measured on the validation split of `data` (by default
    the folder that the run was trained on), with the rounded weights that ship, on the engine that
    serves them. With `calibration`, a folder of pictures (of a detector: an annotated split), the
    bundle gets int8 scales too: see `engines.export.int8`. Of the run's points those are shipped
    that are worth their latency in the best precision, see `engines.export.dial`; `all_points`
    ships every one.
    """
    check_output(out)
    run, thresholds = read_run(folder)
    classifies = run.detector is None
    chosen = some_pictures(calibration) if calibration is not None and classifies else None
    try:
        provenance = Provenance(config=run.config, notices=run.notices)
    except ValidationError as error:
        raise ConfigError(f"'{folder}': {explain(error)}") from None
    weights = rounded_weights(folder, run)
    if run.detector is not None:
        from engines.export.detection import export_detector

        return export_detector(
            run, run.detector, thresholds, provenance, weights, library_versions(), out,
            data=data or run.data, calibration=calibration, all_points=all_points, say=say,
        )  # fmt: skip
    maskers = len(run.architecture.maskers)
    learned = [learned_point(request, thresholds, maskers) for request in run.points]
    exported(
        run, learned, provenance, weights, out,
        data=data or run.data, calibration=chosen, all_points=all_points, say=say,
    )  # fmt: skip
    return read_bundle(out)


def exported(
    run: Run,
    learned: Sequence[OperatingPoint],
    provenance: Provenance,
    weights: Weights,
    out: Path,
    *,
    data: Path,
    calibration: ImageFolder | None,
    all_points: bool,
    say: Say,
) -> None:
    """Calibrate, measure and write what a classifier's run, or an older bundle, has learned.

    learned: the points that the run requests, as they were learned. calibration: pictures for int8
    scales. Raises ConfigError where the classes of `data` are others.
    """
    split = find_split(data, "validation")
    images = scan_folder(split)
    if images.classes != run.labels:
        raise ConfigError(f"'{split}' has other classes than the run was trained on")
    pictures = LabelledImages(images, run.preprocessing.crop_ratio)
    pixels = PixelCache(pictures, "validation", say)
    draft = _draft(out, run, provenance, weights)
    with serving_engine(draft, "fp32", say) as engine:
        points = [
            _calibrated(run, request, point, engine, pixels, say)
            for request, point in zip(run.points, learned, strict=True)
        ]
        say("measuring accuracy on the weights that ship")
        results = evaluate_points(engine, points, pictures, say=say)
        if run.glances:
            sizes = [result for result in results if result.point.skips_nothing]
            most = min(MOST, MOST_POINTS - len(points))
            glancing = glancing_points(engine, sizes, pixels, images.labels, say, most)
            if glancing:
                results += evaluate_points(engine, glancing, pictures, say=say)
    records = measured_records(run.architecture, results, images.labels, split.name)
    bundle = changed(draft, points=records)
    if calibration is not None:
        bundle = quantised(bundle, calibration, pictures, say, results)
    budgets = {request.name: request.budget for request in run.points}
    bundle = dialled(bundle, budgets, pictures, say, keep_all=all_points)
    write_bundle(out, bundle.manifest, weights)


def rounded_weights(folder: Path, run: Run) -> Weights:
    """The run's weights rounded to 16 bits; CheckpointError where that or the names do not fit."""
    path = model_file(folder, run.last_phase)
    try:
        state = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"cannot read '{path}': {error}") from None
    half = {name: value.half() for name, value in state.items()}
    too_large = [name for name, value in half.items() if not bool(torch.isfinite(value).all())]
    if too_large:
        raise CheckpointError(f"these weights do not fit 16 bits: {', '.join(too_large)}")
    load_strictly(_fresh_network(run), {name: value.float() for name, value in half.items()})
    return {name: value.numpy() for name, value in half.items()}


def _fresh_network(run: Run) -> nn.Module:
    if run.detector is None:
        return network_of(run.architecture)
    from engines.models.detection import LaudDetector

    return LaudDetector(run.architecture, run.detector)


def _draft(out: Path, run: Run, provenance: Provenance, weights: Weights) -> Bundle:
    """The bundle before anything has been measured: one point, `full`."""
    full = static_point("full", run.points[0].image_size, len(run.architecture.maskers))
    macs = static_macs(run.architecture, MapSize(full.image_size, full.image_size))
    record = PointRecord(
        point=full, activation=(1.0,) * len(full.thresholds), macs=macs, macs_ratio=1.0
    )
    manifest = Manifest(
        name=run.name,
        labels=run.labels,
        preprocessing=run.preprocessing,
        architecture=run.architecture,
        points=(record,),
        weights=WeightsFile(dtype="fp16", sha256=NO_HASH),
        provenance=provenance,
        versions=library_versions(),
    )
    return Bundle(out, manifest, NO_HASH, weights)


def _calibrated(
    run: Run,
    request: PointRequest,
    point: OperatingPoint,
    engine: Engine,
    pixels: PixelCache,
    say: Say,
) -> OperatingPoint:
    net, size = run.architecture, request.image_size
    if request.budget is None:
        return point
    say(f"calibrating '{request.name}' to {request.budget:g} of the MACs at {size} px")
    static = static_macs(net, MapSize(size, size))
    found = settle(engine, net, point, request.budget * static, pixels.at(size))
    if not found.reached:
        say(
            f"'{request.name}' cannot reach {request.budget:g} of the MACs by its thresholds: "
            f"kept at {found.macs / static:.3f}, the nearest"
        )
    return found.point


def library_versions() -> dict[str, str]:
    """Of what a bundle's making depends on."""
    return {name: importlib.metadata.version(name) for name in _VERSIONED}
