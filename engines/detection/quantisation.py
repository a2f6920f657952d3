"""A detector's integers: its backbone's, and those of pyramid, dense heads and mask head. No torch.

The pyramid follows no ReLU: the sums of laterals and what is made of them have a sign, and the byte
for 0.0, SIGNED_ZERO, wherever nothing is computed and around every map. A level's sum takes the
coarser level as a residual, so that it is rounded once. Class logits, distances, centres and logits
of masks stay floats.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from engines.architecture import ResNet
from engines.bundle import DetectorScales, Preprocessing, Quantisation
from engines.detection.architecture import LEVELS, Detector
from engines.errors import InvalidInput
from engines.quantisation import (
    SIGNED_ZERO,
    QuantisedLayer,
    RoundedLayer,
    Weights,
    check_scales,
    quantise_backbone,
)

UPS = 4
"""Pixels that one of a region becomes in its mask: a 1x1 convolution each."""

Tower = Literal["classes", "boxes"]
TOWERS: tuple[Tower, ...] = ("classes", "boxes")


def quantise_detector(
    net: ResNet,
    detector: Detector,
    weights: Weights,
    scales: Quantisation,
    preprocessing: Preprocessing,
) -> dict[str, QuantisedLayer]:
    """Layers by the names of `engines.cpu.detector_weights`, as `weights` have them; scales and
    biases as of `quantise_network`. Raises what that raises."""
    own = scales.detector
    if own is None:
        raise InvalidInput("the int8 scales are not those of a detector")
    check_scales(_named(own))
    layers = quantise_backbone(net, weights, scales, preprocessing)
    for layer in (_pyramid(weights, scales, own), _heads(detector, weights, own)):
        layers.update(layer)
    if detector.masks:
        layers.update(_masks(detector, weights, own))
    return layers


def _pyramid(
    weights: Weights, scales: Quantisation, own: DetectorScales
) -> Iterator[tuple[str, QuantisedLayer]]:
    for level in reversed(range(LEVELS)):
        name = f"pyramid.inner.{level}"
        step = own.sums[level + 1] / own.sums[level] if level + 1 < LEVELS else 0.0
        yield (
            name,
            RoundedLayer(name, weights).layer(
                scales.trunk[level],
                own.sums[level],
                add=SIGNED_ZERO * (1.0 - step),
                residual=step,
            ),
        )
    for level in range(LEVELS):
        name = f"pyramid.outer.{level}"
        yield (
            name,
            RoundedLayer(name, weights).layer(
                own.sums[level], own.pyramid, add=SIGNED_ZERO, zero_in=SIGNED_ZERO
            ),
        )


def _heads(
    detector: Detector, weights: Weights, own: DetectorScales
) -> Iterator[tuple[str, QuantisedLayer]]:
    for tower in TOWERS:
        names = [f"head.{tower}.{i}" for i in range(detector.head_convs)]
        steps: tuple[float, ...] = getattr(own, tower)
        yield from _stack([*names, f"head.{tower}.out"], weights, [own.pyramid, *steps, 1.0])


def _masks(
    detector: Detector, weights: Weights, own: DetectorScales
) -> Iterator[tuple[str, QuantisedLayer]]:
    names = [f"mask.{i}" for i in range(detector.mask_convs)]
    yield from _stack(names, weights, [own.pyramid, *own.masks[:-1]])
    into, out = own.masks[-2:]
    for i in range(UPS):
        yield f"mask.up.{i}", RoundedLayer(f"mask.up.{i}", weights).layer(into, out)
    yield "mask.out", RoundedLayer("mask.out", weights).layer(out, 1.0)


def _stack(
    names: Sequence[str], weights: Weights, steps: Sequence[float]
) -> Iterator[tuple[str, QuantisedLayer]]:
    """Layers one behind another, the first of them on the pyramid; steps: of all maps, one more."""
    for i, name in enumerate(names):
        zero = 0 if i else SIGNED_ZERO
        yield name, RoundedLayer(name, weights).layer(steps[i], steps[i + 1], zero_in=zero)


def _named(own: DetectorScales) -> Iterator[tuple[str, float]]:
    yield "pyramid", own.pyramid
    for name in ("sums", *TOWERS, "masks"):
        for i, scale in enumerate(getattr(own, name)):
            yield f"{name}.{i}", scale
