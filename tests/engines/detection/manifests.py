"""What bundles of detectors say of themselves; needs no torch."""

from __future__ import annotations

from engines.bundle import Manifest, PointRecord, Preprocessing, Provenance, WeightsFile
from engines.core import static_point
from engines.detection.architecture import Detector
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
