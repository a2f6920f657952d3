"""What engines of plans share: buckets, forms, memory, and who may call when."""

from __future__ import annotations

import threading
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engines.bundle import Bundle
from engines.closing import Closing
from engines.core import OperatingPoint, Output, UInt8Array, check_batch
from engines.cpu.counting import Wishes
from engines.errors import EngineError, PlanError
from engines.glance import Infer
from engines.tensorrt.buckets import Portion, portions
from engines.tensorrt.forms import Forms
from engines.tensorrt.gpu import Gpu
from engines.tensorrt.lanes import Lane, zeros
from engines.tensorrt.loaded import Network
from engines.tensorrt.plans import ENGINE, Bucket, Form, PlanManifest

IMAGE, THRESHOLDS, CAPS = "image", "thresholds", "caps"
DECISIONS = "decisions"


@dataclass
class Taken:
    """Seconds of a call so far."""

    prepare_s: float = 0.0
    network_s: float = 0.0

    @property
    def durations_s(self) -> dict[str, float]:
        """As an output has them."""
        return {"prepare": self.prepare_s, "network": self.network_s}


class PlanEngine(Closing):
    """Runs a plan in its buckets. Calls from several threads run one after another; outputs are
    fresh. A bucket takes its memory at its first call and keeps it.

    Within one bucket an image's answer does not depend on its mates or its place. Another bucket
    may have other kernels, which add in another order. An image that runs in a bucket of one (a
    call of one, or what is left of a larger batch) takes the form that `forms` names for its point,
    the same for as long as the engine lives.
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
        of another bundle."""
        if manifest.bundle != bundle.hash:
            raise PlanError(
                f"the plan is of bundle {manifest.name} ({manifest.bundle[:12]}), not of "
                f"{bundle.manifest.name} ({bundle.hash[:12]}); build it again: "
                f"laud build {bundle.ref}"
            )
        self._maskers = len(bundle.manifest.full.point.thresholds)
        networks: dict[Form, Network] = {"blocks": network}
        self._alone: dict[int, Bucket] = {}
        if branches is not None and manifest.branches is not None:
            networks["branches"] = branches
            self._alone = {each.image_size: each for each in manifest.branches.buckets}
        for each in networks.values():
            check_inputs(each, {IMAGE, THRESHOLDS, CAPS} if self._maskers else {IMAGE})
        self.precision = manifest.precision
        # By which a latency table knows its plan.
        self.programs = manifest.programs
        self.buckets = manifest.buckets
        self.forms = forms or Forms()
        self._gpu, self._networks = gpu, networks
        self._lanes: dict[tuple[Form, Bucket], Lane] = {}
        self._lock = threading.RLock()
        self._closed = False

    def infer(self, images: UInt8Array, points: Sequence[OperatingPoint]) -> Output:
        """See `engines.core.Engine`. Raises InvalidInput, also for a size without buckets, and
        EngineError once closed or where the device fails."""
        return self._infer(images, points, self.forms)

    def in_form(self, form: Form) -> Infer:
        """`infer` with that form for every image that runs in a bucket of one, for whoever compares
        the two. Raises EngineError for branches where none were loaded."""
        forms = self._only(form)
        return lambda images, points: self._infer(images, points, forms)

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
            self._close()
            self._gpu.close()

    @abstractmethod
    def _answer(self, images: UInt8Array, points: Sequence[OperatingPoint], forms: Forms) -> Output:
        """Of a batch that was checked."""

    def _infer(self, images: UInt8Array, points: Sequence[OperatingPoint], forms: Forms) -> Output:
        with self._lock:
            self._check(images, points)
            return self._answer(images, points, forms)

    def _check(self, images: UInt8Array, points: Sequence[OperatingPoint]) -> None:
        if self._closed:
            raise EngineError("the engine has been closed")
        check_batch(images, points, self._maskers)

    def _only(self, form: Form) -> Forms:
        if form not in self._networks:
            raise EngineError("the engine has no branches: they were not built, or not loaded")
        return Forms(otherwise=form)

    def _close(self) -> None:
        """What this holds on the device."""
        for lane in self._lanes.values():
            lane.close()
        self._lanes.clear()
        for network in self._networks.values():
            network.close()

    def _runs(
        self,
        images: UInt8Array,
        points: Sequence[OperatingPoint],
        wishes: Wishes,
        units: npt.NDArray[np.int64],
        forms: Forms,
        taken: Taken,
    ) -> Iterator[tuple[Portion, Lane]]:
        """Runs a batch bucket by bucket; a lane's outputs hold until the next step.

        units: of every masker at this size, which stand for a cap that is absent.
        """
        begin_s = time.perf_counter()
        caps = np.where(wishes.caps < 0, units, np.minimum(wishes.caps, units))
        self._gpu.use()
        taken.prepare_s += time.perf_counter() - begin_s
        for portion in portions(len(images), images.shape[1], self.buckets):
            begin_s = time.perf_counter()
            lane = self._lane(portion.bucket, forms(points[portion.begin].name))
            here, there = slice(portion.begin, portion.end), slice(portion.end - portion.begin)
            lane.inputs[IMAGE][there] = images[here]
            if self._maskers:
                lane.inputs[THRESHOLDS][there] = wishes.thresholds[here]
                lane.inputs[CAPS][there] = caps[here]
            zeros(lane.inputs, portion.end - portion.begin)
            prepared_s = time.perf_counter()
            lane.run()
            taken.prepare_s += prepared_s - begin_s
            taken.network_s += time.perf_counter() - prepared_s
            yield portion, lane

    def _lane(self, bucket: Bucket, alone: Form) -> Lane:
        """alone: the form that the bucket runs in where it takes one image."""
        form: Form = "blocks"
        if bucket.images == 1 and alone == "branches" and bucket.image_size in self._alone:
            form, bucket = alone, self._alone[bucket.image_size]
        lane = self._lanes.get((form, bucket))
        if lane is None:
            shapes: dict[str, tuple[int, ...]] = {
                IMAGE: (bucket.images, bucket.image_size, bucket.image_size, 3)
            }
            if self._maskers:
                shapes[THRESHOLDS] = shapes[CAPS] = (bucket.images, self._maskers)
            lane = self._lanes[form, bucket] = Lane(
                self._gpu, self._networks[form], bucket, shapes, captures=form == "blocks"
            )
        return lane


def check_inputs(network: Network, wanted: set[str]) -> None:
    """Raise PlanError where a program takes other inputs, by their names."""
    if set(network.inputs) != wanted:
        raise PlanError(
            f"the plan's inputs are {', '.join(sorted(network.inputs))} instead of "
            f"{', '.join(sorted(wanted))}: build it again"
        )
