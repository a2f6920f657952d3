"""Shapes of networks as the analytic predictors need them: ResNets of ours, and RegNetY besides.

No weights and no rates. Maps are those behind a block; the map before it is `stride` times larger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engines.architecture import DEPTHS, EXPANSION, Block, MapSize, ResNet
from engines.core import MAX_IMAGE_SIZE, Granularity, Paradigm
from engines.errors import InvalidInput
from engines.latency.core import dilated_share
from engines.macs import BlockRates

WHOLE = Granularity()
IMAGE = MapSize(224, 224)
"""What published figures of these networks are for."""


@dataclass(frozen=True, slots=True)
class BlockShape:
    """A bottleneck, 1x1 -> 3x3 -> 1x1 plus shortcut; `height` x `width` pixels come out of it.

    stride: of the 3x3, or with stride_in_1x1 of the first 1x1. groups: of the 3x3. se_channels:
    hidden units of squeeze-and-excitation behind the 3x3 (0: there is none). projection: whether
    the shortcut is a 1x1 convolution. A patch larger than the map means the whole map. Raises
    InvalidInput for sizes that no block can have.
    """

    name: str
    in_channels: int
    mid_channels: int
    out_channels: int
    height: int
    width: int
    stride: int = 1
    groups: int = 1
    se_channels: int = 0
    projection: bool = False
    paradigm: Paradigm = Paradigm.STATIC
    granularity: Granularity = WHOLE
    stride_in_1x1: bool = False

    def __post_init__(self) -> None:
        for what in (
            *("in_channels", "mid_channels", "out_channels", "height", "width"),
            *("stride", "groups"),
        ):
            if getattr(self, what) < 1:
                raise InvalidInput(f"{self.name}: {what} must be at least 1")
        if self.se_channels < 0:
            raise InvalidInput(f"{self.name}: se_channels must be 0 (none) or more")
        if self.mid_channels % self.groups:
            raise InvalidInput(
                f"{self.name}: {self.groups} groups do not divide {self.mid_channels} channels"
            )
        self._check_granularity()

    def _check_granularity(self) -> None:
        patch, group = self.granularity.spatial, self.granularity.channel
        needs_patch = self.paradigm in (Paradigm.SPATIAL, Paradigm.SPATIAL_CHANNEL)
        if needs_patch != (patch is not None) or self.paradigm.masks_channels != (
            group is not None
        ):
            raise InvalidInput(
                f"{self.name}: paradigm '{self.paradigm}' takes "
                f"{'a' if needs_patch else 'no'} spatial and "
                f"{'a' if self.paradigm.masks_channels else 'no'} channel granularity"
            )
        if patch is not None and patch < 1:
            raise InvalidInput(f"{self.name}: spatial granularity must be at least 1, got {patch}")
        if group is not None and (group < 1 or self.mid_channels % group):
            raise InvalidInput(
                f"{self.name}: channel granularity {group} does not divide "
                f"{self.mid_channels} channels"
            )

    @property
    def out_size(self) -> MapSize:
        """The map behind the block."""
        return MapSize(self.height, self.width)

    @property
    def in_size(self) -> MapSize:
        """The map before the block."""
        return MapSize(self.height * self.stride, self.width * self.stride)

    @property
    def mid_size(self) -> MapSize:
        """The map between the first 1x1 and the 3x3."""
        return self.out_size if self.stride_in_1x1 else self.in_size

    @property
    def num_groups(self) -> int:
        """Channel groups that its channel masker decides on (0 without one)."""
        return self.mid_channels // self.granularity.channel if self.granularity.channel else 0

    @property
    def patch(self) -> int | None:
        """Pixels on a side of a patch, None where one patch is the whole map."""
        size = self.granularity.spatial
        return None if size is None or size >= max(self.height, self.width) else size


@dataclass(frozen=True, slots=True)
class StemShape:
    """A convolution of the picture, `height` x `width` behind it, and a max pool or none."""

    kernel: int
    out_channels: int
    height: int
    width: int
    pooled: MapSize | None


@dataclass(frozen=True, slots=True)
class NetworkShape:
    """Stem, blocks in execution order, and a head of average pool and classifier.

    Raises InvalidInput where it has no blocks or a channel count does not fit the one before.
    """

    name: str
    stem: StemShape
    blocks: tuple[BlockShape, ...]
    num_classes: int
    image: MapSize

    def __post_init__(self) -> None:
        if not self.blocks:
            raise InvalidInput(f"{self.name}: a network needs at least one block")
        if self.num_classes < 1:
            raise InvalidInput(f"{self.name}: num_classes must be at least 1")
        channels = self.stem.out_channels
        for block in self.blocks:
            if block.in_channels != channels:
                raise InvalidInput(
                    f"{block.name}: takes {block.in_channels} channels, but {channels} come in"
                )
            channels = block.out_channels

    @property
    def num_features(self) -> int:
        """Channels that enter the classifier."""
        return self.blocks[-1].out_channels


def shape_of(net: ResNet, image: MapSize, name: str = "resnet") -> NetworkShape:
    """The shape of a ResNet of ours for images of that size."""
    conv, pooled = net.stem_sizes(image)
    blocks = tuple(
        BlockShape(
            name=block.name,
            in_channels=block.in_channels,
            mid_channels=block.width,
            out_channels=block.out_channels,
            height=out.height,
            width=out.width,
            stride=block.stride,
            projection=block.projection,
            paradigm=block.paradigm,
            granularity=block.granularity,
            stride_in_1x1=net.stride_in_1x1,
        )
        for block, (_, out) in zip(net.blocks, net.block_sizes(image), strict=True)
    )
    stem = StemShape(7, net.stem_width, conv.height, conv.width, pooled)
    return NetworkShape(name, stem, blocks, net.num_classes, image)


@dataclass(frozen=True, slots=True)
class _Family:
    """What is particular to a published network; one entry per stage."""

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    stem_width: int
    expansion: int = EXPANSION
    group_width: int | None = None
    se_ratio: float = 0.0
    pools: bool = True


# He et al., arXiv:1512.03385; RegNetY: Radosavovic et al., arXiv:2003.13678.
_FAMILIES = {
    "resnet50": _Family(DEPTHS["resnet50"], (64, 128, 256, 512), 64),
    "resnet101": _Family(DEPTHS["resnet101"], (64, 128, 256, 512), 64),
    "regnet_y_400mf": _Family((1, 3, 6, 6), (48, 104, 208, 440), 32, 1, 8, 0.25, False),
    "regnet_y_800mf": _Family((1, 3, 8, 2), (64, 144, 320, 784), 32, 1, 16, 0.25, False),
}
NETWORK_NAMES = tuple(_FAMILIES)


def named_shape(
    name: str,
    paradigm: Paradigm | Sequence[Paradigm] = Paradigm.STATIC,
    *,
    spatial_granularity: int | Sequence[int] = (4, 4, 2, 1),
    channel_granularity: int | Sequence[int] = 2,
    image: MapSize = IMAGE,
    num_classes: int = 1000,
) -> NetworkShape:
    """A published network, with a paradigm and granularities for all stages or one per stage.

    Granularities that a stage's paradigm has no use for are ignored. Raises InvalidInput for an
    unknown name, lists of the wrong length, and what `BlockShape` refuses.
    """
    if name not in _FAMILIES:
        raise InvalidInput(f"unknown network '{name}'; there are {', '.join(NETWORK_NAMES)}")
    if not (1 <= image.height <= MAX_IMAGE_SIZE and 1 <= image.width <= MAX_IMAGE_SIZE):
        raise InvalidInput(
            f"an image must have 1 to {MAX_IMAGE_SIZE} pixels on a side, "
            f"got {image.height}x{image.width}"
        )
    family = _FAMILIES[name]
    stages = len(family.depths)
    paradigms = (paradigm,) * stages if isinstance(paradigm, Paradigm) else tuple(paradigm)
    patches = _per_stage(spatial_granularity, stages)
    groups = _per_stage(channel_granularity, stages)
    for what, given in (
        ("paradigms", paradigms),
        ("spatial granularities", patches),
        ("channel granularities", groups),
    ):
        if len(given) != stages:
            raise InvalidInput(f"{name} has {stages} stages, got {len(given)} {what}")
    conv = image.halved()
    size = conv.halved() if family.pools else conv
    stem = StemShape(
        7 if family.pools else 3,
        family.stem_width,
        conv.height,
        conv.width,
        size if family.pools else None,
    )
    blocks: list[BlockShape] = []
    channels = family.stem_width
    for s, (depth, width) in enumerate(zip(family.depths, family.widths, strict=True)):
        for b in range(depth):
            # The stem's pool has halved the map that a ResNet's first stage sees; RegNet has none.
            stride = 2 if b == 0 and (s > 0 or not family.pools) else 1
            size = size.halved() if stride == 2 else size
            out_channels = width * family.expansion
            blocks.append(
                BlockShape(
                    name=f"layer{s + 1}.{b}",
                    in_channels=channels,
                    mid_channels=width,
                    out_channels=out_channels,
                    height=size.height,
                    width=size.width,
                    stride=stride,
                    groups=width // family.group_width if family.group_width else 1,
                    se_channels=round(family.se_ratio * channels),
                    projection=stride != 1 or channels != out_channels,
                    paradigm=paradigms[s],
                    granularity=_granularity(paradigms[s], patches[s], groups[s]),
                )
            )
            channels = out_channels
    return NetworkShape(name, stem, tuple(blocks), num_classes, image)


def _per_stage(value: int | Sequence[int], stages: int) -> tuple[int, ...]:
    return (value,) * stages if isinstance(value, int) else tuple(value)


def _granularity(paradigm: Paradigm, patch: int, group: int) -> Granularity:
    takes_patch = paradigm in (Paradigm.SPATIAL, Paradigm.SPATIAL_CHANNEL)
    return Granularity(patch if takes_patch else None, group if paradigm.masks_channels else None)


def uniform_shape_rates(
    shape: NetworkShape, rate: float, *, clustered: bool = True
) -> tuple[BlockRates, ...]:
    """Every masker asked, and `rate` of its units active: `core.uniform_rates` for any shape.

    Raises InvalidInput for a rate outside 0 to 1.
    """
    if not 0.0 <= rate <= 1.0:
        raise InvalidInput(f"an activation rate must be 0 to 1, got {rate}")
    return tuple(
        BlockRates(
            spatial=rate if block.paradigm.masks_space else 1.0,
            dilated=_dilated(block, rate, clustered) if block.paradigm.masks_space else 1.0,
            channel=rate if block.paradigm.masks_channels else 1.0,
            spatial_masker=float(block.paradigm.masks_space),
            channel_masker=float(block.paradigm.masks_channels),
        )
        for block in shape.blocks
    )


def _dilated(shape: BlockShape, rate: float, clustered: bool) -> float:
    block = Block(
        stage=0,
        index=0,
        in_channels=shape.in_channels,
        width=shape.mid_channels,
        out_channels=shape.out_channels,
        stride=shape.stride,
        paradigm=shape.paradigm,
        granularity=Granularity(shape.patch, shape.granularity.channel),
    )
    return dilated_share(
        block,
        shape.out_size,
        rate,
        clustered=clustered,
        stride_in_1x1=shape.stride_in_1x1,
    )
