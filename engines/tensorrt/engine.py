"""The engine on an NVIDIA GPU: plans of networks that label images, behind the protocol of all."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from engines.bundle import Bundle, classifier
from engines.core import OperatingPoint, Output, UInt8Array
from engines.cpu.counting import wishes_of_batch
from engines.glance import run_glances
from engines.tensorrt.counting import DecisionCounter
from engines.tensorrt.forms import Forms
from engines.tensorrt.gpu import Gpu
from engines.tensorrt.loaded import Network
from engines.tensorrt.plans import PlanManifest
from engines.tensorrt.running import DECISIONS, PlanEngine, Taken

PROBABILITIES = "probabilities"


class TensorRtEngine(PlanEngine):
    """Labels images; see `PlanEngine`."""

    def __init__(
        self,
        bundle: Bundle,
        manifest: PlanManifest,
        gpu: Gpu,
        network: Network,
        branches: Network | None = None,
        forms: Forms | None = None,
    ) -> None:
        """As `PlanEngine`. Raises BundleError for a bundle that finds objects."""
        net = classifier(bundle, "TensorRtEngine").manifest.architecture
        super().__init__(bundle, manifest, gpu, network, branches, forms)
        self._num_classes = net.num_classes
        # Of a size, all that counting needs.
        self._counters = cache(lambda size: DecisionCounter(net, size))

    def _answer(self, images: UInt8Array, points: Sequence[OperatingPoint], forms: Forms) -> Output:
        counters: DecisionCounter = self._counters(images.shape[1])
        if any(point.glance is not None for point in points):
            return run_glances(
                lambda some, looks: self._infer(some, looks, forms),
                images,
                points,
                counters.num_units,
            )
        wishes, taken = wishes_of_batch(tuple(points)), Taken()
        probabilities = np.empty((len(images), self._num_classes), np.float32)
        decisions = np.ones((len(images), counters.num_units), np.bool_)
        for portion, lane in self._runs(images, points, wishes, counters.units, forms, taken):
            here, there = slice(portion.begin, portion.end), slice(portion.end - portion.begin)
            probabilities[here] = lane.outputs[PROBABILITIES][there]
            if self._maskers:
                decisions[here] = lane.outputs[DECISIONS][there]
        counts = counters.counted(decisions, wishes.asked)
        return Output(
            arrays={PROBABILITIES: probabilities, DECISIONS: decisions},
            activation=counts.activation,
            macs=counts.macs,
            durations_s=taken.durations_s,
            pixels=counts.pixels,
        )
