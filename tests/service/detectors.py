"""Models that find objects, without a network: what is bright in an image is an object."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from engines.architecture import ResNet, Stage
from engines.bundle import Manifest, PointRecord, Preprocessing, Provenance, WeightsFile
from engines.core import OperatingPoint, Output, UInt8Array, check_batch, static_point
from engines.detection.architecture import Detector
from service.model import Model
from tests.service.scripted import HASH, ScriptedEngine


class BrightEngine(ScriptedEngine):
    """Finds the bright pixels of an image as one object, and half as surely its left half."""

    masks = True

    def infer(self, images: UInt8Array, points: Sequence[OperatingPoint]) -> Output:
        check_batch(images, points, 0)
        count = len(images)
        boxes, scores = np.zeros((count, 2, 4), np.float32), np.zeros((count, 2), np.float32)
        counts = np.zeros(count, np.int64)
        for i, image in enumerate(images):
            rows, columns = (image.min(axis=2) > 180).nonzero()
            if len(rows):
                box = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
                half = (box[0], box[1], (box[0] + box[2]) / 2, box[3])
                boxes[i], scores[i], counts[i] = (box, half), (0.9, 0.3), 2
        arrays: dict[str, Any] = {
            "counts": counts,
            "boxes": boxes[:, : counts.max()],
            "scores": scores[:, : counts.max()],
            "labels": np.zeros((count, counts.max()), np.int64),
        }
        if self.masks:
            arrays["masks"] = np.ones((count, counts.max(), 28, 28), np.float32)
        return Output(
            arrays, np.ones((count, 0), np.float32), np.full(count, 1e6), {"network": 0.1}
        )


class BoxEngine(BrightEngine):
    """The same, boxes only."""

    masks = False


class CrowdEngine(ScriptedEngine):
    """Finds `count` small objects in every image, ever less sure."""

    masks = True

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def infer(self, images: UInt8Array, points: Sequence[OperatingPoint]) -> Output:
        check_batch(images, points, 0)
        count, size = len(images), images.shape[1]
        side = size / int(np.ceil(np.sqrt(self.count)))
        rows, columns = np.divmod(np.arange(self.count), int(size / side + 0.5))
        corners = np.stack((columns, rows, columns + 0.75, rows + 0.75), axis=1) * side
        shape = (count, self.count)
        arrays: dict[str, Any] = {
            "counts": np.full(count, self.count),
            "boxes": np.repeat(corners.astype(np.float32)[np.newaxis], count, axis=0),
            "scores": np.tile(np.linspace(0.99, 0.51, self.count, dtype=np.float32), (count, 1)),
            "labels": np.zeros(shape, np.int64),
            "masks": np.ones((*shape, 28, 28), np.float32),
        }
        nothing = np.ones((count, 0), np.float32)
        return Output(arrays, nothing, np.full(count, 1e6), {"network": 0.1})


def detector(engine: BrightEngine | CrowdEngine, name: str = "things") -> Model:
    """Points full@512 and small@256; one label. As many masks as the engine has."""
    stages = tuple(Stage(depth=1, width=4) for _ in range(4))
    manifest = Manifest(
        name=name,
        task="segmentation" if engine.masks else "detection",
        labels=("thing",),
        preprocessing=Preprocessing(
            crop_ratio=1.0, channel_order="rgb", mean=(0, 0, 0), std=(1, 1, 1)
        ),
        architecture=ResNet(stem_width=4, stages=stages, num_classes=1, folded=True),
        detector=Detector(width=8, masks=engine.masks),
        points=tuple(
            PointRecord(point=static_point(n, size, 0), activation=(), macs=m, macs_ratio=m / 4e6)
            for n, size, m in (("full", 512, 4e6), ("small", 256, 1e6))
        ),
        weights=WeightsFile(dtype="fp32", sha256=HASH),
        provenance=Provenance(config={}),
        versions={"laudserve": "0"},
    )
    return Model(manifest, HASH, engine)


def scene(width: int, height: int) -> Image.Image:
    """Dark, with a bright rectangle in its upper left quarter."""
    pixels = np.full((height, width, 3), 20, np.uint8)
    pixels[height // 8 : height // 4, width // 8 : width // 2] = 250
    return Image.fromarray(pixels)


def encoded(shown: Image.Image, form: str = "PNG", **more: Any) -> bytes:
    """As the bytes of a file."""
    out = io.BytesIO()
    shown.save(out, form, **more)
    return out.getvalue()
