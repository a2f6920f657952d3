"""What a call computes, as one vector per network: expected, given or observed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engines.architecture import MapSize, ResNet
from engines.core import OperatingPoint, Output
from engines.errors import EngineError, InvalidInput
from engines.latency.core import dilated_share
from engines.macs import BlockRates, masker_units
from engines.manifest import PointRecord

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class RateVector:
    """What is computed, per block, means over the images of a call; all of shape (blocks,).

    spatial, dilated, channel: as in `engines.macs.BlockRates`. asked: whether its maskers run.
    Raises InvalidInput for shapes that differ and for rates that are not 0 to 1: checked here and
    not by every prediction.
    """

    spatial: FloatArray
    dilated: FloatArray
    channel: FloatArray
    asked: BoolArray

    def __post_init__(self) -> None:
        for what in ("spatial", "dilated", "channel"):
            values = getattr(self, what)
            if values.ndim != 1 or values.shape != self.asked.shape:
                raise InvalidInput(
                    f"rates '{what}' must have one number per block, {self.asked.shape}, "
                    f"got {values.shape}"
                )
            # Written so that NaN is refused.
            if not (values.min(initial=0.0) >= 0.0 and values.max(initial=1.0) <= 1.0):
                raise InvalidInput(f"rates '{what}' must be 0 to 1, got {values.tolist()}")


def rate_vector(rates: Sequence[BlockRates]) -> RateVector:
    """From one `BlockRates` per block; its maskers run where either of them does."""
    shares = np.array([(r.spatial, r.dilated, r.channel) for r in rates], np.float64)
    asked = [r.spatial_masker > 0 or r.channel_masker > 0 for r in rates]
    spatial, dilated, channel = shares.reshape(-1, 3).T.copy()
    return RateVector(spatial, dilated, channel, np.array(asked, np.bool_))


def expected_rates(
    net: ResNet,
    point: OperatingPoint,
    activation: Sequence[float],
    *,
    clustered: bool = True,
) -> RateVector:
    """What a point computes given the mean activation of its maskers; clustered: its patches."""
    image = MapSize(point.image_size, point.image_size)
    count = len(net.blocks)
    spatial, dilated, channel = np.ones(count), np.ones(count), np.ones(count)
    sizes = net.block_sizes(image)
    for masker, rate in zip(net.maskers, activation, strict=True):
        block, out = net.blocks[masker.block], sizes[masker.block][1]
        if masker.kind == "channel":
            channel[masker.block] = rate
        else:
            whole = masker_units(block, out, masker.kind) == 1
            spatial[masker.block] = rate
            dilated[masker.block] = (
                rate
                if whole
                else dilated_share(
                    block, out, rate, clustered=clustered, stride_in_1x1=net.stride_in_1x1
                )
            )
    return RateVector(spatial, dilated, channel, asked_blocks(net, point))


def block_rates(rates: RateVector, net: ResNet) -> tuple[BlockRates, ...]:
    """The same as one `BlockRates` per block, which the analytic predictors take."""
    return tuple(
        BlockRates(
            spatial=float(rates.spatial[i]),
            dilated=float(rates.dilated[i]),
            channel=float(rates.channel[i]),
            spatial_masker=float(rates.asked[i] and block.paradigm.masks_space),
            channel_masker=float(rates.asked[i] and block.paradigm.masks_channels),
        )
        for i, block in enumerate(net.blocks)
    )


def executed_rates(net: ResNet, image: MapSize, output: Output, asked: BoolArray) -> RateVector:
    """What an engine reports that it computed, means over the images of that size.

    Raises EngineError where the engine does not tell which pixels were active.
    """
    if output.pixels is None:
        raise EngineError("this engine does not tell which pixels it computed")
    sizes = net.block_sizes(image)
    out = np.array([out.area for _, out in sizes])
    middle = np.array([(out if net.stride_in_1x1 else into).area for into, out in sizes])
    masked = np.array([block.paradigm.masks_space for block in net.blocks])
    pixels = output.pixels.mean(axis=0)
    channel = np.ones(len(net.blocks))
    for masker, rate in zip(net.maskers, output.activation.mean(axis=0), strict=True):
        if masker.kind == "channel":
            channel[masker.block] = rate
    return RateVector(
        spatial=np.where(masked, pixels[:, 0] / out, 1.0),
        dilated=np.where(masked, pixels[:, 1] / middle, 1.0),
        channel=channel,
        asked=asked,
    )


def second_look_rates(record: PointRecord) -> tuple[float, ...]:
    """Activation rates per masker of the images that a point computes at its own size: those that
    it looks at again, where it glances; the record's are means over all."""
    if record.again is None:
        return record.activation
    if record.again == 0.0:
        return (1.0,) * len(record.activation)
    return tuple(min(1.0, rate / record.again) for rate in record.activation)


def network_sizes(points: Collection[OperatingPoint]) -> tuple[int, ...]:
    """Image sizes at which the network runs for these points, ascending; glances included."""
    own = {point.image_size for point in points}
    small = {point.glance.image_size for point in points if point.glance is not None}
    return tuple(sorted(own | small))


def asked_blocks(net: ResNet, point: OperatingPoint) -> BoolArray:
    """In which blocks a point asks a masker, (blocks,)."""
    found = np.zeros(len(net.blocks), np.bool_)
    for masker, threshold, cap in zip(net.maskers, point.thresholds, point.caps, strict=True):
        found[masker.block] |= threshold is not None or cap is not None
    return found
