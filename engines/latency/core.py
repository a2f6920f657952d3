"""The nouns of latency prediction. Seconds are for a whole batch unless a name says otherwise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from engines.architecture import Block, MapSize, ResNet
from engines.errors import InvalidInput
from engines.macs import BlockRates

STEM, HEAD = "stem", "head"
"""Names of the parts before the first block and behind the last one."""

CALL = "call"
"""What a call takes besides its parts, where it is listed among them."""


@dataclass(frozen=True, slots=True)
class PartCost:
    """Predicted seconds of one part of a network, for the whole batch.

    compute_s, memory_s: what arithmetic alone and moving data alone would take; whether they add
    or overlap is the model's affair. fixed_s: what does not depend on size (launches, barriers).
    """

    name: str
    total_s: float
    compute_s: float
    memory_s: float
    fixed_s: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one call is predicted to take: STEM, every block by name, HEAD, in execution order.

    overhead_s: what the call takes besides its parts.
    """

    parts: tuple[PartCost, ...]
    overhead_s: float = 0.0

    @property
    def total_s(self) -> float:
        """Seconds of the call, for the whole batch."""
        return sum(part.total_s for part in self.parts) + self.overhead_s


def uniform_rates(
    net: ResNet, rate: float, image: MapSize, *, clustered: bool = True
) -> tuple[BlockRates, ...]:
    """Every masker asked, and `rate` of its units active; static blocks are whole.

    clustered: how much of the map the first convolution needs, see `dilated_share`. Raises
    InvalidInput for a rate outside 0 to 1.
    """
    if not 0.0 <= rate <= 1.0:
        raise InvalidInput(f"an activation rate must be 0 to 1, got {rate}")
    found: list[BlockRates] = []
    for block, (_, size) in zip(net.blocks, net.block_sizes(image), strict=True):
        space, channels = block.paradigm.masks_space, block.paradigm.masks_channels
        found.append(
            BlockRates(
                spatial=rate if space else 1.0,
                dilated=(
                    dilated_share(
                        block, size, rate, clustered=clustered, stride_in_1x1=net.stride_in_1x1
                    )
                    if space
                    else 1.0
                ),
                channel=rate if channels else 1.0,
                spatial_masker=float(space),
                channel_masker=float(channels),
            )
        )
    return tuple(found)


def dilated_share(
    block: Block, size: MapSize, rate: float, *, clustered: bool, stride_in_1x1: bool = False
) -> float:
    """Expected share of pixels on which a block's first convolution is needed.

    size: of its output. Patches are active independently (random), or form one region (clustered:
    as trained masks tend to). The exact number depends on the mask; this is what to expect before
    there is one.
    """
    patch = block.granularity.spatial
    if patch is None or rate in (0.0, 1.0):
        return rate
    stride = 1 if stride_in_1x1 else block.stride
    # A 3x3 reads one pixel around what it computes; with a stride of 2 only above and to the left.
    sides = 2 if stride == 1 else 1
    area = size.area * stride**2
    if clustered:
        # A region that ends at the borders of the map: at rate 0.5, two lines across bound it.
        return min(1.0, rate + sides * 2.0 * math.sqrt(rate * (1.0 - rate) / area))
    side = min(patch, size.height, size.width) * stride
    off = 1.0 - rate
    if side == 1:
        return rate + off * (1.0 - float(off**8))
    # Of an inactive patch, a pixel at an edge touches one other patch, one in a corner three.
    reached = 2 * sides * (side - sides) * rate + sides**2 * (1.0 - float(off**3))
    return rate + off * reached / side**2


def check_rates(net: ResNet, rates: Sequence[BlockRates]) -> None:
    """Raises InvalidInput unless there are rates from 0 to 1 for every block."""
    if len(rates) != len(net.blocks):
        raise InvalidInput(f"{len(net.blocks)} blocks need as many rates, got {len(rates)}")
    for block, rate in zip(net.blocks, rates, strict=True):
        for what in ("spatial", "dilated", "channel", "spatial_masker", "channel_masker"):
            value = getattr(rate, what)
            if not 0.0 <= value <= 1.0:
                raise InvalidInput(f"{block.name}: rate '{what}' must be 0 to 1, got {value}")
