"""From float weights and activation scales to the integers of the int8 network. Needs no torch.

Activations are unsigned bytes with zero point 0 (where they have a sign, as a projection's output:
128), weights are signed bytes, symmetric per output channel. A layer computes
q = round(clamp(float(sum) * scale + bias)), so that everything a kernel needs is here and, of what
stands on a detector's backbone, in `engines.detection.quantisation`: every engine takes its
integers from these two places.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.architecture import Block, ResNet
from engines.bundle import BlockScales, Preprocessing, Quantisation
from engines.core import Float32Array, UInt8Array
from engines.errors import CheckpointError, InvalidInput

WEIGHT_MAX = 127
PAIR_MAX = 128
"""Of two neighbouring weights of one sign, together: 128 * 255 is the last multiple of 255 that
fits 16 bits, in which CPUs without dot-product instructions sum two products."""
STEM_KERNEL = 7
SIGNED_ZERO = 128
"""The byte that stands for 0.0 where activations have a sign, as in a projection's output."""

SKIPPED = ":skipped"
"""What follows a projection's name where the residual branch is not computed."""

Int8Array = npt.NDArray[np.int8]
Weights = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class QuantisedLayer:
    """y = float32(sum) * scale + bias (+ float32(residual byte) * residual), in output quanta.

    weight: (out, in, kernel, kernel), of the classifier (out, in). scale, bias: (out,).
    residual: 0 where nothing is added. The classifier's y are scores, not quanta.
    """

    weight: Int8Array
    scale: Float32Array
    bias: Float32Array
    residual: float = 0.0


def quantise_network(
    net: ResNet, weights: Weights, scales: Quantisation, preprocessing: Preprocessing
) -> dict[str, QuantisedLayer]:
    """The layers of a folded network by name, in execution order.

    A projection is there twice, with the same weight array: `NAME` for pixels whose residual branch
    is computed, `NAME:skipped` for the others, which end in the trunk's scale. The stem takes raw
    RGB bytes: normalisation is in its weights, see `stem_border` for what lies outside.
    Raises CheckpointError for a tensor that is missing or not finite, InvalidInput for a scale that
    is not a positive number, or for a network that is not folded.
    """
    layers = quantise_backbone(net, weights, scales, preprocessing)
    if scales.features is None:
        raise InvalidInput("the scale 'features' of what enters the classifier is missing")
    check_scales([("features", scales.features)])
    # Scores are wanted as they are: in steps of 1, neither rounded nor clamped.
    layers["fc"] = RoundedLayer("fc", weights).layer(scales.features, 1.0)
    return layers


def quantise_backbone(
    net: ResNet, weights: Weights, scales: Quantisation, preprocessing: Preprocessing
) -> dict[str, QuantisedLayer]:
    """As `quantise_network`, without the classifier."""
    if net.official_layout or not net.folded:
        raise InvalidInput("only a network with folded batch norm in our own layout has int8 form")
    check_scales(_named(scales, net))
    layers = {"conv1": _stem(weights, scales.stem, preprocessing)}
    scale_in = scales.stem
    for block, of_block in zip(net.blocks, scales.blocks, strict=True):
        trunk = scales.trunk[block.stage]
        layers.update(_block(block, weights, scale_in, of_block, trunk))
        scale_in = trunk
    return layers


def check_scales(named: Iterable[tuple[str, float]]) -> None:
    """Raise InvalidInput for one that is not a positive number."""
    for name, scale in named:
        if not (math.isfinite(scale) and scale > 0):
            raise InvalidInput(f"the scale '{name}' must be a positive number, got {scale}")


def stem_border(preprocessing: Preprocessing) -> UInt8Array:
    """The byte per channel, (3,) in RGB order, of pixels outside the image: nearest to the mean."""
    mean = np.clip(np.rint(preprocessing.mean), 0, 255).astype(np.uint8)
    return mean[::-1].copy() if preprocessing.channel_order == "bgr" else mean


class RoundedLayer:
    """A layer's weights in signed bytes with their scale per output channel, and its bias."""

    def __init__(self, name: str, weights: Weights, *, weight: Float32Array | None = None) -> None:
        self.name = name
        w = _tensor(weights, f"{name}.weight") if weight is None else weight
        self.bias = _tensor(weights, f"{name}.bias").astype(np.float64)
        self.weight, self.scale = _rounded(w, f"{name}.weight")

    def layer(
        self,
        scale_in: float,
        scale_out: float,
        *,
        add: float = 0.0,
        residual: float = 0.0,
        zero_in: int = 0,
    ) -> QuantisedLayer:
        """From bytes of `scale_in` to bytes of `scale_out`; `add` to the bias, in output quanta.

        zero_in: the input's byte for 0.0, which then lies around its map too.
        """
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            scale = (self.scale.astype(np.float64) * (scale_in / scale_out)).astype(np.float32)
            shifted = self.bias / scale_out + add
            if zero_in:
                taps = self.weight.reshape(len(self.weight), -1).sum(axis=1, dtype=np.int64)
                # By the scale that is applied, rounded: then what sums have too much goes away.
                shifted -= zero_in * taps * scale.astype(np.float64)
            bias = shifted.astype(np.float32)
            residual = float(np.float32(residual))
        if not (np.isfinite(scale).all() and np.isfinite(bias).all() and math.isfinite(residual)):
            raise InvalidInput(
                f"'{self.name}' does not fit float32 at the scales {scale_in:g} to {scale_out:g}"
            )
        return QuantisedLayer(self.weight, scale, bias, residual)


