"""Detectors with random weights to try the native engine with. Needs no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from engines.architecture import ResNet, Stage
from engines.bundle import (
    Bundle,
    DetectorScales,
    Manifest,
    PointRecord,
    Preprocessing,
    Provenance,
    Quantisation,
    WeightsFile,
)
from engines.core import OperatingPoint, Output, Paradigm, static_point
from engines.cpu.detector import CpuDetector
from engines.cpu.detector_weights import detector_shapes
from engines.cpu.loading import ISA_VARIABLE
from engines.detection.architecture import Detector
from tests.engines import int8
from tests.engines.cpu import cases

KERNELS = cases.KERNELS
"""(precision, instruction set) of all that this machine can run detectors with."""
FITTING = 1 / 4
"""Scale at which the activations of `random_weights` fill a byte."""

Weights = dict[str, npt.NDArray[np.generic]]

SMALL = ResNet(
    stem_width=4,
    stages=tuple(Stage(depth=1, width=width) for width in (2, 4, 4, 4)),
    num_classes=1,
    stem_pool="trailing",
    stride_in_1x1=True,
    folded=True,
)
"""No channel count that fills a vector."""
WIDE = ResNet(
    stem_width=12,
    stages=(
        Stage(depth=2, width=8),
        Stage(depth=1, width=12),
        Stage(depth=2, width=20),
        Stage(depth=1, width=24),
    ),
    num_classes=3,
    folded=True,
)
SKIPPING = WIDE.model_copy(
    update={
        "stages": (
            Stage(depth=2, width=8),
            Stage(depth=2, width=12, paradigm=Paradigm.SPATIAL, spatial_granularity=2),
            Stage(depth=2, width=20, paradigm=Paradigm.SPATIAL, spatial_granularity=1),
            Stage(depth=1, width=24, paradigm=Paradigm.SPATIAL, spatial_granularity=1),
        )
    }
)
_ANSWERS = ("cls_logits.weight", "bbox_reg.weight", "bbox_ctrness.weight")
_CALM = 0.05
"""Of the weights behind the towers: scores then differ, and boxes have an area."""

PLAIN = Detector(width=8, head_convs=1, masks=False)
MASKED = Detector(width=24, head_convs=2, mask_convs=2, least_score=0.5)
DEEP = Detector(width=72, head_convs=3, mask_convs=1, roi_size=7, least_score=0.6)
DYNAMIC = MASKED.model_copy(update={"level_patches": (4, 2, 1, 1)})
RAGGED = MASKED.model_copy(update={"level_patches": (5, 4, 4, 2), "roi_size": 3})
"""Maps of 96 and 160 px have patches that end at their borders."""
LOOKING = DYNAMIC.model_copy(update={"level_looks": (2, 2, 2, 3)})
ABROAD = MASKED.model_copy(update={"level_patches": (6, 4, 4, 2), "level_looks": (1, 3, 0, 2)})
"""Later stages than their own, and earlier ones; patches that end at borders."""


def random_weights(net: ResNet, detector: Detector, seed: int = 0, bias: float = -2.0) -> Weights:
    """Of a size that keeps numbers near 1. bias: of class logits, from which the number of objects
    follows."""
    rng = np.random.default_rng(seed)
    backbone = int8.random_weights(net, seed)
    weights: Weights = {}
    for name, shape in detector_shapes(net, detector).items():
        if name.startswith("dense.body."):
            weights[name] = backbone[name.removeprefix("dense.body.")]
            continue
        if "level_maskers" in name:
            low, high = (0.2, 0.5) if name.endswith("std") else (0.2, 0.8)
            value = rng.uniform(low, high, shape)
            if name.endswith("weight"):
                value = rng.normal(size=shape)
            weights[name] = value.astype(np.float32)
            continue
        spread = 0.1 if name.endswith("bias") else np.sqrt(2.0 / np.prod(shape[1:]))
        if name.endswith(_ANSWERS):
            spread *= _CALM
        value = rng.normal(0.0, spread, shape)
        if name.endswith("cls_logits.bias"):
            value += bias
        if name.endswith("bbox_reg.bias"):
            value += 3.0
        weights[name] = value.astype(np.float32)
    return weights


def bundle(
    net: ResNet = WIDE,
    detector: Detector = MASKED,
    *,
    sizes: tuple[int, ...] = (64,),
    weights: Mapping[str, npt.NDArray[np.generic]] | None = None,
    scale: float | None = None,
    **changes: Any,
) -> Bundle:
    """Its first point is `full`. scale: near those of int8, None for none. changes: of
    `random_weights`."""
    maskers = num_maskers(net, detector)
    points = tuple(
        PointRecord(
            point=full(size, maskers, "full" if i == 0 else f"size-{size}"),
            activation=(1.0,) * maskers,
            macs=1e6,
            macs_ratio=1.0,
        )
        for i, size in enumerate(sizes)
    )
    manifest = Manifest(
        name="things",
        task="segmentation" if detector.masks else "detection",
        labels=tuple(f"thing-{i}" for i in range(net.num_classes)),
        preprocessing=Preprocessing(
            crop_ratio=1.0, channel_order="bgr", mean=(104, 117, 123), std=(60, 60, 60)
        ),
        architecture=net,
        detector=detector,
        points=points,
        weights=WeightsFile(dtype="fp32", sha256="0" * 64),
        quantisation=None if scale is None else quantisation(net, detector, points, scale),
        provenance=Provenance(config={}),
        versions={"laudserve": "0"},
    )
    given = random_weights(net, detector, **changes) if weights is None else dict(weights)
    return Bundle(Path("things.laud"), manifest, "0" * 64, given)


def quantisation(
    net: ResNet, detector: Detector, points: tuple[PointRecord, ...], scale: float = FITTING
) -> Quantisation:
    """Every scale different, near `scale`, of numbers with a sign near twice that."""
    backbone = int8.quantisation(net, scale=scale)
    count = 2 * detector.head_convs + detector.mask_convs + 7
    steps = (float(step) for step in np.linspace(1.0, 1.5, count) * scale)
    of = {
        name: tuple(next(steps) for _ in range(layers))
        for name, layers in (
            ("classes", detector.head_convs),
            ("boxes", detector.head_convs),
            ("masks", detector.mask_convs + 1 if detector.masks else 0),
        )
    }
    low, mid, high, top, pyramid = (2 * next(steps) for _ in range(5))
    content = {name: getattr(backbone, name) for name in Quantisation.model_fields}
    agreement = (1.0,) * len(points)
    note = backbone.calibration.model_copy(update={"agreement": agreement})
    own = DetectorScales(sums=(low, mid, high, top), pyramid=pyramid, **of)
    return Quantisation(
        **{**content, "features": None, "detector": own, "points": points, "calibration": note}
    )


def num_maskers(net: ResNet, detector: Detector) -> int:
    """Of backbone and levels."""
    return len(net.maskers) + detector.num_maskers


def full(size: int, maskers: int = 0, name: str = "full") -> OperatingPoint:
    """The point that skips nothing."""
    return static_point(name, size, maskers)


def load(
    source: Bundle,
    *,
    isa: str = "",
    precision: str | None = None,
    threads: int = 1,
    poison: bool = True,
) -> CpuDetector:
    """An engine held to an instruction set (empty: the best)."""
    with patch.dict(os.environ, {ISA_VARIABLE: isa}):
        return CpuDetector(source, precision=precision, threads=threads, poison=poison)


def same(one: Output, i: int, other: Output, j: int, *, decided: bool = True) -> bool:
    """Whether two images were answered alike, to the last bit. decided: and maskers decided so."""
    count = int(one.arrays["counts"][i])
    told = [each.arrays["decisions"][at].tobytes() for each, at in ((one, i), (other, j))]
    if decided and told[0] != told[1]:
        return False
    return count == other.arrays["counts"][j] and all(
        one.arrays[name][i, :count].tobytes() == other.arrays[name][j, :count].tobytes()
        for name in one.arrays.keys() - {"counts", "places", "decisions"}
    )
