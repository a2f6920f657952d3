"""What a block costs on a GPU: operators in the order of LAUDNet's inference pipelines.

The one choice that is made by cost is whether masker and first 1x1 are one kernel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from engines.architecture import MapSize
from engines.core import Paradigm
from engines.errors import InvalidInput
from engines.latency import dynamic_operators as dynamic
from engines.latency import operators as static
from engines.latency.core import HEAD, STEM
from engines.latency.operators import DENSE, Conv, Cost, Density, Target
from engines.latency.shapes import BlockShape, StemShape
from engines.macs import BlockRates


@dataclass(frozen=True, slots=True)
class Fusion:
    """Seconds of masker and first 1x1 as one kernel (on the whole map) and as two."""

    fused_s: float
    separate_s: float

    @property
    def fused(self) -> bool:
        """Whether one kernel is at least as cheap."""
        return self.fused_s <= self.separate_s


@dataclass(frozen=True, slots=True)
class BlockCost:
    """A block's operators by name, in execution order; `fusion` where there was a choice."""

    name: str
    operators: tuple[tuple[str, Cost], ...]
    fusion: Fusion | None = None

    @property
    def cost(self) -> Cost:
        """The sum of its operators."""
        return sum((cost for _, cost in self.operators), Cost())


@dataclass(frozen=True, slots=True)
class _Convs:
    """The convolutions of a block."""

    conv1: Conv
    conv2: Conv
    conv3: Conv
    projection: Conv | None

    @property
    def branch_weights(self) -> tuple[int, int, int]:
        return self.conv1.weights, self.conv2.weights, self.conv3.weights


def block_cost(on: Target, block: BlockShape, rates: BlockRates) -> BlockCost:
    """What a block costs at those rates, for the batch of `on`.

    A block whose maskers are not asked and whose rates are 1 costs what a static one does. Raises
    InvalidInput for rates outside 0 to 1, less than 1 for what the block cannot skip, and for
    space and channels skipped together under the published model, which has no such block.
    """
    _check_rates(block, rates)
    convs = _convs(on, block)
    space = rates.spatial_masker > 0 or rates.spatial < 1.0
    channels = rates.channel_masker > 0 or rates.channel < 1.0
    fusion = None
    if not (space or channels):
        found = _static(on, block, convs)
    elif block.paradigm is Paradigm.LAYER:
        found = _layer(on, block, convs, float(rates.spatial))
    elif not space:
        found = _channel(on, block, convs, float(rates.channel))
    elif channels and not on.corrections.names:
        raise InvalidInput(
            f"{block.name}: the published model has no block that skips space and channels; "
            "use the corrected one"
        )
    else:
        found, fusion = _spatial(on, block, convs, rates, both=channels)
    if convs.projection is not None:
        found.append(("projection", static.conv(on, convs.projection)))
    return BlockCost(block.name, tuple(found), fusion)


def _check_rates(block: BlockShape, rates: BlockRates) -> None:
    for what in ("spatial", "dilated", "channel", "spatial_masker", "channel_masker"):
        value = getattr(rates, what)
        if not 0.0 <= value <= 1.0:
            raise InvalidInput(f"{block.name}: rate '{what}' must be 0 to 1, got {value}")
    for what, skips in (
        ("spatial", block.paradigm.masks_space),
        ("channel", block.paradigm.masks_channels),
    ):
        rate, asked = getattr(rates, what), getattr(rates, f"{what}_masker")
        if not skips and (rate < 1.0 or asked > 0.0):
            raise InvalidInput(
                f"{block.name}: paradigm '{block.paradigm}' has no {what} masker, but its "
                f"{what} rate is {rate} and its {what} masker is asked at {asked}"
            )


def _convs(on: Target, block: BlockShape) -> _Convs:
    first = block.stride if block.stride_in_1x1 else 1
    projected = block.projection and (block.stride != 1 or on.corrections.projection_at_stride_1)
    return _Convs(
        conv1=Conv(block.in_channels, block.mid_channels, block.mid_size, stride=first),
        conv2=Conv(
            block.mid_channels,
            block.mid_channels,
            block.out_size,
            kernel=3,
            stride=block.stride // first,
            groups=block.groups,
        ),
        conv3=Conv(block.mid_channels, block.out_channels, block.out_size),
        projection=Conv(block.in_channels, block.out_channels, block.out_size, stride=block.stride)
        if projected
        else None,
    )


def _static(on: Target, block: BlockShape, convs: _Convs) -> list[tuple[str, Cost]]:
    found = [("conv1", static.conv(on, convs.conv1)), ("conv2", static.conv(on, convs.conv2))]
    if block.se_channels:
        found.append(("squeeze_excite", _squeeze_excite(on, block)))
    found.append(("conv3", static.conv(on, convs.conv3)))
    found.append(("add", static.add(on, block.out_channels, block.out_size)))
    return found


def _squeeze_excite(on: Target, block: BlockShape) -> Cost:
    return static.squeeze_excite(on, block.mid_channels, block.se_channels, block.out_size)


