"""The native engine for detectors: from pixels to boxes and masks without torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.architecture import MapSize, ResNet
from engines.bundle import Bundle
from engines.closing import Closing
from engines.core import OperatingPoint, Output, UInt8Array, check_batch
from engines.cpu import _native
from engines.cpu.counting import Counters, Float64Array, Int64Array, Wishes, wishes_of_batch
from engines.cpu.detector_weights import native_detector_tensors
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
from engines.detection.architecture import (
    CANDIDATES_PER_LEVEL,
    LEVEL_UNITS,
    LEVELS,
    MOST_DETECTIONS,
    Detector,
    LevelRates,
    check_points,
    executed_dense_macs,
    level_units_of,
    macs_per_object,
    pyramid_sizes,
)
from engines.errors import BundleError, EngineError, InvalidInput
from engines.manifest import Manifest


class CpuDetector(Closing):
    """Finds objects in whole pictures of any size that is a multiple of STRIDE.

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

        threads, precision, poison and LAUD_CPU_ISA: as for `engines.cpu.engine.CpuEngine`. Raises
        BundleError when the bundle finds no objects, is not folded, its tensors do not fit, or int8
        is asked and it has no scales; InvalidInput for another precision; EngineError when it
        cannot run here.
        """
        manifest, net = bundle.manifest, runnable(bundle)
        if manifest.detector is None:
            raise BundleError(f"'{bundle.path}' finds no objects: its task is {manifest.task}")
        self.precision = chosen_precision(manifest, precision)
        self.isa, self.threads = choose(self.precision, threads)
        with loading(bundle):
            self._native = _native.DetectorEngine(
                _spec(net, manifest, manifest.detector, self.precision),
                native_detector_tensors(bundle, net, manifest.detector, self.precision),
                self.precision,
                self.isa,
                self.threads,
                poison,
            )
        self._net, self._detector = net, manifest.detector
        self._counters = Counters(net)
        self._closed = False

    def infer(
        self,
        images: UInt8Array,
        points: Sequence[OperatingPoint],
        decisions: Sequence[npt.NDArray[np.bool_]] | None = None,
        *,
        active: npt.NDArray[np.bool_] | None = None,
        tell_places: bool = False,
    ) -> Output:
        """See `engines.core.Engine`. Raises InvalidInput, or EngineError once closed or forked.

        decisions, for tests and evaluation: as `CpuEngine.infer` takes them, the backbone's maskers
        first. The output has `decisions` too.

        For tests and benchmarks there are two more. active: bool (N, places), levels side by side,
        the finest first; holds whatever the levels' maskers decide, which are still evaluated.
        Elsewhere the pyramid and every layer of the heads are zero, and no object is found.
        tell_places: the output also has `places`, float32 (N, places, labels + 5): class logits,
        four distances in units, the centre's logit.
        """
        if self._closed:
            raise EngineError("the engine has been closed")
        net, detector = self._net, self._detector
        own = len(net.maskers)
        check_batch(images, points, own + detector.num_maskers)
        check_contiguous(images)
        check_points(points)
        n, size = len(images), MapSize(*images.shape[1:3])
        places = sum(each.area for each in pyramid_sizes(net, size))
        flags = None if active is None else _flags(active, n, places)
        count = self._counters.of(size.height, size.width)
        grids = level_units_of(net, detector, size)
        forced: npt.NDArray[np.uint8] | None = None
        level_forced: npt.NDArray[np.uint8] | None = None
        if decisions is not None:
            given = side_by_side(decisions, n, [*count.units.tolist(), *grids])
            forced = np.ascontiguousarray(given[:, : count.num_units])
            level_forced = np.ascontiguousarray(given[:, count.num_units :])
        wishes = wishes_of_batch(tuple(points))
        with running(images.shape):
            counts = np.zeros(n, np.int64)
            # Masks of all that there may be take address space, and memory where they are written.
            filled: dict[str, npt.NDArray[Any]] = {
                "boxes": np.empty((n, MOST_DETECTIONS, 4), np.float32),
                "scores": np.empty((n, MOST_DETECTIONS), np.float32),
                "labels": np.empty((n, MOST_DETECTIONS), np.int64),
            }
            if detector.masks:
                shape = (n, MOST_DETECTIONS, detector.mask_size, detector.mask_size)
                filled["masks"] = np.empty(shape, np.float32)
            told = np.empty((n, places, net.num_classes + 5), np.float32) if tell_places else None
            active_units = np.empty((n, own), np.int64)
            decided = np.empty((n, count.num_units), np.uint8)
            level_units = np.empty((n, detector.num_maskers), np.int64)
            level_decided = np.empty((n, sum(grids)), np.uint8)
            level_pixels = np.empty((n, LEVELS), np.int64)
            pixels = np.empty((n, len(net.blocks), 2), np.int64)
            parts = np.empty(len(net.blocks) + 5, np.float64)
            prepare, network = self._native.infer(
                images,
                wishes.thresholds,
                wishes.caps,
                forced,
                level_forced,
                flags,
                counts,
                filled["boxes"],
                filled["scores"],
                filled["labels"],
                filled.get("masks"),
                told,
                active_units,
                pixels,
                decided,
                level_units,
                level_decided,
                level_pixels,
                parts,
            )
            arrays = {name: _cut(array, counts) for name, array in filled.items()}
            arrays["decisions"] = np.concatenate([decided, level_decided], axis=1).view(np.bool_)
        rates, macs = self._counted(size, wishes, active_units, pixels, level_units, level_pixels)
        if told is not None:
            arrays["places"] = told
        return Output(
            arrays={"counts": counts, **arrays},
            activation=rates.astype(np.float32),
            macs=macs + macs_per_object(detector) * counts,
            durations_s={"prepare": prepare, "network": network},
            parts_s=parts,
            pixels=pixels,
        )

    def _counted(
        self,
        image: MapSize,
        wishes: Wishes,
        units: Int64Array,
        pixels: Int64Array,
        level_units: Int64Array,
        level_pixels: Int64Array,
    ) -> tuple[Float64Array, Float64Array]:
        """Activation rates (N, maskers), and multiply-accumulates before any choice (N,)."""
        net, detector, own = self._net, self._detector, units.shape[1]
        sizes = pyramid_sizes(net, image)
        grids = level_units_of(net, detector, image)
        counter = self._counters.of(image.height, image.width)
        rates = units / counter.units
        network = counter.macs(rates, pixels, wishes.asked[:, :own])
        levels = [
            LevelRates(level_pixels[:, i] / each.area, wishes.asked[:, own + i] if grids else 0.0)
            for i, each in enumerate(sizes)
        ]
        macs: Float64Array = executed_dense_macs(net, detector, image, network, levels)
        return np.concatenate([rates, level_units / np.array(grids, np.int64)], axis=1), macs

    def close(self) -> None:
        self._closed = True
        self._native.close()


def _spec(
    net: ResNet, manifest: Manifest, detector: Detector, precision: str
) -> _native.DetectorSpec:
    ends = {block.stage: i for i, block in enumerate(net.blocks)}
    scales = manifest.quantisation if precision == "int8" else None
    return _native.DetectorSpec(
        backbone=backbone_spec(net, manifest, precision),
        lasts=[ends[stage] for stage in sorted(ends)],
        units=list(LEVEL_UNITS),
        patches=list(detector.level_patches or ()),
        looks=list(detector.looks),
        scales=[1.0] * LEVELS if scales is None else list(scales.trunk),
        labels=net.num_classes,
        width=detector.width,
        head_convs=detector.head_convs,
        mask_convs=detector.mask_convs if detector.masks else 0,
        region=detector.roi_size,
        overlap=detector.overlap,
        least_score=detector.least_score,
        candidates=CANDIDATES_PER_LEVEL,
        most=MOST_DETECTIONS,
    )


def _flags(active: npt.NDArray[np.bool_], n: int, places: int) -> npt.NDArray[np.uint8]:
    flags = np.ascontiguousarray(active, np.bool_)
    if flags.shape != (n, places):
        raise InvalidInput(f"active must have shape ({n}, {places}), got {flags.shape}")
    return flags.view(np.uint8)


def _cut(array: npt.NDArray[Any], counts: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """As many objects as any image has, zeros behind an image's own."""
    found = np.zeros((len(array), int(counts.max()), *array.shape[2:]), array.dtype)
    for i, count in enumerate(counts.tolist()):
        found[i, :count] = array[i, :count]
    return found
