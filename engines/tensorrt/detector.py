"""The engine on an NVIDIA GPU for detectors: two programs, and the choice of objects between them.

The plan answers for all places; which of them are objects is found on the host, since how many
those are is data; the second program makes their masks, so many at a time.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.architecture import ResNet, only_resnet
from engines.bundle import Bundle
from engines.core import OperatingPoint, Output, UInt8Array
from engines.cpu.counting import wishes_of_batch
from engines.detection.architecture import (
    LEVELS,
    STRIDES,
    Detector,
    check_points,
    macs_per_object,
)
from engines.detection.objects import Objects
from engines.errors import BundleError, PlanError
from engines.tensorrt.buckets import Portion
from engines.tensorrt.choosing import chosen
from engines.tensorrt.counting import DetectorCounter
from engines.tensorrt.forms import Forms
from engines.tensorrt.gpu import Gpu
from engines.tensorrt.lanes import Lane, zeros
from engines.tensorrt.loaded import Network
from engines.tensorrt.plans import Bucket, Form, PlanManifest
from engines.tensorrt.running import DECISIONS, PlanEngine, Taken, check_inputs

BOXES, SCORES, IMAGES, MASKS = "boxes", "scores", "images", "masks"
FEATURES = tuple(f"features_{i}" for i in range(LEVELS))

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Seen:
    """Of a batch: answers of all places, by the names of the plan's outputs; the objects; and
    masks, float32 (D, M, M), M the detector's mask_size, where objects have such."""

    places: Mapping[str, Array]
    objects: Objects
    masks: Array | None


