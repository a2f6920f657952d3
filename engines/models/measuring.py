"""Measuring a network on held-out images while it trains: accuracy, MACs and activation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engines.architecture import MapSize
from engines.bundle import Preprocessing
from engines.core import UInt8Array
from engines.macs import static_macs
from engines.models.flops import network_macs
from engines.models.inputs import normalise
from engines.models.masks import Thresholds
from engines.models.network import LaudNetwork

_BATCH = 32


@dataclass(frozen=True)
class Measured:
    """Results on N images. rates: activation (N, maskers). macs_ratio: mean over the static's."""

    predictions: npt.NDArray[np.int64]
    accuracy: float
    macs_ratio: float
    rates: npt.NDArray[np.float64]


@torch.no_grad()
def measure(
    model: LaudNetwork,
    pixels: UInt8Array,
    labels: npt.NDArray[np.int64],
    preprocessing: Preprocessing,
    thresholds: Tensor | None = None,
) -> Measured:
    """Run uint8 images (N, S, S, 3) in eval mode; thresholds (maskers,), None skips nothing."""
    was_training = model.training
    model.eval()
    size = MapSize(pixels.shape[1], pixels.shape[2])
    predictions: list[Tensor] = []
    rates: list[Tensor] = []
    macs: list[Tensor] = []
    for start in range(0, len(pixels), _BATCH):
        x = normalise(pixels[start : start + _BATCH], preprocessing)
        decide = None if thresholds is None else Thresholds(thresholds.expand(len(x), -1))
        logits, masks = model(x, decide)
        predictions.append(logits.argmax(dim=1))
        if masks:
            rates.append(torch.stack([mask.rate for mask in masks], dim=1))
        macs.append(network_macs(model.net, size, masks).expand(len(x)))
    model.train(was_training)
    predicted = torch.cat(predictions).numpy()
    return Measured(
        predictions=predicted,
        accuracy=float((predicted == labels).mean()),
        macs_ratio=float(torch.cat(macs).double().mean()) / static_macs(model.net, size),
        rates=torch.cat(rates).double().numpy() if rates else np.ones((len(labels), 0)),
    )


@torch.no_grad()
def extract_features(
    model: LaudNetwork, pixels: UInt8Array, preprocessing: Preprocessing
) -> Tensor:
    """Pooled features (N, C) of the static network."""
    model.eval()
    parts = [
        model.features(normalise(pixels[i : i + _BATCH], preprocessing), None)[0]
        for i in range(0, len(pixels), _BATCH)
    ]
    return torch.cat(parts)
