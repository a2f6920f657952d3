"""What the parts of a static detector have to do: multiply-accumulates, and bytes to move."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from engines.architecture import Block, MapSize, ResNet
from engines.detection.architecture import (
    Detector,
    pyramid_sizes,
    stage_channels,
)
from engines.quantisation import STEM_KERNEL

STEM, PYRAMID, HEADS, CHOICE, MASKS = "stem", "pyramid", "heads", "choice", "masks"
"""Parts, beside the stages; the choice is arithmetic on scores and boxes."""

_BYTES = 4


@dataclass(frozen=True, slots=True)
class Work:
    """num_bytes: of weights and maps in fp32, each read or written once by every layer."""

    macs: int = 0
    num_bytes: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.macs + other.macs, self.num_bytes + other.num_bytes)

    def times(self, count: int) -> Work:
        """So often."""
        return Work(self.macs * count, self.num_bytes * count)


def stage_name(stage: int) -> str:
    """Of the part that a stage is; stages count from 0."""
    return f"stage_{stage + 1}"


def part_work(net: ResNet, detector: Detector, size: int, objects: int) -> dict[str, Work]:
    """By part, in execution order, for an image of `size` on which so many objects are found.

    Arithmetic on boxes is not counted.
    """
    image = MapSize(size, size)
    conv, pooled = net.stem_sizes(image)
    pool = Work(9 * net.stem_width * pooled.area, _maps(net.stem_width, conv.area + pooled.area))
    found = {STEM: _layer(3, net.stem_width, STEM_KERNEL, image.area, conv.area) + pool}
    for block, (size_in, size_out) in zip(net.blocks, net.block_sizes(image), strict=True):
        name = stage_name(block.stage)
        for layer in _block(block, size_in.area, size_out.area, net.stride_in_1x1):
            found[name] = found.get(name, Work()) + layer
    width, labels = detector.width, net.num_classes
    pyramid = heads = Work()
    for level, channels in zip(pyramid_sizes(net, image), stage_channels(net), strict=True):
        area = level.area
        # What is added comes from a map of a quarter of the pixels.
        pyramid += _layer(channels, width, 1, area, area) + Work(0, _maps(width, area // 4))
        pyramid += _layer(width, width, 3, area, area)
        heads += _layer(width, width, 3, area, area).times(2 * detector.head_convs)
        heads += _layer(width, labels, 3, area, area) + _layer(width, 5, 3, area, area)
    mask = _mask(detector) if detector.masks else Work()
    return {**found, PYRAMID: pyramid, HEADS: heads, CHOICE: Work(), MASKS: mask.times(objects)}


def _layer(inputs: int, outputs: int, kernel: int, area_in: int, area_out: int) -> Work:
    weights = kernel * kernel * inputs * outputs
    maps = _maps(inputs, area_in) + _maps(outputs, area_out)
    return Work(weights * area_out, weights * _BYTES + maps)


def _maps(channels: int, area: int) -> int:
    return channels * area * _BYTES


def _block(block: Block, area_in: int, area_out: int, stride_in_1x1: bool) -> Iterator[Work]:
    inner = area_out if stride_in_1x1 else area_in
    yield _layer(block.in_channels, block.width, 1, inner, inner)
    yield _layer(block.width, block.width, 3, inner, area_out)
    yield _layer(block.width, block.out_channels, 1, area_out, area_out)
    yield Work(0, _maps(block.out_channels, area_out))
    if block.projection:
        yield _layer(block.in_channels, block.out_channels, 1, area_out, area_out)


def _mask(detector: Detector) -> Work:
    """Of one object."""
    width, half = detector.width, detector.width // 2
    small, large = detector.roi_size**2, detector.mask_size**2
    convs = _layer(width, width, 3, small, small).times(detector.mask_convs)
    # A transposed convolution is a 1x1 for each of the four pixels that one becomes.
    return convs + _layer(width, 4 * half, 1, small, small) + _layer(half, 1, 1, large, large)
