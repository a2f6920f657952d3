"""Manifests of plans that nobody compiled."""

from __future__ import annotations

from typing import Any

from engines.tensorrt.plans import Bucket, PlanManifest, sha256

ONNX, PROGRAM = b"a network", b"a program"


def plan_manifest(**changes: Any) -> PlanManifest:
    """Of ONNX and PROGRAM, for sm_86, two buckets."""
    fields: dict[str, Any] = {
        "name": "small",
        "bundle": "ab" * 32,
        "onnx": sha256(ONNX),
        "program": sha256(PROGRAM),
        "precision": "fp16",
        "library": "tensorrt",
        "library_version": "10.16.1.11",
        "capabilities": (86,),
        "device": "NVIDIA GeForce RTX 3090",
        "buckets": tuple(
            Bucket(image_size=32, images=images, profile=i) for i, images in enumerate((1, 4))
        ),
        "plugins": ("partition",),
        "version": "0.1.0",
        **changes,
    }
    return PlanManifest(**fields)
