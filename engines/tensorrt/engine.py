"""The engine on an NVIDIA GPU: a bundle's plan behind the protocol of all engines."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from functools import cache

import numpy as np

from engines.architecture import RegNet, ResNet
from engines.bundle import Bundle, classifier
from engines.closing import Closing
from engines.core import OperatingPoint, Output, UInt8Array, check_batch
from engines.cpu.counting import wishes_of_batch
from engines.errors import EngineError, PlanError
from engines.glance import Infer, run_glances
from engines.tensorrt.buckets import portions
from engines.tensorrt.counting import DecisionCounter
from engines.tensorrt.forms import Forms
from engines.tensorrt.gpu import Gpu
from engines.tensorrt.lanes import Lane, zeros
from engines.tensorrt.loaded import Network
from engines.tensorrt.plans import ENGINE, Bucket, Form, PlanManifest

IMAGE, THRESHOLDS, CAPS = "image", "thresholds", "caps"
PROBABILITIES, DECISIONS = "probabilities", "decisions"


def runnable(bundle: Bundle) -> ResNet | RegNet:
    """Its network, where the engine runs such. Raises BundleError."""
    return classifier(bundle, "the tensorrt engine").manifest.architecture


class TensorRtEngine(Closing):
    """Runs a plan in its buckets. Calls from several threads run one after another; outputs are
    fresh. A bucket takes its memory at its first call and keeps it.

    Within one bucket an image's answer does not depend on its mates or its place. Another bucket
    may have other kernels, which add in another order. An image that is alone in its call takes
    the form that `forms` names for its point, the same for as long as the engine lives.
    """

    name = ENGINE

    def __init__(
        self,
        bundle: Bundle,
        manifest: PlanManifest,
        gpu: Gpu,
        network: Network,
        branches: Network | None = None,
        forms: Forms | None = None,
    ) -> None:
        """Takes `gpu` and the networks over. branches: that of the manifest's `branches`; without
        it all calls take block kernels. forms: None for those. Raises PlanError where the plan is
        of another bundle, BundleError where the bundle is nothing that plans are made of."""
        net = runnable(bundle)
        if manifest.bundle != bundle.hash:
            raise PlanError(
                f"the plan is of bundle {manifest.name} ({manifest.bundle[:12]}), not of "
                f"{bundle.manifest.name} ({bundle.hash[:12]}); build it again: "
                f"laud build {bundle.ref}"
            )
        wanted = {IMAGE, THRESHOLDS, CAPS} if net.maskers else {IMAGE}
        networks: dict[Form, Network] = {"blocks": network}
        self._alone: dict[int, Bucket] = {}
        if branches is not None and manifest.branches is not None:
            networks["branches"] = branches
            self._alone = {each.image_size: each for each in manifest.branches.buckets}
        for each in networks.values():
            if set(each.inputs) != wanted:
                raise PlanError(
                    f"the plan's inputs are {', '.join(sorted(each.inputs))} instead of "
                    f"{', '.join(sorted(wanted))}: build it again"
                )
        self.precision = manifest.precision
        # By which a latency table knows its plan.
        self.programs = manifest.programs
        self.buckets = manifest.buckets
        self.forms = forms or Forms()
        self._net, self._gpu, self._networks = net, gpu, networks
        self._lanes: dict[tuple[Form, Bucket], Lane] = {}
        self._lock = threading.RLock()
        self._closed = False
        # Of a size, all that counting needs.
        self._counters = cache(lambda size: DecisionCounter(net, size))

    def infer(self, images: UInt8Array, points: Sequence[OperatingPoint]) -> Output:
        """See `engines.core.Engine`. Raises InvalidInput, also for a size without buckets, and
        EngineError once closed or where the device fails."""
        return self._infer(images, points, self.forms)

    def in_form(self, form: Form) -> Infer:
        """`infer` with that form for every image that is alone in its call, for whoever compares
        the two. Raises EngineError for branches where none were loaded."""
        if form not in self._networks:
            raise EngineError("the engine has no branches: they were not built, or not loaded")
        forms = Forms(otherwise=form)
        return lambda images, points: self._infer(images, points, forms)

    def _infer(self, images: UInt8Array, points: Sequence[OperatingPoint], forms: Forms) -> Output:
        with self._lock:
            if self._closed:
                raise EngineError("the engine has been closed")
            check_batch(images, points, len(self._net.maskers))
            size = images.shape[1]
            counters: DecisionCounter = self._counters(size)
            if any(point.glance is not None for point in points):
                return run_glances(
                    lambda some, looks: self._infer(some, looks, forms),
                    images,
                    points,
                    counters.num_units,
                )
            return self._answer(images, points, counters, forms)

    @property
    def device(self) -> str:
        """The GPU, as NVIDIA calls it."""
        return self._gpu.name

    def captured(self) -> tuple[Bucket, ...]:
        """Buckets whose calls are CUDA graphs by now. Branches never are: their conditions are read
        on the host."""
        with self._lock:
            return tuple(bucket for (_, bucket), lane in self._lanes.items() if lane.captured)

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._gpu.use()
            for lane in self._lanes.values():
                lane.close()
            self._lanes.clear()
            for network in self._networks.values():
                network.close()
            self._gpu.close()

    def _answer(
        self,
        images: UInt8Array,
        points: Sequence[OperatingPoint],
        counters: DecisionCounter,
        forms: Forms,
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
            lane = self._lane(portion.bucket, forms(points[portion.begin].name))
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

    def _lane(self, bucket: Bucket, alone: Form) -> Lane:
        """alone: the form that the bucket runs in where it takes one image."""
        form: Form = "blocks"
        if bucket.images == 1 and alone == "branches" and bucket.image_size in self._alone:
            form, bucket = alone, self._alone[bucket.image_size]
        lane = self._lanes.get((form, bucket))
        if lane is None:
            maskers = len(self._net.maskers)
            shapes: dict[str, tuple[int, ...]] = {
                IMAGE: (bucket.images, bucket.image_size, bucket.image_size, 3)
            }
            if maskers:
                shapes[THRESHOLDS] = shapes[CAPS] = (bucket.images, maskers)
            lane = self._lanes[form, bucket] = Lane(
                self._gpu, self._networks[form], bucket, shapes, captures=form == "blocks"
            )
        return lane
