"""`laud export --int8`: scales from pictures, points calibrated and measured again in int8."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engines.architecture import RegNet, ResNet, only_resnet
from engines.bundle import (
    Bundle,
    Calibration,
    Quantisation,
    check_output,
    read_bundle,
    write_bundle,
)
from engines.core import Engine, OperatingPoint
from engines.errors import BundleError
from engines.evaluation import LabelledImages, PointResult, evaluate_points
from engines.export.calibrate import settle
from engines.export.drafts import changed, checked_floats, measured_records, serving_engine
from engines.export.glances import settled_glance
from engines.export.pictures import PixelCache, Say, some_pictures
from engines.export.ranges import METHODS, Method, observe
from engines.folders import ImageFolder, find_split, relabel, scan_folder
from engines.models.checkpoints import load_strictly
from engines.models.resnet import LaudResNet


def quantise_bundle(
    source: str | Path, out: Path, *, calibration: Path, data: Path | None = None, say: Say = print
) -> Bundle:
    """Write the bundle `source` (a path or zoo:NAME) with int8 scales to `out`, and read it back.

    calibration: pictures whose activations give the scales. Thresholds are calibrated and accuracy
    is measured on the validation split of `data`; without it on the pictures of `calibration`. The
    bundle's points stay the same: none is measured for its latency or dropped.
    """
    check_output(out)
    bundle = read_bundle(source)
    _check_source(bundle)
    if bundle.manifest.detector is not None:
        from engines.export.detector_int8 import quantise_detector_bundle

        return quantise_detector_bundle(bundle, out, calibration=calibration, data=data, say=say)
    chosen = some_pictures(calibration)
    split = calibration if data is None else find_split(data, "validation")
    images = relabel(scan_folder(split, min_classes=1), bundle.manifest.labels)
    pictures = LabelledImages(images, bundle.manifest.preprocessing.crop_ratio)
    kept = ", ".join(record.point.name for record in bundle.manifest.points)
    say(f"the points stay those of the bundle: {kept}")
    found = quantised(bundle, chosen, pictures, say)
    write_bundle(out, found.manifest, found.weights)
    return read_bundle(out)


def quantised(
    bundle: Bundle,
    calibration: ImageFolder,
    pictures: LabelledImages,
    say: Say,
    floats: Sequence[PointResult] | None = None,
) -> Bundle:
    """The bundle with scales and int8 points; nothing is written.

    calibration: the pictures that give the scales. pictures: what points are calibrated and
    measured on. floats: what the float form answers on these, if that is known.
    """
    _check_source(bundle)
    manifest = bundle.manifest
    points = [record.point for record in manifest.points]
    model = _network(bundle)
    if floats is None:
        say("measuring the float form")
        with serving_engine(bundle, "fp32", say) as engine:
            floats = evaluate_points(engine, points, pictures, say=say)
    pixels = PixelCache(LabelledImages(calibration, pictures.crop_ratio), "calibration", say)
    # What a glance looks at is another point's too.
    looked_at = [point for point in points if point.glance is None]
    ranges = observe(model, looked_at, pixels.at, manifest.preprocessing, say)
    note: dict[str, Any] = {
        "images": len(calibration.files),
        "split": calibration.root.resolve().name,
    }
    candidates = {
        method: _with_scales(bundle, ranges.scales(method), {**note, "method": method})
        for method in METHODS
    }
    method = _best(candidates, floats, pictures, say)
    best = candidates[method]
    with serving_engine(best, "int8", say) as running:
        cache = PixelCache(pictures, "validation", say)
        again = _calibrated(running, manifest.architecture, floats, cache, say)
        say("measuring accuracy in int8")
        results = evaluate_points(running, again, pictures, say=say)
    labels, split = pictures.folder.labels, pictures.folder.root.resolve().name
    agreement = tuple(_agreement(pair) for pair in zip(results, floats, strict=True))
    for result, before, share in zip(results, floats, agreement, strict=True):
        say(
            f"'{result.point.name}': {before.right(labels)} of {len(labels)} right in float, "
            f"{result.right(labels)} in int8; {share:.1%} of the answers are equal"
        )
    scales = best.manifest.quantisation
    if scales is None:
        raise BundleError(f"'{bundle.path}' lost its scales")
    found = {
        "points": measured_records(manifest.architecture, results, labels, split),
        "calibration": scales.calibration.model_copy(update={"agreement": agreement}),
    }
    return changed(bundle, quantisation=scales.model_copy(update=found))


def _check_source(bundle: Bundle) -> None:
    if bundle.manifest.quantisation is not None:
        raise BundleError(
            f"'{bundle.path}' has int8 scales already; export from the run or the bundle that it "
            "was made of"
        )
    net = only_resnet(bundle.manifest.architecture, f"'{bundle.path}': int8")
    if net.official_layout or not net.folded:
        raise BundleError(
            f"'{bundle.path}': int8 needs a network with folded batch norm in our own layout"
        )


def _network(bundle: Bundle) -> LaudResNet:
    model = LaudResNet(only_resnet(bundle.manifest.architecture, "int8"))
    load_strictly(model, checked_floats(bundle))
    return model.eval().to(memory_format=torch.channels_last)


def _with_scales(bundle: Bundle, scales: dict[str, Any], note: dict[str, Any]) -> Bundle:
    """With the float points until they have been measured in int8."""
    points = bundle.manifest.points
    calibration = Calibration(**note, agreement=(1.0,) * len(points))
    return changed(
        bundle, quantisation=Quantisation(**scales, points=points, calibration=calibration)
    )


def _best(
    candidates: dict[Method, Bundle],
    floats: Sequence[PointResult],
    pictures: LabelledImages,
    say: Say,
) -> Method:
    """The clipping whose probabilities of the right class stay nearest to the float form's.

    Compared at the points that skip nothing, which thresholds do not blur.
    """
    wanted = [result for result in floats if result.point.skips_nothing]
    points = [result.point for result in wanted]
    off: dict[Method, float] = {}
    for method, bundle in candidates.items():
        with serving_engine(bundle, "int8", say) as engine:
            results = evaluate_points(engine, points, pictures, say=say)
        pairs = list(zip(results, wanted, strict=True))
        off[method] = float(
            np.mean([np.abs(np.exp(-a.losses) - np.exp(-b.losses)).mean() for a, b in pairs])
        )
        equal = float(np.mean([_agreement(pair) for pair in pairs]))
        right = sum(result.right(pictures.folder.labels) for result in results)
        total = len(points) * len(pictures.folder.labels)
        say(
            f"clipping by '{method}': {right} of {total} right, {equal:.1%} of the answers equal, "
            f"probability of the right class off by {off[method]:.4f}"
        )
    return min(off, key=lambda method: off[method])


def _agreement(pair: tuple[PointResult, PointResult]) -> float:
    return float((pair[0].predictions == pair[1].predictions).mean())


def _calibrated(
    engine: Engine,
    net: ResNet | RegNet,
    floats: Sequence[PointResult],
    pixels: PixelCache,
    say: Say,
) -> list[OperatingPoint]:
    """The float points at the same cost in int8."""
    points: list[OperatingPoint] = []
    for result in floats:
        point = result.point
        if result.again is not None:
            share = float(result.again.mean())
            points.append(settled_glance(engine, point, share, pixels.at(point.image_size)))
            continue
        if all(threshold is None for threshold in point.thresholds):
            points.append(point)
            continue
        wanted = float(result.macs.mean())
        say(f"calibrating '{point.name}' in int8 to {wanted / 1e6:.0f} M MACs")
        found = settle(engine, net, point, wanted, pixels.at(point.image_size))
        if not found.reached:
            say(
                f"'{point.name}' cannot reach {wanted / 1e6:.0f} M MACs in int8 by its thresholds: "
                f"kept at {found.macs / 1e6:.0f} M, the nearest"
            )
        points.append(found.point)
    return points