def _layer(on: Target, block: BlockShape, convs: _Convs, rate: float) -> list[tuple[str, Cost]]:
    found = [("masker", dynamic.idle_masker_conv(on, convs.conv1))]
    if not on.own_masks:
        # Alone, an image runs the block or does not. The published model says the same of a batch.
        return found + [(name, cost.scaled(rate)) for name, cost in _static(on, block, convs)]
    anyone = 1.0 - (1.0 - rate) ** on.batch
    if anyone <= 0.0:
        return found
    some = replace(on, batch=rate * on.batch / anyone)
    ran = [
        ("image_gather", dynamic.image_gather(some, block.in_channels, block.in_size)),
        *_static(some, block, convs),
    ]
    return found + [(name, cost.scaled(anyone)) for name, cost in ran]


def _densities(rate: float, group: int) -> tuple[Density, Density, Density]:
    """Of the three convolutions: the first computes, the last reads the inner channels."""
    return (
        Density(outputs=rate, group=group),
        Density(rate, rate, group),
        Density(inputs=rate, group=group),
    )


def _channel(on: Target, block: BlockShape, convs: _Convs, rate: float) -> list[tuple[str, Cost]]:
    group = block.granularity.channel or 1
    into, through, out = _densities(rate, group)
    found = [("conv1", static.conv(on, convs.conv1, into)), ("masker", _channel_masker(on, block))]
    found += _gathered_weights(on, convs, rate)
    found.append(("conv2", static.conv(on, convs.conv2, through)))
    if block.se_channels:
        found.append(("squeeze_excite", _squeeze_excite(on, block)))
    found.append(("conv3", static.conv(on, convs.conv3, out)))
    # Channel mode ends in the kernel of the spatial one, with patches of one pixel, all active.
    whole = dynamic.Patches(block.out_size, 1, 1.0)
    found.append(("scatter_add", dynamic.scatter_add(on, block.out_channels, whole)))
    return found


def _channel_masker(on: Target, block: BlockShape) -> Cost:
    group = block.granularity.channel or 1
    channels = block.mid_channels if on.corrections.masker_sizes else block.in_channels
    groups = channels // group
    return dynamic.channel_masker(on, block.in_channels, block.in_size, groups)


def _gathered_weights(on: Target, convs: _Convs, rate: float) -> list[tuple[str, Cost]]:
    if not on.corrections.weight_gather or rate >= 1.0:
        return []
    one, two, three = convs.branch_weights
    active = (one + three) * rate + two * rate * rate
    return [("weight_gather", dynamic.weight_gather(on, one + two + three, active))]


def _spatial(
    on: Target, block: BlockShape, convs: _Convs, rates: BlockRates, *, both: bool
) -> tuple[list[tuple[str, Cost]], Fusion]:
    """Patches, and where `both`, of the active channels only: densities scale arithmetic and data
    of the patch kernels as they do a dense convolution's, and weights are gathered."""
    group = block.granularity.channel or 1
    d = float(rates.channel)
    into, through, out = _densities(d, group) if both else (DENSE, DENSE, DENSE)
    patches = dynamic.Patches(block.out_size, block.patch, float(rates.spatial))
    before = _first_patches(on, block, rates)
    fused = dynamic.fused_masker_conv(on, convs.conv1, into)
    separate = dynamic.separate_masker_conv(on, convs.conv1, before, into)
    fusion = Fusion(fused.total_s, separate.total_s)
    found = [("masker_conv1", fused if fusion.fused else separate)]
    if both:
        found.append(("channel_masker", _channel_masker(on, block)))
        found += _gathered_weights(on, convs, d)
    found.append(
        (
            "gather_conv2",
            dynamic.patch_conv(on, convs.conv2, patches, dense_input=True, density=through),
        )
    )
    if block.se_channels:
        hidden = block.se_channels
        pooled = dynamic.dynamic_squeeze_excite(on, block.mid_channels, hidden, patches)
        found.append(("squeeze_excite", pooled))
    found.append(
        ("conv3", dynamic.patch_conv(on, convs.conv3, patches, dense_input=False, density=out))
    )
    found.append(("scatter_add", dynamic.scatter_add(on, block.out_channels, patches)))
    return found, fusion


def _first_patches(on: Target, block: BlockShape, rates: BlockRates) -> dynamic.Patches:
    """Patches of the first 1x1, on the map between it and the 3x3."""
    size, side = block.mid_size, block.patch
    if not on.corrections.halo:
        # The published vectors of whole networks fit only if a patch keeps its S pixels on the
        # larger map before a stride: four times as many patches.
        return dynamic.Patches(size, side, float(rates.spatial))
    if side is not None and size != block.out_size:
        side *= block.stride
    return dynamic.Patches(size, side, max(float(rates.dilated), float(rates.spatial)))


def stem_cost(on: Target, stem: StemShape) -> BlockCost:
    """The convolution of the picture, with stride 2, and the max pool."""
    size = MapSize(stem.height, stem.width)
    conv = static.conv(on, Conv(3, stem.out_channels, size, stem.kernel, stride=2))
    found = [("conv", conv)]
    if stem.pooled is not None:
        pool = static.average_pool(on, stem.out_channels, size, stem.pooled)
        found.append(("max_pool", pool))
    return BlockCost(STEM, tuple(found))


def head_cost(on: Target, channels: int, size: MapSize, num_classes: int) -> BlockCost:
    """Average pool and classifier."""
    return BlockCost(
        HEAD,
        (
            ("pool", static.average_pool(on, channels, size, MapSize(1, 1))),
            ("classifier", static.fully_connected(on, channels, num_classes)),
        ),
    )
