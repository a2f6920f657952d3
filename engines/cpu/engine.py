"""The native engine's Python face: checks arguments, calls C++, counts what was computed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from engines.architecture import ResNet
from engines.bundle import Bundle
from engines.closing import Closing
from engines.core import OperatingPoint, Output, UInt8Array, check_batch
from engines.cpu import _native
from engines.cpu.counting import Counters, wishes_of_batch
from engines.cpu.forcing import side_by_side
from engines.cpu.loading import (
    backbone_spec,
    check_contiguous,
    choose,
    chosen_precision,
    loading,
    runnable,
    running,
)
from engines.cpu.shrinking import shrunk
from engines.cpu.weights import native_tensors
from engines.errors import EngineError, InvalidInput
from engines.glance import run_glances
from engines.manifest import Manifest


class CpuEngine(Closing):
    """Runs a folded network, computing only what is active.

    Calls from several threads run one after another. In a process forked after loading, `infer`
    raises EngineError: threads do not survive a fork. Outputs are fresh.
    """

    name = "cpu"

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int | None = None,
        precision: str | None = None,
        poison: bool = False,
    ) -> None:
        """Pack the bundle's weights.

        threads: None means every CPU this process may use. precision: one of PRECISIONS; None means
        int8 where the bundle has scales for it, else fp32. poison: for tests, fill scratch memory
        with NaN before every call and check guard zones after it. The environment's LAUD_CPU_ISA
        names the best instruction set to use. Raises BundleError when the bundle is not folded, its
        tensors do not fit or it lacks scales; InvalidInput for an unknown precision; EngineError
        when it cannot run here.
        """
        manifest = bundle.manifest
        net = runnable(bundle)
        precision = chosen_precision(manifest, precision)
        self.isa, self.threads = choose(precision, threads)
        self.precision = precision
        with loading(bundle):
            self._native = _native.Engine(
                _spec(net, manifest, precision),
                native_tensors(bundle, precision),
                precision,
                self.isa,
                self.threads,
                poison,
            )
        self._net = net
        self._counters = Counters(net)
        self._closed = False

    def infer(
        self,
        images: UInt8Array,
        points: Sequence[OperatingPoint],
        decisions: Sequence[npt.NDArray[np.bool_]] | None = None,
    ) -> Output:
        """See `engines.core.Engine`. Raises InvalidInput, or EngineError once closed or forked.

        decisions: for tests and benchmarks, (N, units) per masker; holds for every masker, whatever
        the points ask. Maskers that they ask are still evaluated. The output also has `scores`, the
        logits (N, classes), and `decisions`, bool (N, units of all maskers side by side).
        """
        if self._closed:
            raise EngineError("the engine has been closed")
        net = self._net
        check_batch(images, points, len(net.maskers))
        check_contiguous(images)
        count = self._counters.of(images.shape[1], images.shape[2])
        for point in points:
            if point.glance is not None:
                if decisions is not None:
                    raise InvalidInput("decisions cannot be forced upon points that glance")
                return run_glances(self.infer, images, points, count.num_units, shrunk)
        wishes = wishes_of_batch(tuple(points))
        n, maskers = wishes.caps.shape
        forced = None
        if decisions is not None:
            forced = side_by_side(decisions, n, count.units.tolist())
        probabilities = np.empty((n, net.num_classes), np.float32)
        scores = np.empty((n, net.num_classes), np.float32)
        active = np.empty((n, maskers), np.int64)
        pixels = np.empty((n, len(net.blocks), 2), np.int64)
        decided = np.empty((n, count.num_units), np.uint8)
        parts = np.empty(len(net.blocks) + 2, np.float64)
        with running(images.shape):
            prepare, network = self._native.infer(
                images,
                wishes.thresholds,
                wishes.caps,
                forced,
                probabilities,
                scores,
                active,
                pixels,
                decided,
                parts,
            )
        if forced is None and not wishes.any:
            activation, macs = np.ones((n, maskers), np.float32), np.full(n, count.static)
        else:
            rates = active / count.units
            activation, macs = rates.astype(np.float32), count.macs(rates, pixels, wishes.asked)
        return Output(
            arrays={
                "probabilities": probabilities,
                "scores": scores,
                "decisions": decided.view(np.bool_),
            },
            activation=activation,
            macs=macs,
            durations_s={"prepare": prepare, "network": network},
            parts_s=parts,
            pixels=pixels,
        )

    def close(self) -> None:
        self._closed = True
        self._native.close()


def _spec(net: ResNet, manifest: Manifest, precision: str) -> _native.NetworkSpec:
    scales = manifest.quantisation if precision == "int8" else None
    return _native.NetworkSpec(
        backbone=backbone_spec(net, manifest, precision),
        classes=net.num_classes,
        output_scale=1.0 if scales is None else scales.trunk[net.blocks[-1].stage],
        feature_scale=1.0 if scales is None or scales.features is None else scales.features,
    )
