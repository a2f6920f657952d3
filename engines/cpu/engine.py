"""The native engine's Python face: checks arguments, calls C++, counts what was computed."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from engines.architecture import Block, MapSize, only_resnet
from engines.bundle import Bundle
from engines.closing import Closing
from engines.core import MAX_THREADS, OperatingPoint, Output, UInt8Array, check_batch
from engines.cpu import _native
from engines.cpu.counting import Counter, wishes_of_batch
from engines.cpu.shrinking import shrunk
from engines.cpu.threads import available_cpus
from engines.cpu.weights import native_tensors
from engines.errors import BundleError, EngineError, InvalidInput
from engines.glance import run_glances
from engines.manifest import PRECISIONS
from engines.quantisation import stem_border

ISA_VARIABLE = "LAUD_CPU_ISA"
_MOST_SIZES = 64


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
        net = only_resnet(manifest.architecture, f"'{bundle.path}': the cpu engine")
        if net.official_layout or not net.folded:
            raise BundleError(
                f"'{bundle.path}': the cpu engine runs networks with folded batch norm in our own "
                "layout; export this one again, or use the reference engine"
            )
        if precision is None:
            precision = "fp32" if manifest.quantisation is None else "int8"
        if precision not in PRECISIONS:
            raise InvalidInput(
                f"unknown precision '{precision}'; there are: {', '.join(PRECISIONS)}"
            )
        if threads is not None and not 1 <= threads <= MAX_THREADS:
            raise InvalidInput(f"threads must be 1 to {MAX_THREADS}, got {threads}")
        most = os.environ.get(ISA_VARIABLE, "")
        try:
            self.isa = _native.chosen_isa(precision, most)
        except ValueError as error:
            raise EngineError(f"{ISA_VARIABLE}={most}: {error}" if most else str(error)) from None
        self.precision = precision
        self.threads = available_cpus() if threads is None else threads
        try:
            self._native = _native.Engine(
                _spec(bundle, precision),
                native_tensors(bundle, precision),
                precision,
                self.isa,
                self.threads,
                poison,
            )
        except (MemoryError, RuntimeError) as error:
            raise EngineError(f"'{bundle.path}' cannot be loaded here: {error}") from None
        self._net = net
        self._counters: dict[MapSize, Counter] = {}
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
        if not images.flags.c_contiguous:
            raise InvalidInput(
                "images must be contiguous in C order (see numpy.ascontiguousarray), "
                f"got strides {images.strides}"
            )
        count = self._counter(images.shape[1], images.shape[2])
        for point in points:
            if point.glance is not None:
                if decisions is not None:
                    raise InvalidInput("decisions cannot be forced upon points that glance")
                return run_glances(self.infer, images, points, count.num_units, shrunk)
        wishes = wishes_of_batch(tuple(points))
        n, maskers = wishes.caps.shape
        forced = None if decisions is None else _forced(decisions, n, count.units)
        probabilities = np.empty((n, net.num_classes), np.float32)
        scores = np.empty((n, net.num_classes), np.float32)
        active = np.empty((n, maskers), np.int64)
        pixels = np.empty((n, len(net.blocks), 2), np.int64)
        decided = np.empty((n, count.num_units), np.uint8)
        parts = np.empty(len(net.blocks) + 2, np.float64)
        try:
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
        except MemoryError:
            raise EngineError(f"not enough memory for images of shape {images.shape}") from None
        except RuntimeError as error:
            raise EngineError(str(error)) from None
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

    def _counter(self, height: int, width: int) -> Counter:
        size = MapSize(height, width)
        found = self._counters.get(size)
        if found is None:
            # Several threads may come here at once: each ends with a counter that is right.
            if len(self._counters) >= _MOST_SIZES:
                self._counters.clear()
            found = self._counters[size] = Counter(self._net, size)
        return found

    def close(self) -> None:
        self._closed = True
        self._native.close()


def _spec(bundle: Bundle, precision: str) -> _native.NetworkSpec:
    manifest = bundle.manifest
    net, preprocessing, scales = (
        only_resnet(manifest.architecture, "the cpu engine"),
        manifest.preprocessing,
        manifest.quantisation,
    )
    inputs = [1.0] * len(net.blocks)
    output = features = 1.0
    if precision == "int8" and scales is not None:
        # A block's input has the scale of the map before it.
        outputs = [scales.trunk[block.stage] for block in net.blocks]
        inputs, output, features = [scales.stem, *outputs[:-1]], outputs[-1], scales.features
    return _native.NetworkSpec(
        stem_width=net.stem_width,
        classes=net.num_classes,
        trailing_pool=net.stem_pool == "trailing",
        stride_in_1x1=net.stride_in_1x1,
        bgr=preprocessing.channel_order == "bgr",
        mean=list(preprocessing.mean),
        std=list(preprocessing.std),
        border=[int(value) for value in stem_border(preprocessing)],
        output_scale=output,
        feature_scale=features,
        blocks=[_block_spec(*pair) for pair in zip(net.blocks, inputs, strict=True)],
    )


def _block_spec(block: Block, input_scale: float) -> _native.BlockSpec:
    return _native.BlockSpec(
        name=block.name,
        in_channels=block.in_channels,
        width=block.width,
        out_channels=block.out_channels,
        stride=block.stride,
        projection=block.projection,
        masks_space=block.paradigm.masks_space,
        patch=block.granularity.spatial or 0,
        groups=block.num_groups,
        hidden=block.channel_masker_hidden,
        input_scale=input_scale,
    )


def _forced(
    decisions: Sequence[npt.NDArray[np.bool_]], n: int, units: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint8]:
    """Decisions of all maskers side by side, (N, all units)."""
    if len(decisions) != len(units):
        raise InvalidInput(
            f"decisions must have one array per masker: {len(units)}, got {len(decisions)}"
        )
    flat = [np.asarray(array, np.bool_) for array in decisions]
    for masker, (array, count) in enumerate(zip(flat, units, strict=True)):
        if array.shape != (n, count):
            raise InvalidInput(
                f"decisions of masker {masker} must have shape ({n}, {count}), got {array.shape}"
            )
    side_by_side = np.concatenate(flat, axis=1) if flat else np.empty((n, 0), np.bool_)
    return np.ascontiguousarray(side_by_side).view(np.uint8)
