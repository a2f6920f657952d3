"""The int8 network in exact integers, in numpy: what every int8 kernel must equal bit for bit.

One image at a time, everything computed and then masked, like the float reference. Sums are
integers below 2^53, so float64 matrix products hold them exactly; everything else is float32, one
rounding per operation. Maps are uint8 (H, W, C). Needs no torch.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.architecture import Block, MapSize, ResNet, only_resnet
from engines.bundle import BlockScales, Bundle, Quantisation
from engines.caps import units_of
from engines.closing import Closing
from engines.core import Float32Array, OperatingPoint, Output, UInt8Array, check_batch
from engines.errors import BundleError, CheckpointError, EngineError, InvalidInput
from engines.glance import run_glances
from engines.macs import BlockRates, executed_macs, masker_units
from engines.quantisation import (
    SKIPPED,
    QuantisedLayer,
    quantise_network,
    stem_border,
)

Decisions = Sequence[npt.NDArray[Any]]
"""Per masker, in order: uint8 or bool (N, units), what is active whatever the masker says."""

_LANES = 16
_CLIP = np.float32(5.0)
Bools = npt.NDArray[np.bool_]
_Integers = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Integers:
    """A backbone's arithmetic: its layers by name, the float tensors of its maskers, and what lies
    around an image."""

    net: ResNet
    scales: Quantisation
    layers: Mapping[str, QuantisedLayer]
    maskers: Mapping[str, Float32Array]
    border: UInt8Array


class IntegerReference(Closing):
    """Answers as an int8 engine must; slow. Satisfies `engines.core.Engine`; outputs are fresh."""

    name = "integer"
    precision = "int8"

    def __init__(self, bundle: Bundle) -> None:
        """Raises BundleError for a bundle without int8 scales, CheckpointError for tensors that
        are missing or not finite."""
        manifest = bundle.manifest
        scales = manifest.quantisation
        if scales is None:
            raise BundleError(f"'{bundle.path}' has no int8 scales")
        self._net = only_resnet(manifest.architecture, "int8 arithmetic")
        layers = quantise_network(self._net, bundle.weights, scales, manifest.preprocessing)
        maskers = {
            name: np.asarray(value, np.float32)
            for name, value in bundle.weights.items()
            if ".masker_" in name
        }
        for name, value in maskers.items():
            if not np.isfinite(value).all():
                raise CheckpointError(f"'{name}' has values that are not finite numbers")
        border = stem_border(manifest.preprocessing)
        self._integers = Integers(self._net, scales, layers, maskers, border)
        self._closed = False

    def infer(
        self,
        images: UInt8Array,
        points: Sequence[OperatingPoint],
        decisions: Decisions | None = None,
    ) -> Output:
        """See `engines.core.Engine`; arrays also has `scores`, float32 (N, classes), and
        `decisions`, bool (N, units of all maskers).

        decisions: replace those of the maskers. Raises InvalidInput, or EngineError once closed.
        """
        if self._closed:
            raise EngineError("the engine has been closed")
        check_batch(images, points, len(self._net.maskers))
        size = MapSize(images.shape[1], images.shape[2])
        if any(point.glance for point in points):
            if decisions is not None:
                raise InvalidInput("decisions cannot be forced upon points that glance")
            units = int(units_of(self._net, images.shape[1]).sum())
            return run_glances(self.infer, images, points, units)
        if decisions is not None:
            _check_decisions(decisions, self._net, size, len(points))
        begin = time.perf_counter()
        passes = [
            IntegerPass(
                self._integers,
                size,
                point,
                None if decisions is None else [d[i] for d in decisions],
            )
            for i, point in enumerate(points)
        ]
        scores = np.stack(
            [self._scores(one, image) for one, image in zip(passes, images, strict=True)]
        )
        return Output(
            arrays={
                "probabilities": _softmax(scores),
                "scores": scores,
                "decisions": np.stack([one.decided() for one in passes]),
            },
            activation=np.array([one.activation for one in passes], np.float32).reshape(
                len(points), len(self._net.maskers)
            ),
            macs=np.array([executed_macs(self._net, size, one.rates) for one in passes]),
            durations_s={"prepare": 0.0, "network": time.perf_counter() - begin},
        )

    def close(self) -> None:
        self._closed = True

    def _scores(self, one: IntegerPass, image: UInt8Array) -> Float32Array:
        """(classes,)."""
        scales = self._integers.scales
        x, features = one.run(image)[-1], scales.features
        if features is None:
            raise InvalidInput("the scale 'features' of what enters the classifier is missing")
        total = x.astype(np.int64).sum(axis=(0, 1))
        gain = np.float32(scales.trunk[-1] / (x.shape[0] * x.shape[1] * features))
        pooled = to_bytes(total.astype(np.float32) * gain)
        fc = self._integers.layers["fc"]
        return linear(fc.weight.astype(np.float64) @ pooled.astype(np.float64), fc)


class IntegerPass:
    """One image through a backbone; afterwards `activation` per masker and `rates` per block."""

    def __init__(
        self,
        integers: Integers,
        size: MapSize,
        point: OperatingPoint,
        decisions: Sequence[npt.NDArray[Any]] | None,
    ) -> None:
        self._net, self._scales = integers.net, integers.scales
        self._layers, self._tensors = integers.layers, integers.maskers
        self._border = integers.border
        self._size, self._point, self._decisions = size, point, decisions
        self.activation: list[float] = []
        self._units: list[Bools] = []
        self.rates: list[BlockRates] = []

    def run(self, image: UInt8Array) -> list[UInt8Array]:
        """The last map of every stage."""
        scales = self._scales
        x, scale = self._stem(image), scales.stem
        lasts: dict[int, UInt8Array] = {}
        for block, of_block in zip(self._net.blocks, scales.blocks, strict=True):
            x = self._block(x, scale, block, of_block)
            scale = scales.trunk[block.stage]
            lasts[block.stage] = x
        return [lasts[stage] for stage in sorted(lasts)]

    def decided(self) -> Bools:
        """What all maskers kept, side by side (units,)."""
        return np.concatenate([np.empty(0, bool), *self._units])

    def _stem(self, image: UInt8Array) -> UInt8Array:
        height, width, _ = image.shape
        framed = np.empty((height + 6, width + 6, 3), np.uint8)
        framed[:] = self._border
        framed[3:-3, 3:-3] = image
        layer = self._layers["conv1"]
        x = to_bytes(linear(convolve(framed, layer, 2), layer))
        # After ReLU nothing is below 0, so that zeros around the map change no maximum.
        height, width, _ = x.shape
        if self._net.stem_pool == "padded":
            before = after = (1, 1)
        else:
            before, after = (0, 0), (2 if height == 1 else 1, 2 if width == 1 else 1)
        x = np.pad(x, ((before[0], after[0]), (before[1], after[1]), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(0, 1))
        pooled: UInt8Array = windows[::2, ::2].max(axis=(3, 4))
        return pooled

    def _block(self, x: UInt8Array, scale: float, block: Block, of: BlockScales) -> UInt8Array:
        stride1, stride2 = (block.stride, 1) if self._net.stride_in_1x1 else (1, block.stride)
        size_in = MapSize(x.shape[0], x.shape[1])
        size = size_in.halved() if block.stride == 2 else size_in
        middle = size if stride2 == 1 else size_in
        pixels, dilated, channels = self._ask(x, scale, block, size, middle, stride2)
        y = self._apply(x, f"{block.name}.conv1", stride1) * channels
        # Not computed by an engine that skips: were one of them read, it would show here.
        y[~dilated] = 0
        framed = np.pad(y, ((1, 1), (1, 1), (0, 0)))
        y = self._apply(framed, f"{block.name}.conv2", stride2) * channels
        last = self._layers[f"{block.name}.conv3"]
        if of.shortcut is None:
            residual = skipped = x
        else:
            name = f"{block.name}.downsample.0"
            residual = self._apply(x, name, block.stride)
            skipped = self._apply(x, f"{name}{SKIPPED}", block.stride)
        added = residual.astype(np.float32) * np.float32(last.residual)
        out = to_bytes(linear(convolve(y, last, 1), last) + added)
        return np.where(pixels[:, :, None], out, skipped)

    def _apply(self, x: UInt8Array, name: str, stride: int) -> UInt8Array:
        layer = self._layers[name]
        return to_bytes(linear(convolve(x, layer, stride), layer))

    def _ask(
        self, x: UInt8Array, scale: float, block: Block, size: MapSize, middle: MapSize, stride: int
    ) -> tuple[Bools, Bools, npt.NDArray[np.uint8]]:
        """Active pixels, pixels that the first convolution is needed on, channels (1 or 0)."""
        pixels, dilated = np.ones((size.height, size.width), bool), None
        channels = np.ones(block.width, np.uint8)
        asked = {"spatial": 0.0, "channel": 0.0}
        if block.paradigm.masks_space:
            patch = block.granularity.spatial
            window = None if patch is None else patch * block.stride
            logits = self.patch_logits(x, scale, window, f"{block.name}.masker_spatial")
            active, asked["spatial"] = self.decide(logits)
            pixels = expand(active, size.patches(patch), patch, size)
            dilated = _dilate(pixels, stride, middle)
        if block.paradigm.masks_channels:
            active, asked["channel"] = self.decide(self._channel_logits(x, scale, block))
            channels = np.repeat(active, block.width // block.num_groups).astype(np.uint8)
        self.rates.append(
            BlockRates(
                spatial=float(pixels.mean()),
                dilated=1.0 if dilated is None else float(dilated.mean()),
                channel=float(channels.mean()),
                spatial_masker=asked["spatial"],
                channel_masker=asked["channel"],
            )
        )
        if dilated is None:
            dilated = np.ones((middle.height, middle.width), bool)
        return pixels, dilated, channels

    def decide(self, logits: Float32Array) -> tuple[Bools, float]:
        """What the next masker keeps, and 1.0 if its point asks it."""
        masker = len(self.activation)
        threshold, cap = self._point.thresholds[masker], self._point.caps[masker]
        active = np.ones(len(logits), bool)
        if threshold is not None:
            active = logits >= np.float32(threshold)
        if cap is not None:
            order = np.argsort(-logits, kind="stable")
            active[order[cap:]] = False
        if self._decisions is not None:
            active = self._decisions[masker].astype(bool)
        self.activation.append(float(active.mean()))
        self._units.append(active)
        return active, float(threshold is not None or cap is not None)

    def patch_logits(
        self, x: UInt8Array, scale: float, window: int | None, name: str
    ) -> Float32Array:
        """Of the masker `name` for every window of a map (None: one, the whole), row by row."""
        z = self._standardised(x, scale, window, name)
        dots = _dot(z, self._tensors[f"{name}.weight"][None])[:, 0]
        logits: Float32Array = dots / np.float32(np.sqrt(x.shape[2]))
        return logits

    def _channel_logits(self, x: UInt8Array, scale: float, block: Block) -> Float32Array:
        name = f"{block.name}.masker_channel"
        z = self._standardised(x, scale, None, name)
        for part in ("hidden", "out"):
            weight, bias = (self._tensors[f"{name}.{part}.{kind}"] for kind in ("weight", "bias"))
            z = _dot(z, weight) + bias
            if part == "hidden":
                z = np.maximum(z, np.float32(0))
        logits: Float32Array = z[0]
        return logits

    def _standardised(
        self, x: UInt8Array, scale: float, window: int | None, name: str
    ) -> Float32Array:
        """Means over windows (None: the whole map), standardised and clipped: (windows, C)."""
        height, width, channels = x.shape
        rows = np.arange(0, height, window or height)
        columns = np.arange(0, width, window or width)
        sums = np.add.reduceat(np.add.reduceat(x.astype(np.int64), rows, 0), columns, 1)
        counts = np.outer(np.diff(rows, append=height), np.diff(columns, append=width))
        gains = (scale / counts).astype(np.float32)
        means = (sums.astype(np.float32) * gains[:, :, None]).reshape(-1, channels)
        z: Float32Array = (means - self._tensors[f"{name}.mean"]) / self._tensors[f"{name}.std"]
        return np.clip(z, -_CLIP, _CLIP)


def convolve(x: UInt8Array, layer: QuantisedLayer, stride: int = 1) -> _Integers:
    """Exact sums (H, W, out) of a map that already has its border."""
    out, _, kernel, _ = layer.weight.shape
    taps = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), axis=(0, 1))
    taps = taps[::stride, ::stride]
    rows = taps.reshape(taps.shape[0] * taps.shape[1], -1).astype(np.float64)
    sums: _Integers = rows @ layer.weight.reshape(out, -1).astype(np.float64).T
    return sums.reshape(*taps.shape[:2], out)


def linear(sums: _Integers, layer: QuantisedLayer) -> Float32Array:
    """float32(sum) * scale + bias, each operation rounded by itself."""
    y: Float32Array = sums.astype(np.float32) * layer.scale + layer.bias
    return y


def to_bytes(y: Float32Array) -> UInt8Array:
    """The nearest of 0 to 255, halves to even."""
    return np.rint(np.clip(y, np.float32(0), np.float32(255))).astype(np.uint8)


def _dot(rows: Float32Array, weight: Float32Array) -> Float32Array:
    """rows (R, C) times weight (O, C): 16 lanes add in turn, then the lanes from the first on."""
    lanes = np.zeros((len(rows), len(weight), _LANES), np.float32)
    channels = rows.shape[1]
    for start in range(0, channels, _LANES):
        part = slice(start, min(start + _LANES, channels))
        lanes[:, :, : part.stop - start] += rows[:, None, part] * weight[None, :, part]
    total = np.zeros(lanes.shape[:2], np.float32)
    for lane in range(_LANES):
        total += lanes[:, :, lane]
    return total


def expand(units: Bools, grid: MapSize, patch: int | None, size: MapSize) -> Bools:
    """Patch decisions to pixels (H, W)."""
    coarse = units.reshape(grid.height, grid.width)
    if patch is None:
        return np.broadcast_to(coarse, (size.height, size.width))
    return coarse.repeat(patch, 0).repeat(patch, 1)[: size.height, : size.width]


def _dilate(pixels: Bools, stride: int, size: MapSize) -> Bools:
    """The pixels (H, W of `size`) that a 3x3 of that stride reads for `pixels`."""
    framed = np.zeros((size.height + 2, size.width + 2), bool)
    for y in range(3):
        for x in range(3):
            reach = framed[y : y + size.height, x : x + size.width]
            reach[::stride, ::stride] |= pixels
    return framed[1:-1, 1:-1]


def _softmax(scores: Float32Array) -> Float32Array:
    shifted = scores.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    powers = np.exp(shifted)
    shares: Float32Array = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


def _check_decisions(decisions: Decisions, net: ResNet, size: MapSize, count: int) -> None:
    if len(decisions) != len(net.maskers):
        raise InvalidInput(
            f"{len(net.maskers)} maskers need as many decisions, got {len(decisions)}"
        )
    sizes = net.block_sizes(size)
    for found, masker in zip(decisions, net.maskers, strict=True):
        wanted = (
            count,
            masker_units(net.blocks[masker.block], sizes[masker.block][1], masker.kind),
        )
        if found.dtype not in (np.uint8, np.bool_) or found.shape != wanted:
            raise InvalidInput(
                f"decisions of '{masker.name}' must be uint8 or bool of shape {wanted}, "
                f"got {found.dtype} of shape {found.shape}"
            )