def _stem(weights: Weights, scale: float, preprocessing: Preprocessing) -> QuantisedLayer:
    w = _tensor(weights, "conv1.weight")
    mean = np.array(preprocessing.mean)
    with np.errstate(over="ignore"):
        folded = w / np.array(preprocessing.std, np.float32)[:, None, None]
    if preprocessing.channel_order == "bgr":
        folded, mean = np.ascontiguousarray(folded[:, ::-1]), mean[::-1]
    stem = RoundedLayer("conv1", weights, weight=folded)
    # Of the rounded weights: then rounding errs in proportion to how far a pixel is from the mean,
    # not to its value, which is twice as large.
    taps = stem.weight.sum(axis=(2, 3), dtype=np.int64)
    stem.bias -= stem.scale.astype(np.float64) * (taps @ mean)
    return stem.layer(1.0, scale)


def _block(
    block: Block, weights: Weights, scale_in: float, scales: BlockScales, trunk: float
) -> Iterator[tuple[str, QuantisedLayer]]:
    name = block.name
    yield f"{name}.conv1", RoundedLayer(f"{name}.conv1", weights).layer(scale_in, scales.inner1)
    middle = RoundedLayer(f"{name}.conv2", weights)
    yield middle.name, middle.layer(scales.inner1, scales.inner2)
    last = RoundedLayer(f"{name}.conv3", weights)
    if scales.shortcut is None:
        yield f"{name}.conv3", last.layer(scales.inner2, trunk, residual=1.0)
        return
    step = scales.shortcut / trunk
    yield (
        f"{name}.conv3",
        last.layer(scales.inner2, trunk, add=-SIGNED_ZERO * step, residual=step),
    )
    projection = RoundedLayer(f"{name}.downsample.0", weights)
    yield projection.name, projection.layer(scale_in, scales.shortcut, add=SIGNED_ZERO)
    yield f"{projection.name}{SKIPPED}", projection.layer(scale_in, trunk)


def _rounded(w: Float32Array, name: str) -> tuple[Int8Array, Float32Array]:
    """Bytes and their scale per output channel, so that no two neighbours exceed PAIR_MAX."""
    rows = w.reshape(len(w), -1)
    largest = np.maximum(rows.max(axis=1), -rows.min(axis=1))
    if not np.isfinite(largest).all():
        raise CheckpointError(f"'{name}' has values that are not finite numbers")
    sums = _pair_sums(_side_by_side(w), np.float32).reshape(len(w), -1)
    largest_pair = np.maximum(sums.max(axis=1, initial=0), -sums.min(axis=1, initial=0))
    scales = np.maximum(largest / np.float32(WEIGHT_MAX), largest_pair / np.float32(PAIR_MAX))
    # Also where a tiny maximum has no 127th part in float32.
    scales[scales == 0] = 1
    quanta = rows / scales[:, None]
    np.rint(quanta, out=quanta)
    np.clip(quanta, -WEIGHT_MAX, WEIGHT_MAX, out=quanta)
    return _shortened(quanta.astype(np.int8).reshape(w.shape)), scales


def _side_by_side(w: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Inputs along the second axis in the order that they have in a map; mostly `w` itself.

    A convolution's inputs are channels; the stem reads a row of pixels, three channels each.
    """
    if w.ndim == 4 and w.shape[2] == STEM_KERNEL:
        return w.transpose(0, 3, 1, 2).reshape(len(w), -1, STEM_KERNEL)
    return w


def _pair_sums(w: npt.NDArray[Any], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Sums of every two neighbours, (out, pairs, ...)."""
    even = w.shape[1] // 2 * 2
    sums: npt.NDArray[Any] = np.add(w[:, 0:even:2], w[:, 1:even:2], dtype=dtype)
    return sums


def _shortened(weight: Int8Array) -> Int8Array:
    """Without what rounding added to a pair beyond PAIR_MAX: the larger of the two gives it."""
    inputs = _side_by_side(weight)
    excess = np.abs(_pair_sums(inputs, np.int16)) - PAIR_MAX
    out, pair, *tap = np.nonzero(excess > 0)
    if not len(out):
        return weight
    first, second = (inputs[out, 2 * pair + i, *tap].astype(np.int16) for i in (0, 1))
    where = (out, 2 * pair + (np.abs(second) > np.abs(first)), *tap)
    inputs[where] -= (np.sign(inputs[where]) * excess[out, pair, *tap]).astype(np.int8)
    if inputs.shape == weight.shape:
        return inputs
    pixels = inputs.reshape(len(weight), STEM_KERNEL, weight.shape[1], STEM_KERNEL)
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))


def _tensor(weights: Weights, name: str) -> Float32Array:
    if name not in weights:
        raise CheckpointError(f"the weights do not fit the network: missing: {name}")
    value = np.asarray(weights[name], np.float32)
    if name.endswith(".bias") and not np.isfinite(value).all():
        raise CheckpointError(f"'{name}' has values that are not finite numbers")
    return value


def _named(scales: Quantisation, net: ResNet) -> Iterator[tuple[str, float]]:
    yield "stem", scales.stem
    for s, trunk in enumerate(scales.trunk):
        yield f"trunk of layer{s + 1}", trunk
    for block, found in zip(net.blocks, scales.blocks, strict=True):
        yield f"{block.name}.inner1", found.inner1
        yield f"{block.name}.inner2", found.inner2
        if found.shortcut is not None:
            yield f"{block.name}.shortcut", found.shortcut
