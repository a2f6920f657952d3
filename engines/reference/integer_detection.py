"""The int8 detector in exact integers, in numpy: what every int8 kernel must equal.

As `engines.reference.integer`, one image at a time, everything computed and then masked. Dense
answers and logits of masks are exact to the last bit. Needs no torch.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from engines.architecture import MapSize, only_resnet
from engines.bundle import Bundle
from engines.caps import units_of
from engines.closing import Closing
from engines.core import Float32Array, OperatingPoint, Output, UInt8Array, check_batch
from engines.cpu.detector_weights import detector_tensors
from engines.cpu.forcing import side_by_side
from engines.cpu.weights import without_scales
from engines.detection.architecture import (
    LEVELS,
    STRIDES,
    Detector,
    LevelRates,
    check_image_size,
    executed_dense_macs,
    level_units_of,
    macs_per_object,
    pyramid_sizes,
)
from engines.detection.quantisation import TOWERS, UPS, quantise_detector
from engines.errors import BundleError, EngineError
from engines.macs import executed_macs
from engines.quantisation import SIGNED_ZERO, stem_border
from engines.reference.integer import (
    Bools,
    IntegerPass,
    Integers,
    convolve,
    expand,
    linear,
    to_bytes,
)
from engines.reference.integer_objects import Objects, choose, level_of, pool_region, sigmoid


class IntegerDetector(Closing):
    """Answers as an int8 engine must; slow. Satisfies `engines.core.Engine`; outputs are fresh."""

    name = "integer"
    precision = "int8"

    def __init__(self, bundle: Bundle) -> None:
        """Raises BundleError for a bundle that finds no objects, has no int8 scales, or whose
        tensors do not fit."""
        manifest = bundle.manifest
        if manifest.detector is None:
            raise BundleError(f"'{bundle.path}' finds no objects: its task is {manifest.task}")
        if manifest.quantisation is None:
            raise without_scales(bundle)
        self._net = only_resnet(manifest.architecture, "int8 arithmetic")
        self._detector = manifest.detector
        floats = detector_tensors(bundle, self._net, self._detector)
        layers = quantise_detector(
            self._net, self._detector, floats, manifest.quantisation, manifest.preprocessing
        )
        maskers = {name: value for name, value in floats.items() if ".masker" in name}
        self._integers = Integers(
            self._net,
            manifest.quantisation,
            layers,
            maskers,
            stem_border(manifest.preprocessing),
        )
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
        """See `engines.core.Engine`, and `engines.cpu.detector.CpuDetector` for decisions, active
        and tell_places. Raises InvalidInput, or EngineError once closed."""
        if self._closed:
            raise EngineError("the engine has been closed")
        detector = self._detector
        check_batch(images, points, len(self._net.maskers) + detector.num_maskers)
        size = images.shape[1]
        check_image_size(size)
        if decisions is not None:
            of_levels = level_units_of(self._net, detector, MapSize(size, size))
            units = [*units_of(self._net, size).tolist(), *of_levels]
            side_by_side(decisions, len(images), units)
        begin = time.perf_counter()
        passes = [
            _Pass(
                self._integers,
                detector,
                image,
                point,
                None if decisions is None else [each[i] for each in decisions],
                None if active is None else active[i],
            )
            for i, (image, point) in enumerate(zip(images, points, strict=True))
        ]
        counts = np.array([len(one.objects.scores) for one in passes], np.int64)
        most = int(counts.max())
        arrays: dict[str, npt.NDArray[np.generic]] = {
            "counts": counts,
            "boxes": _filled([one.objects.boxes for one in passes], most),
            "scores": _filled([one.objects.scores for one in passes], most),
            "labels": _filled([one.objects.labels for one in passes], most),
            "decisions": np.stack([one.decisions for one in passes]),
        }
        if detector.masks:
            arrays["masks"] = _filled([one.masks for one in passes], most)
        if tell_places:
            arrays["places"] = np.stack([np.concatenate(one.answers) for one in passes])
        return Output(
            arrays=arrays,
            activation=np.array([one.activation for one in passes], np.float32).reshape(
                len(points), len(self._net.maskers) + detector.num_maskers
            ),
            macs=np.array([one.macs for one in passes]) + macs_per_object(detector) * counts,
            durations_s={"prepare": 0.0, "network": time.perf_counter() - begin},
        )

    def close(self) -> None:
        self._closed = True


class _Pass:
    """One image through the network; afterwards what it found and what that took."""

    def __init__(
        self,
        integers: Integers,
        detector: Detector,
        image: UInt8Array,
        point: OperatingPoint,
        decisions: Sequence[Bools] | None,
        active: Bools | None,
    ) -> None:
        net, size = integers.net, MapSize(*image.shape[:2])
        self._layers, self._detector = integers.layers, detector
        self._num_labels = net.num_classes
        sizes = pyramid_sizes(net, size)
        backbone = IntegerPass(integers, size, point, decisions)
        maps = backbone.run(image)
        pixels = [np.ones((each.height, each.width), bool) for each in sizes]
        asked = [0.0] * LEVELS
        for level, patch in enumerate(detector.level_patches or ()):
            look, window = detector.looks[level], detector.windows[level]
            scale, name = integers.scales.trunk[look], f"pyramid.masker.{level}"
            logits = backbone.patch_logits(maps[look], scale, window, name)
            units, asked[level] = backbone.decide(logits)
            pixels[level] = expand(units, sizes[level].patches(patch), patch, sizes[level])
        if active is not None:
            ends = np.cumsum([each.area for each in sizes])[:-1]
            flat = np.split(active.astype(bool), ends)
            pixels = [f.reshape(p.shape) for f, p in zip(flat, pixels, strict=True)]
        features = self._pyramid(maps, pixels)
        self.answers = [self._heads(*each) for each in zip(features, pixels, strict=True)]
        widths = [each.width for each in sizes]
        self.objects: Objects = choose(self.answers, widths, size.width, self._num_labels, detector)
        count, side = len(self.objects.scores), detector.mask_size
        self.masks = np.zeros((count, side, side), np.float32)
        if detector.masks:
            for i, box in enumerate(self.objects.boxes):
                level = level_of(box)
                region = pool_region(features[level], box, STRIDES[level], detector.roi_size)
                self.masks[i] = self._mask(region)
        self.activation, self.decisions = backbone.activation, backbone.decided()
        levels = [LevelRates(p.mean(), a) for p, a in zip(pixels, asked, strict=True)]
        network = executed_macs(net, size, backbone.rates)
        self.macs: float = executed_dense_macs(net, detector, size, network, levels)

    def _pyramid(self, maps: Sequence[UInt8Array], pixels: Sequence[Bools]) -> list[UInt8Array]:
        features: list[UInt8Array] = []
        above: UInt8Array | None = None
        for level in reversed(range(LEVELS)):
            layer = self._layers[f"pyramid.inner.{level}"]
            y = linear(convolve(maps[level], layer), layer)
            if above is not None:
                coarse = above.repeat(2, axis=0).repeat(2, axis=1).astype(np.float32)
                y = y + coarse * np.float32(layer.residual)
            above = to_bytes(y)
            whole = self._three(above, f"pyramid.outer.{level}", SIGNED_ZERO)
            features.insert(0, _where(pixels[level], to_bytes(whole), SIGNED_ZERO))
        return features

    def _heads(self, features: UInt8Array, pixels: Bools) -> Float32Array:
        """Dense answers (places, labels + 5) of a level."""
        found: dict[str, Float32Array] = {}
        for tower in TOWERS:
            x, zero = features, SIGNED_ZERO
            for i in range(self._detector.head_convs):
                y = to_bytes(self._three(x, f"head.{tower}.{i}", zero))
                x, zero = _where(pixels, y, 0), 0
            found[tower] = self._three(x, f"head.{tower}.out", zero)
        classes, boxes = found["classes"], found["boxes"]
        boxes[..., :4] = np.maximum(boxes[..., :4], np.float32(0))
        classes[~pixels], boxes[~pixels] = -np.inf, 0
        return np.concatenate([classes, boxes], axis=2).reshape(-1, self._num_labels + 5)

    def _mask(self, region: UInt8Array) -> Float32Array:
        x, zero = region, SIGNED_ZERO
        for i in range(self._detector.mask_convs):
            x, zero = to_bytes(self._three(x, f"mask.{i}", zero)), 0
        size, side = self._detector.roi_size, self._detector.mask_size
        whole = np.empty((side, side), np.float32)
        last = self._layers["mask.out"]
        for i in range(UPS):
            layer = self._layers[f"mask.up.{i}"]
            up = to_bytes(linear(convolve(x, layer), layer))
            logits = linear(convolve(up, last), last).reshape(size, size)
            whole[i // 2 :: 2, i % 2 :: 2] = logits
        return sigmoid(whole)

    def _three(self, x: UInt8Array, name: str, zero: int) -> Float32Array:
        """A 3x3 over a map around which lies `zero`."""
        layer = self._layers[name]
        framed = np.pad(x, ((1, 1), (1, 1), (0, 0)), constant_values=zero)
        return linear(convolve(framed, layer), layer)


def _where(pixels: Bools, x: UInt8Array, zero: int) -> UInt8Array:
    return np.where(pixels[:, :, np.newaxis], x, np.uint8(zero))


def _filled(parts: Sequence[npt.NDArray[np.generic]], most: int) -> npt.NDArray[np.generic]:
    """One row of `most` places for each image, zeros behind its own."""
    filled = np.zeros((len(parts), most, *parts[0].shape[1:]), parts[0].dtype)
    for row, part in zip(filled, parts, strict=True):
        row[: len(part)] = part
    return filled
