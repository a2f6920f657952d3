"""`laud export`: round weights to 16 bits, calibrate and measure every point, write the bundle."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from pydantic import ValidationError

from engines.architecture import MapSize
from engines.bundle import (
    Bundle,
    Manifest,
    Provenance,
    Weights,
    WeightsFile,
    check_output,
    explain,
    read_bundle,
    write_bundle,
)
from engines.core import OperatingPoint, static_point
from engines.errors import CheckpointError, ConfigError
from engines.evaluation import LabelledImages, evaluate_points, point_records
from engines.export.calibrate import calibrate
from engines.export.int8 import PixelCache, Say, quantised, some_pictures
from engines.folders import find_split, scan_folder
from engines.macs import static_macs
from engines.models.checkpoints import load_strictly
from engines.models.resnet import LaudResNet
from engines.reference.engine import ReferenceEngine
from engines.runs import PointRequest, Run, model_file, read_run

_VERSIONED = ("laudserve", "numpy", "torch", "pillow", "simplejpeg")


def export(
    folder: Path,
    out: Path,
    *,
    data: Path | None = None,
    calibration: Path | None = None,
    say: Say = print,
) -> Bundle:
    """Write the bundle of the finished run in `folder` to `out` (NAME.laud), and read it back.

    Thresholds are calibrated and accuracy is measured on the validation split of `data` (by default
    the folder that the run was trained on), with the rounded weights that ship. With `calibration`,
    a folder of pictures, the bundle gets int8 scales too: see `engines.export.int8`.
    """
    check_output(out)
    chosen = None if calibration is None else some_pictures(calibration)
    run, thresholds = read_run(folder)
    try:
        provenance = Provenance(config=run.config, notices=run.notices)
    except ValidationError as error:
        raise ConfigError(f"'{folder}': {explain(error)}") from None
    model, weights = rounded_network(folder, run)
    split = find_split(data or run.data, "validation")
    images = scan_folder(split)
    if images.classes != run.labels:
        raise ConfigError(f"'{split}' has other classes than the run was trained on")
    pictures = LabelledImages(images, run.preprocessing.crop_ratio)
    pixels = PixelCache(pictures, "validation", say)
    with ReferenceEngine(model, run.preprocessing) as engine:
        points = [_point(run, request, thresholds, engine, pixels, say) for request in run.points]
        say("measuring accuracy on the weights that ship")
        results = evaluate_points(engine, points, pictures, say=say)
    manifest = Manifest(
        name=run.name,
        labels=run.labels,
        preprocessing=run.preprocessing,
        architecture=run.architecture,
        points=point_records(results, images.labels, split.name),
        weights=WeightsFile(dtype="fp16", sha256="0" * 64),
        provenance=provenance,
        versions=_versions(),
    )
    if chosen is not None:
        bundle = Bundle(out, manifest, "0" * 64, weights)
        manifest = quantised(bundle, chosen, pictures, say, results).manifest
    write_bundle(out, manifest, weights)
    return read_bundle(out)


def rounded_network(folder: Path, run: Run) -> tuple[LaudResNet, Weights]:
    """The run's network with its weights rounded to 16 bits, and those weights as stored."""
    path = model_file(folder, run.last_phase)
    try:
        state = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"cannot read '{path}': {error}") from None
    half = {name: value.half() for name, value in state.items()}
    too_large = [name for name, value in half.items() if not bool(torch.isfinite(value).all())]
    if too_large:
        raise CheckpointError(f"these weights do not fit 16 bits: {', '.join(too_large)}")
    model = LaudResNet(run.architecture)
    load_strictly(model, {name: value.float() for name, value in half.items()})
    model.eval().to(memory_format=torch.channels_last)
    return model, {name: value.numpy() for name, value in half.items()}


def _point(
    run: Run,
    request: PointRequest,
    thresholds: dict[float, tuple[float, ...]],
    engine: ReferenceEngine,
    pixels: PixelCache,
    say: Say,
) -> OperatingPoint:
    net, size = run.architecture, request.image_size
    if request.budget is None:
        return static_point(request.name, size, len(net.maskers))
    start: Sequence[float] | None = thresholds.get(request.budget)
    if start is None:
        raise ConfigError(f"the run trained no budget {request.budget:g} for '{request.name}'")
    say(f"calibrating '{request.name}' to {request.budget:g} of the MACs at {size} px")
    learned = OperatingPoint(
        name=request.name,
        image_size=size,
        thresholds=tuple(start),
        caps=(None,) * len(net.maskers),
    )
    static = static_macs(net, MapSize(size, size))
    found = calibrate(engine, learned, request.budget * static, pixels.at(size))
    if not found.reached:
        say(
            f"'{request.name}' cannot reach {request.budget:g} of the MACs by its thresholds: "
            f"kept at {found.macs / static:.3f}, the nearest"
        )
    return found.point


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _VERSIONED}
