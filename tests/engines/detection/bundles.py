"""Bundles of detectors with random weights."""

from __future__ import annotations

from pathlib import Path

import torch

from engines.bundle import Bundle, read_bundle, write_bundle
from engines.detection.architecture import Detector
from engines.models.detection import LaudDetector
from tests.engines.detection.manifests import detector_manifest
from tests.engines.detection.networks import DETECTOR, NET


def detector_bundle(path: Path, detector: Detector = DETECTOR) -> Bundle:
    """Written to `path` (NAME.laud) and read back."""
    torch.manual_seed(3)
    model = LaudDetector(NET, detector)
    # Random weights are sure of nothing: with this some places are likely.
    torch.nn.init.constant_(model.dense.head.classification_head.cls_logits.bias, -1.0)
    state = {name: value.half().numpy() for name, value in model.state_dict().items()}
    write_bundle(path, detector_manifest(detector), state)
    return read_bundle(path)
