"""`laud export`: round weights to 16 bits, calibrate and measure every point, write the bundle."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch

from engines.bundle import (
    Bundle,
    Manifest,
    PointRecord,
    Provenance,
    Weights,
    WeightsFile,
    read_bundle,
    write_bundle,
)
from engines.core import OperatingPoint, UInt8Array, static_point
from engines.errors import CheckpointError, ConfigError
from engines.evaluation import LabelledImages, accuracy_of, evaluate_points
from engines.export.calibrate import calibrate
from engines.folders import find_split, scan_folder
from engines.models.checkpoints import load_strictly
from engines.models.resnet import LaudResNet
from engines.reference.engine import ReferenceEngine
from engines.runs import PointRequest, Run, model_file, read_run

_VERSIONED = ("laudserve", "numpy", "torch", "pillow", "simplejpeg")

Say = Callable[[str], None]


def export(folder: Path, out: Path, *, data: Path | None = None, say: Say = print) -> Bundle:
    """Write the bundle of the finished run in `folder` to `out` (NAME.laud), and read it back.

    Thresholds are calibrated and accuracy is measured on the validation split of `data` (by default
    the folder that the run was trained on), with the rounded weights that ship.
    """
    run, thresholds = read_run(folder)
    model, weights = rounded_network(folder, run)
    split = find_split(data or run.data, "validation")
    images = scan_folder(split)
    if images.classes != run.labels:
        raise ConfigError(f"'{split}' has other classes than the run was trained on")
    pictures = LabelledImages(images, run.preprocessing.crop_ratio)
    pixels: dict[int, UInt8Array] = {}

    def at_size(size: int) -> UInt8Array:
        if size not in pixels:
            say(f"preparing {len(images.files)} validation images at {size} px")
            pixels[size] = np.concatenate([views[size] for _, views in pictures.chunks([size])])
        return pixels[size]

    points = [_point(run, request, thresholds, model, at_size, say) for request in run.points]
    say("measuring accuracy on the weights that ship")
    with ReferenceEngine(model, run.preprocessing) as engine:
        results = evaluate_points(engine, points, pictures, say=say)
    full = results[0]
    records = tuple(
        PointRecord(
            point=result.point,
            accuracy=accuracy_of(result.right(images.labels), len(images.labels), split.name),
            agreement=float((result.predictions == full.predictions).mean()),
            activation=tuple(round(float(rate), 6) for rate in result.activation.mean(axis=0)),
            macs=float(result.macs.mean()),
            macs_ratio=float(result.macs.mean() / full.macs.mean()),
        )
        for result in results
    )
    manifest = Manifest(
        name=run.name,
        labels=run.labels,
        preprocessing=run.preprocessing,
        architecture=run.architecture,
        points=records,
        weights=WeightsFile(dtype="fp16", sha256="0" * 64),
        provenance=Provenance(config=run.config, notices=run.notices),
        versions=_versions(),
    )
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
    model: LaudResNet,
    at_size: Callable[[int], UInt8Array],
    say: Say,
) -> OperatingPoint:
    maskers = len(run.architecture.maskers)
    if request.budget is None:
        return static_point(request.name, request.image_size, maskers)
    start: Sequence[float] | None = thresholds.get(request.budget)
    if start is None:
        raise ConfigError(f"the run trained no budget {request.budget:g} for '{request.name}'")
    say(
        f"calibrating '{request.name}' to {request.budget:g} of the MACs at {request.image_size} px"
    )
    pixels = at_size(request.image_size)
    values = calibrate(model, start, request.budget, pixels, run.preprocessing)
    return OperatingPoint(
        name=request.name,
        image_size=request.image_size,
        thresholds=values,
        caps=(None,) * maskers,
    )


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _VERSIONED}
