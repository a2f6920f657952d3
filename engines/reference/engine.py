"""The reference engine: the masked-dense network in torch, one image at a time.

It computes everything and then masks, so it is slow and exact. Running images singly makes an
answer independent of its batch mates, bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor

from engines.architecture import MapSize, RegNet, ResNet
from engines.bundle import Bundle, Preprocessing
from engines.closing import Closing
from engines.core import OperatingPoint, Output, UInt8Array, check_batch
from engines.errors import EngineError
from engines.glance import run_glances
from engines.macs import masker_units
from engines.models.flops import network_macs
from engines.models.inputs import normalise
from engines.models.network import LaudNetwork
from engines.models.regnet import network_of
from engines.reference.deciding import evaluated, mask_rates, point_decision
from engines.reference.weights import load_bundle_weights


class ReferenceEngine(Closing):
    """Runs any network in fp32 on the CPU. Not safe for concurrent calls; outputs are fresh."""

    name = "reference"
    precision = "fp32"

    def __init__(
        self, model: LaudNetwork, preprocessing: Preprocessing, *, threads: int | None = None
    ) -> None:
        """threads: of torch, for the whole process; None leaves torch's choice."""
        if threads is not None:
            torch.set_num_threads(threads)
        self._model: LaudNetwork | None = model.eval().to(memory_format=torch.channels_last)
        self._preprocessing = preprocessing

    @classmethod
    def from_bundle(cls, bundle: Bundle, *, threads: int | None = None) -> Self:
        """Load a bundle; 16-bit weights are widened. BundleError when names do not fit."""
        model = network_of(bundle.manifest.architecture)
        load_bundle_weights(model, bundle)
        return cls(model, bundle.manifest.preprocessing, threads=threads)

    @torch.inference_mode()
    def infer(self, images: UInt8Array, points: Sequence[OperatingPoint]) -> Output:
        """See `engines.core.Engine`. Raises InvalidInput, or EngineError once closed."""
        model = self._model
        if model is None:
            raise EngineError("the engine has been closed")
        check_batch(images, points, len(model.net.maskers))
        size = MapSize(images.shape[1], images.shape[2])
        units = _units(model.net, size)
        if any(point.glance for point in points):
            return run_glances(self.infer, images, points, len(units))
        begin = time.perf_counter()
        x = normalise(images, self._preprocessing)
        prepared = time.perf_counter()
        probabilities, rates, macs, decisions = [], [], [], []
        for i, point in enumerate(points):
            logits, masks = model(x[i : i + 1], point_decision(point))
            probabilities.append(torch.softmax(logits[0].double(), dim=0).float())
            rates.append(mask_rates(masks, len(point.thresholds)))
            decisions.append(torch.cat([mask.units[0] for mask in masks]) if masks else units)
            macs.append(float(network_macs(model.net, size, masks, evaluated(point)).sum()))
        done = time.perf_counter()
        return Output(
            arrays={
                "probabilities": torch.stack(probabilities).numpy(),
                "decisions": torch.stack(decisions).bool().numpy(),
            },
            activation=torch.stack(rates).numpy(),
            macs=np.array(macs, np.float64),
            durations_s={"prepare": prepared - begin, "network": done - prepared},
        )

    def close(self) -> None:
        self._model = None


def _units(net: ResNet | RegNet, size: MapSize) -> Tensor:
    """Every unit of every masker, active."""
    sizes = net.block_sizes(size)
    return torch.ones(
        sum(masker_units(net.blocks[m.block], sizes[m.block][1], m.kind) for m in net.maskers)
    )
