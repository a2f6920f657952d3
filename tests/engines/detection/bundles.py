"""Bundles of detectors with random weights."""

from __future__ import annotations

from pathlib import Path

import torch

from engines.bundle import (
    Bundle,
    Manifest,
    PointRecord,
    Preprocessing,
    Provenance,
    WeightsFile,
    read_bundle,
    write_bundle,
)
from engines.core import static_point
from engines.detection.architecture import Detector
from engines.models.detection import LaudDetector
from tests.engines.detection.networks import DETECTOR, NET


def detector_manifest(detector: Detector = DETECTOR, *sizes: int) -> Manifest:
    """Points `full` and smaller ones; one label."""
    points = [
        static_point("full" if i == 0 else f"size-{size}", size, 0)
        for i, size in enumerate(sizes or (64, 32))
    ]
    return Manifest(
        name="things",
        task="segmentation" if detector.masks else "detection",
        labels=("nucleus",),
        preprocessing=Preprocessing(
            crop_ratio=1.0, channel_order="bgr", mean=(104, 117, 123), std=(60, 60, 60)
        ),
        architecture=NET,
        detector=detector,
        points=tuple(
            PointRecord(point=point, activation=(), macs=1e6, macs_ratio=1.0) for point in points
        ),
        weights=WeightsFile(dtype="fp16", sha256="0" * 64),
        provenance=Provenance(config={}),
        versions={"laudserve": "0"},
    )


def detector_bundle(path: Path, detector: Detector = DETECTOR) -> Bundle:
    """Written to `path` (NAME.laud) and read back."""
    torch.manual_seed(3)
    model = LaudDetector(NET, detector)
    # Random weights are sure of nothing: with this some places are likely.
    torch.nn.init.constant_(model.dense.head.classification_head.cls_logits.bias, -1.0)
    state = {name: value.half().numpy() for name, value in model.state_dict().items()}
    write_bundle(path, detector_manifest(detector), state)
    return read_bundle(path)
