"""The engine on an NVIDIA GPU: a bundle's plan behind the protocol of all engines."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.architecture import MapSize, ResNet, only_resnet
from engines.bundle import Bundle, classifier
from engines.closing import Closing
from engines.core import OperatingPoint, Output, UInt8Array, check_batch
from engines.cpu.counting import Counter, wishes_of_batch
from engines.errors import EngineError, PlanError
from engines.glance import run_glances
from engines.tensorrt.buckets import portions
from engines.tensorrt.counting import PixelCounter
from engines.tensorrt.gpu import Gpu
from engines.tensorrt.lanes import Lane, zeros
from engines.tensorrt.loaded import Network
from engines.tensorrt.plans import ENGINE, Bucket, PlanManifest

IMAGE, THRESHOLDS, CAPS = "image", "thresholds", "caps"
PROBABILITIES, DECISIONS = "probabilities", "decisions"


def runnable(bundle: Bundle) -> ResNet:
    """Its network, where the engine runs such. Raises BundleError."""
    return only_resnet(
        classifier(bundle, "the tensorrt engine").manifest.architecture,
        f"'{bundle.path}': the tensorrt engine",
    )


class TensorRtEngine(Closing):
    """Runs a plan in its buckets. Calls from several threads run one after another; outputs are
    fresh. A bucket takes its memory at its first call and keeps it.

    Within one bucket an image's answer does not depend on its mates or its place. Another bucket
    may have other kernels, which add in another order.
    """

    name = ENGINE

    def __init__(self, bundle: Bundle, manifest: PlanManifest, gpu: Gpu, network: Network) -> None:
        """Takes `gpu` and `network` over. Raises PlanError where the plan is of another bundle,
        BundleError where the bundle is nothing that plans are made of."""
        net = runnable(bundle)
        if manifest.bundle != bundle.hash:
            raise PlanError(
                f"the plan is of bundle {manifest.name} ({manifest.bundle[:12]}), not of "
                f"{bundle.manifest.name} ({bundle.hash[:12]}); build it again: "
                f"laud build {bundle.ref}"
            )
        wanted = {IMAGE, THRESHOLDS, CAPS} if net.maskers else {IMAGE}
        if set(network.inputs) != wanted:
            raise PlanError(
                f"the plan's inputs are {', '.join(sorted(network.inputs))} instead of "
                f"{', '.join(sorted(wanted))}: build it again"
            )
        self.precision = manifest.precision
        # By which a latency table knows its plan.
        self.program = manifest.program
        self.buckets = manifest.buckets
        self._net, self._gpu, self._network = net, gpu, network
        self._lanes: dict[Bucket, Lane] = {}
        self._lock = threading.RLock()
        self._closed = False
        # Of a size, all that counting needs.
        self._counters = cache(lambda size: _Counters(net, size))

    def infer(self, images: UInt8Array, points: Sequence[OperatingPoint]) -> Output:
        """See `engines.core.Engine`. Raises InvalidInput, also for a size without buckets, and
        EngineError once closed or where the device fails."""
        with self._lock:
            if self._closed:
                raise EngineError("the engine has been closed")
            check_batch(images, points, len(self._net.maskers))
            size = images.shape[1]
            counters: _Counters = self._counters(size)
            if any(point.glance is not None for point in points):
                return run_glances(self.infer, images, points, counters.num_units)
            return self._answer(images, points, counters)

    @property
    def device(self) -> str:
        """The GPU, as NVIDIA calls it."""
        return self._gpu.name

    def captured(self) -> tuple[Bucket, ...]:
        """Buckets whose calls are CUDA graphs by now."""
        with self._lock:
            return tuple(bucket for bucket, lane in self._lanes.items() if lane.captured)

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._gpu.use()
            for lane in self._lanes.values():
                lane.close()
            self._lanes.clear()
            self._network.close()
            self._gpu.close()

    def _answer(
        self, images: UInt8Array, points: Sequence[OperatingPoint], counters: _Counters
    ) -> Output:
        begin_s = time.perf_counter()
        wishes = wishes_of_batch(tuple(points))
        caps = np.where(wishes.caps < 0, counters.units, np.minimum(wishes.caps, counters.units))
        self._gpu.use()
        prepare_s = time.perf_counter() - begin_s
        network_s = 0.0
        probabilities = np.empty((len(images), self._net.num_classes), np.float32)
        decisions = np.ones((len(images), counters.num_units), np.bool_)
        for portion in portions(len(images), images.shape[1], self.buckets):
            begin_s = time.perf_counter()
            lane = self._lane(portion.bucket)
            here, there = slice(portion.begin, portion.end), slice(portion.end - portion.begin)
            lane.inputs[IMAGE][there] = images[here]
            if self._net.maskers:
                lane.inputs[THRESHOLDS][there] = wishes.thresholds[here]
                lane.inputs[CAPS][there] = caps[here]
            zeros(lane.inputs, portion.end - portion.begin)
            prepared_s = time.perf_counter()
            lane.run()
            probabilities[here] = lane.outputs[PROBABILITIES][there]
            if self._net.maskers:
                decisions[here] = lane.outputs[DECISIONS][there]
            done_s = time.perf_counter()
            prepare_s += prepared_s - begin_s
            network_s += done_s - prepared_s
        activation, macs, pixels = counters.counted(decisions, wishes.asked)
        return Output(
            arrays={PROBABILITIES: probabilities, DECISIONS: decisions},
            activation=activation,
            macs=macs,
            durations_s={"prepare": prepare_s, "network": network_s},
            pixels=pixels,
        )

    def _lane(self, bucket: Bucket) -> Lane:
        lane = self._lanes.get(bucket)
        if lane is None:
            maskers = len(self._net.maskers)
            shapes: dict[str, tuple[int, ...]] = {
                IMAGE: (bucket.images, bucket.image_size, bucket.image_size, 3)
            }
            if maskers:
                shapes[THRESHOLDS] = shapes[CAPS] = (bucket.images, maskers)
            lane = self._lanes[bucket] = Lane(self._gpu, self._network, bucket, shapes)
        return lane


class _Counters:
    """What was computed at one size, from decisions."""

    def __init__(self, net: ResNet, image_size: int) -> None:
        size = MapSize(image_size, image_size)
        self._macs, self._pixels = Counter(net, size), PixelCounter(net, size)
        self.units, self.num_units = self._macs.units, self._macs.num_units

    def counted(
        self, decisions: npt.NDArray[np.bool_], asked: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Activation (N, maskers), multiply-accumulates (N,) and pixels (N, blocks, 2)."""
        rates = self._pixels.active(decisions) / self.units
        pixels = self._pixels.pixels(decisions)
        macs: npt.NDArray[Any] = self._macs.macs(rates, pixels, asked)
        macs[~asked.any(axis=1)] = self._macs.static
        return rates.astype(np.float32), macs, pixels