class TensorRtDetector(PlanEngine):
    """Finds objects in whole pictures; see `PlanEngine`."""

    def __init__(
        self,
        bundle: Bundle,
        manifest: PlanManifest,
        gpu: Gpu,
        network: Network,
        branches: Network | None = None,
        forms: Forms | None = None,
        masks: Network | None = None,
    ) -> None:
        """As `PlanEngine`. masks: that of the manifest's `masks`. Raises BundleError for a bundle
        that labels images, PlanError where masks are missing."""
        detector = bundle.manifest.detector
        if detector is None:
            raise BundleError(f"'{bundle.path}' finds no objects")
        super().__init__(bundle, manifest, gpu, network, branches, forms)
        if detector.masks and (masks is None or manifest.masks is None):
            raise PlanError("the plan has no mask head: build it again")
        if masks is not None:
            check_inputs(masks, {*FEATURES, BOXES, IMAGES})
        net = only_resnet(bundle.manifest.architecture, f"'{bundle.path}': a detector")
        self._net: ResNet = net
        self._detector: Detector = detector
        self._masks = masks
        self._objects = manifest.masks.objects if manifest.masks else 0
        self._mask_lanes: dict[Bucket, Lane] = {}
        self._counters = cache(lambda size: DetectorCounter(net, detector, size))

    def seen(
        self, images: UInt8Array, points: Sequence[OperatingPoint], form: Form = "blocks"
    ) -> Seen:
        """All that a call answers, for whoever compares it. Raises what `infer` raises."""
        with self._lock:
            self._check(images, points)
            parts = self._parts(images, points, self._only(form), Taken(), every=True)
        names = parts[0][1].places
        return Seen(
            {name: np.concatenate([seen.places[name] for _, seen in parts]) for name in names},
            joined(parts),
            np.concatenate([seen.masks for _, seen in parts if seen.masks is not None])
            if self._masks is not None
            else None,
        )

    def _check(self, images: UInt8Array, points: Sequence[OperatingPoint]) -> None:
        super()._check(images, points)
        check_points(points)

    def _answer(self, images: UInt8Array, points: Sequence[OperatingPoint], forms: Forms) -> Output:
        taken = Taken()
        parts = self._parts(images, points, forms, taken)
        objects, count = joined(parts), len(images)
        counts = np.bincount(objects.images, minlength=count).astype(np.int64)
        most = int(counts.max())
        # The place of an object among those of its image.
        rank = np.arange(len(objects.images)) - np.repeat(np.cumsum(counts) - counts, counts)
        arrays: dict[str, Array] = {
            "counts": counts,
            "boxes": np.zeros((count, most, 4), np.float32),
            "scores": np.zeros((count, most), np.float32),
            "labels": np.zeros((count, most), np.int64),
        }
        for name in ("boxes", "scores", "labels"):
            arrays[name][objects.images, rank] = getattr(objects, name)
        if self._masks is not None:
            side = self._detector.mask_size
            arrays["masks"] = np.zeros((count, most, side, side), np.float32)
            masks = [seen.masks for _, seen in parts if seen.masks is not None]
            arrays["masks"][objects.images, rank] = np.concatenate(masks)
        arrays[DECISIONS] = np.concatenate([seen.places[DECISIONS] for _, seen in parts])
        counter: DetectorCounter = self._counters(images.shape[1])
        counted = counter.counted(arrays[DECISIONS], wishes_of_batch(tuple(points)).asked)
        return Output(
            arrays=arrays,
            activation=counted.activation,
            macs=counted.macs + macs_per_object(self._detector) * counts,
            durations_s=taken.durations_s,
            pixels=counted.pixels,
        )

    def _parts(
        self,
        images: UInt8Array,
        points: Sequence[OperatingPoint],
        forms: Forms,
        taken: Taken,
        *,
        every: bool = False,
    ) -> list[tuple[Portion, Seen]]:
        """Bucket by bucket. every: copies of all that the plan answers, else of decisions alone."""
        counter: DetectorCounter = self._counters(images.shape[1])
        wishes = wishes_of_batch(tuple(points))
        found = []
        for portion, lane in self._runs(images, points, wishes, counter.units, forms, taken):
            begin_s = time.perf_counter()
            count = portion.end - portion.begin
            objects = chosen(
                lane.outputs[BOXES][:count], lane.outputs[SCORES][:count], self._detector
            )
            masks = None
            if self._masks is not None:
                masks = self._masked(self._mask_lane(portion.bucket, self._masks), lane, objects)
            names = lane.outputs if every else [DECISIONS] if self._maskers else []
            places = {name: lane.outputs[name][:count].copy() for name in names}
            places.setdefault(DECISIONS, np.ones((count, 0), np.bool_))
            found.append((portion, Seen(places, objects, masks)))
            taken.network_s += time.perf_counter() - begin_s
        return found

    def _masked(self, lane: Lane, dense: Lane, objects: Objects) -> Array:
        """Masks of a bucket's objects, so many at a time; places without one get no box."""
        total = len(objects.images)
        side = self._detector.mask_size
        masks = np.empty((total, side, side), np.float32)
        if not total:
            return masks
        for name in FEATURES:
            lane.inputs[name][...] = dense.outputs[name]
        given = {name: lane.inputs[name] for name in (BOXES, IMAGES)}
        for begin in range(0, total, self._objects):
            some = slice(begin, begin + self._objects)
            count = len(objects.images[some])
            given[BOXES][:count] = objects.boxes[some]
            given[IMAGES][:count] = objects.images[some]
            zeros(given, count)
            lane.run()
            masks[some] = lane.outputs[MASKS][:count]
        return masks

    def _mask_lane(self, bucket: Bucket, masks: Network) -> Lane:
        """Its memory is taken with the bucket's, not when the first object turns up."""
        lane = self._mask_lanes.get(bucket)
        if lane is None:
            width = self._detector.width
            sides = [bucket.image_size // stride for stride in STRIDES]
            shapes: dict[str, tuple[int, ...]] = {
                name: (bucket.images, width, side, side)
                for name, side in zip(FEATURES, sides, strict=True)
            }
            shapes |= {BOXES: (self._objects, 4), IMAGES: (self._objects,)}
            lane = self._mask_lanes[bucket] = Lane(self._gpu, masks, bucket, shapes)
        return lane

    def _close(self) -> None:
        for lane in self._mask_lanes.values():
            lane.close()
        self._mask_lanes.clear()
        if self._masks is not None:
            self._masks.close()
        super()._close()


def joined(parts: Sequence[tuple[Portion, Seen]]) -> Objects:
    """Objects of all portions, with the images of the batch."""
    every = [seen.objects for _, seen in parts]
    return Objects(
        images=np.concatenate([seen.objects.images + portion.begin for portion, seen in parts]),
        boxes=np.concatenate([each.boxes for each in every]),
        scores=np.concatenate([each.scores for each in every]),
        labels=np.concatenate([each.labels for each in every]),
    )
