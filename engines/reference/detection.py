"""The reference engine of detectors: torch, fp32, one image at a time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor

from engines.architecture import MapSize, ResNet
from engines.bundle import Bundle, Preprocessing
from engines.caps import units_of
from engines.closing import Closing
from engines.core import OperatingPoint, Output, UInt8Array, check_batch
from engines.detection.architecture import (
    check_image_size,
    level_units_of,
    macs_per_object,
)
from engines.errors import BundleError, EngineError
from engines.models.detecting import dense_macs
from engines.models.detection import LaudDetector
from engines.models.inputs import normalise
from engines.reference.deciding import evaluated, mask_rates, point_decision
from engines.reference.weights import load_bundle_weights


class ReferenceDetector(Closing):
    """Finds objects in whole pictures. Not safe for concurrent calls; outputs are fresh."""

    name = "reference"
    precision = "fp32"

    def __init__(
        self, model: LaudDetector, preprocessing: Preprocessing, *, threads: int | None = None
    ) -> None:
        """threads: of torch, for the whole process; None leaves torch's choice."""
        if threads is not None:
            torch.set_num_threads(threads)
        self._model: LaudDetector | None = model.eval().to(memory_format=torch.channels_last)
        self._preprocessing = preprocessing

    @classmethod
    def from_bundle(cls, bundle: Bundle, *, threads: int | None = None) -> Self:
        """Load a bundle; 16-bit weights are widened. BundleError when names do not fit."""
        manifest = bundle.manifest
        if manifest.detector is None or not isinstance(manifest.architecture, ResNet):
            raise BundleError(f"'{bundle.path}' finds no objects: its task is {manifest.task}")
        model = LaudDetector(manifest.architecture, manifest.detector)
        load_bundle_weights(model, bundle)
        return cls(model, manifest.preprocessing, threads=threads)

    @torch.inference_mode()
    def infer(self, images: UInt8Array, points: Sequence[OperatingPoint]) -> Output:
        """See `engines.core.Engine`. Raises InvalidInput, or EngineError once closed."""
        model = self._model
        if model is None:
            raise EngineError("the engine has been closed")
        check_batch(images, points, model.dense.num_maskers)
        size = images.shape[1]
        check_image_size(size)
        begin = time.perf_counter()
        x = normalise(images, self._preprocessing)
        prepared = time.perf_counter()
        found, rates, dense, decisions = [], [], [], []
        image = MapSize(size, size)
        units = _units(model, image)
        for i, point in enumerate(points):
            (objects,), asked = model.detect(x[i : i + 1], point_decision(point))
            found.append(objects)
            rates.append(mask_rates(asked, len(point.thresholds)))
            decisions.append(torch.cat([mask.units[0] for mask in asked]) if asked else units)
            dense.append(float(dense_macs(model.dense, image, asked, evaluated(point)).mean()))
        done = time.perf_counter()
        counts = np.array([len(each.scores) for each, _ in found], np.int64)
        shape = (len(images), int(counts.max()))
        arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = {
            "counts": counts,
            "boxes": np.zeros((*shape, 4), np.float32),
            "scores": np.zeros(shape, np.float32),
            "labels": np.zeros(shape, np.int64),
            "decisions": torch.stack(decisions).bool().numpy(),
        }
        if model.detector.masks:
            side = model.detector.mask_size
            arrays["masks"] = np.zeros((*shape, side, side), np.float32)
        for i, (each, masks) in enumerate(found):
            count = counts[i]
            arrays["boxes"][i, :count] = each.boxes.numpy()
            arrays["scores"][i, :count] = each.scores.numpy()
            arrays["labels"][i, :count] = each.labels.numpy()
            if masks is not None:
                arrays["masks"][i, :count] = masks.numpy()
        per_object = macs_per_object(model.detector)
        return Output(
            arrays=arrays,
            activation=torch.stack(rates).numpy(),
            macs=np.array(dense, np.float64) + per_object * counts,
            durations_s={"prepare": prepared - begin, "network": done - prepared},
        )

    def close(self) -> None:
        self._model = None


def _units(model: LaudDetector, image: MapSize) -> Tensor:
    """Every unit of every masker, active."""
    of_levels = level_units_of(model.net, model.detector, image)
    return torch.ones(int(units_of(model.net, image.height).sum()) + sum(of_levels))
