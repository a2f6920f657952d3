"""Description of a network without its weights: stages, blocks, maskers and map sizes.

Pure data and arithmetic, shared by the torch models, the engines, bundles and predictors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from engines.core import FrozenModel, Granularity, Paradigm
from engines.errors import BundleError

EXPANSION = 4
CHANNEL_MASKER_REDUCTION = 16

PositiveInt = Annotated[int, Field(ge=1)]


class Stage(FrozenModel):
    """`depth` bottleneck blocks of `width` inner channels (outside 4 x `width` in a ResNet)."""

    depth: PositiveInt
    width: PositiveInt
    paradigm: Paradigm = Paradigm.STATIC
    spatial_granularity: PositiveInt | None = None
    channel_granularity: PositiveInt | None = None

    @model_validator(mode="after")
    def _granularity_fits(self) -> Self:
        needs_spatial = self.paradigm in (Paradigm.SPATIAL, Paradigm.SPATIAL_CHANNEL)
        if needs_spatial != (self.spatial_granularity is not None):
            raise ValueError(
                f"paradigm '{self.paradigm}' {'needs' if needs_spatial else 'takes no'} "
                "spatial_granularity"
            )
        if self.paradigm.masks_channels != (self.channel_granularity is not None):
            raise ValueError(
                f"paradigm '{self.paradigm}' "
                f"{'needs' if self.paradigm.masks_channels else 'takes no'} channel_granularity"
            )
        if self.channel_granularity is not None and self.width % self.channel_granularity:
            raise ValueError(
                f"channel_granularity {self.channel_granularity} does not divide width {self.width}"
            )
        return self

    @property
    def granularity(self) -> Granularity:
        """Both granularities; `spatial` None under layer skipping means the whole map."""
        return Granularity(self.spatial_granularity, self.channel_granularity)


class RegNetStage(Stage):
    """A stage whose 3x3 is grouped, `group_width` channels to a group; outside it has `width` too.

    A group of the 3x3 and a channel group, which is what one decision covers, are two things.
    """

    group_width: PositiveInt

    @model_validator(mode="after")
    def _groups_fit(self) -> Self:
        if self.width % self.group_width:
            raise ValueError(f"group_width {self.group_width} does not divide width {self.width}")
        return self


@dataclass(frozen=True, slots=True)
class Block:
    """One bottleneck: 1x1 -> 3x3 -> 1x1 plus shortcut. `stage` and `index` count from 0.

    conv_groups: of the 3x3. squeeze_width: hidden units of the squeeze-and-excitation behind the
    3x3 (0: there is none).
    """

    stage: int
    index: int
    in_channels: int
    width: int
    out_channels: int
    stride: int
    paradigm: Paradigm
    granularity: Granularity
    conv_groups: int = 1
    squeeze_width: int = 0

    @property
    def name(self) -> str:
        """Its name in state dicts, as torchvision spells it for a ResNet: `layer1.0`."""
        return f"layer{self.stage + 1}.{self.index}"

    @property
    def projection(self) -> bool:
        """Whether the shortcut is a 1x1 convolution."""
        return self.stride != 1 or self.in_channels != self.out_channels

    @property
    def num_groups(self) -> int:
        """Channel groups that its channel masker decides on (0 without one)."""
        return self.width // self.granularity.channel if self.granularity.channel else 0

    @property
    def channel_masker_hidden(self) -> int:
        """Hidden units of the channel masker (laudnet: max(groups // 16, 16))."""
        return max(self.num_groups // CHANNEL_MASKER_REDUCTION, CHANNEL_MASKER_REDUCTION)


@dataclass(frozen=True, slots=True)
class Masker:
    """One decision maker: `block` indexes `Architecture.blocks`."""

    block: int
    name: str
    kind: Literal["spatial", "channel"]


@dataclass(frozen=True, slots=True)
class MapSize:
    """Height and width of a feature map in pixels."""

    height: int
    width: int

    @property
    def area(self) -> int:
        """Number of pixels."""
        return self.height * self.width

    def halved(self) -> MapSize:
        """The size after a stride of 2 with 'same' padding."""
        return MapSize(-(-self.height // 2), -(-self.width // 2))

    def patches(self, size: int | None) -> MapSize:
        """The grid of patches `size` pixels wide, partial ones included (None: one patch)."""
        if size is None:
            return MapSize(1, 1)
        return MapSize(-(-self.height // size), -(-self.width // size))


class _Network(FrozenModel, ABC):
    """What follows from the stages alike in every family."""

    def __copy__(self) -> Self:
        # A copy may get other stages: what was derived from these must not come along.
        copied = super().__copy__()
        for name in ("blocks", "maskers"):
            copied.__dict__.pop(name, None)
        return copied

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """All blocks in execution order."""
        return tuple(self._blocks())

    @cached_property
    def maskers(self) -> tuple[Masker, ...]:
        """All maskers in execution order, the spatial one of a block before its channel one."""
        found: list[Masker] = []
        for i, block in enumerate(self.blocks):
            if block.paradigm.masks_space:
                found.append(Masker(i, f"{block.name}.spatial", "spatial"))
            if block.paradigm.masks_channels:
                found.append(Masker(i, f"{block.name}.channel", "channel"))
        return tuple(found)

    @property
    def num_features(self) -> int:
        """Channels that enter the classifier."""
        return self.blocks[-1].out_channels

    def block_sizes(self, image: MapSize) -> tuple[tuple[MapSize, MapSize], ...]:
        """Input and output map size of every block for an image of that size."""
        size = self.stem_sizes(image)[1]
        sizes: list[tuple[MapSize, MapSize]] = []
        for block in self.blocks:
            out = size.halved() if block.stride == 2 else size
            sizes.append((size, out))
            size = out
        return tuple(sizes)

    @abstractmethod
    def stem_sizes(self, image: MapSize) -> tuple[MapSize, MapSize]:
        """Map sizes after the stem's convolution and at the first block's input."""

    @abstractmethod
    def _blocks(self) -> Iterator[Block]: ...


class ResNet(_Network):
    """A LAUD-ResNet of any width and depth.

    stem_pool: `padded` is torchvision's 3x3/2 max pool with padding 1; `trailing` pads one pixel at
    the right and bottom only (TensorFlow). stride_in_1x1: the first 1x1 of a stage carries its
    stride instead of the 3x3. folded: convolutions have a bias and there is no batch norm.
    official_layout: maskers and channel masks as in the official LAUDNet code.
    """

    stem_kernel: ClassVar[int] = 7

    family: Literal["resnet"] = "resnet"
    stem_width: PositiveInt = 64
    stages: Annotated[tuple[Stage, ...], Field(min_length=1, max_length=8)]
    num_classes: PositiveInt
    stem_pool: Literal["padded", "trailing"] = "padded"
    stride_in_1x1: bool = False
    folded: bool = False
    official_layout: bool = False

    def _blocks(self) -> Iterator[Block]:
        channels = self.stem_width
        for s, stage in enumerate(self.stages):
            for b in range(stage.depth):
                yield Block(
                    stage=s,
                    index=b,
                    in_channels=channels,
                    width=stage.width,
                    out_channels=stage.width * EXPANSION,
                    stride=2 if b == 0 and s > 0 else 1,
                    paradigm=stage.paradigm,
                    granularity=stage.granularity,
                )
                channels = stage.width * EXPANSION

    def stem_sizes(self, image: MapSize) -> tuple[MapSize, MapSize]:
        """Map sizes after the 7x7/2 convolution and after the max pool."""
        conv = image.halved()
        if self.stem_pool == "padded":
            return conv, conv.halved()
        return conv, MapSize(max(conv.height // 2, 1), max(conv.width // 2, 1))


class RegNet(_Network):
    """A LAUD-RegNetY (arXiv:2003.13678): bottleneck ratio 1, grouped 3x3, squeeze-and-excitation.

    The stem is a 3x3/2 without a pool, and every stage starts with a stride of 2 in its 3x3.
    squeeze_ratio: hidden units of squeeze-and-excitation over the channels of the *block's input*,
    as torchvision has it (0: none, RegNetX). squeeze_over: what its mean is taken over where pixels
    are skipped: the `active` ones, so that skipping is exact, or the whole `map` as the official
    code does, which needs the first two convolutions on every pixel. folded: convolutions have a
    bias and there is no batch norm. official_layout: maskers as in the official LAUDNet code, and a
    channel granularity that may cut through the groups of the 3x3.
    """

    stem_kernel: ClassVar[int] = 3
    stride_in_1x1: ClassVar[bool] = False

    family: Literal["regnet"] = "regnet"
    stem_width: PositiveInt = 32
    stages: Annotated[tuple[RegNetStage, ...], Field(min_length=1, max_length=8)]
    num_classes: PositiveInt
    squeeze_ratio: Annotated[float, Field(ge=0.0, le=4.0)] = 0.25
    squeeze_over: Literal["active", "map"] = "active"
    folded: bool = False
    official_layout: bool = False

    @model_validator(mode="after")
    def _whole_groups(self) -> Self:
        for stage in self.stages:
            group = stage.channel_granularity
            if group and group % stage.group_width and not self.official_layout:
                raise ValueError(
                    f"channel_granularity {group} is not a multiple of group_width "
                    f"{stage.group_width}: a decision has to cover whole groups of the 3x3"
                )
        return self

    def _blocks(self) -> Iterator[Block]:
        channels = self.stem_width
        for s, stage in enumerate(self.stages):
            for b in range(stage.depth):
                # At least one unit, where the ratio asks for any.
                squeeze = max(round(self.squeeze_ratio * channels), 1) if self.squeeze_ratio else 0
                yield Block(
                    stage=s,
                    index=b,
                    in_channels=channels,
                    width=stage.width,
                    out_channels=stage.width,
                    stride=2 if b == 0 else 1,
                    paradigm=stage.paradigm,
                    granularity=stage.granularity,
                    conv_groups=stage.width // stage.group_width,
                    squeeze_width=squeeze,
                )
                channels = stage.width

    def stem_sizes(self, image: MapSize) -> tuple[MapSize, MapSize]:
        """Map size after the 3x3/2 convolution, twice: nothing is pooled."""
        conv = image.halved()
        return conv, conv


Architecture = Annotated[ResNet | RegNet, Field(discriminator="family")]


def only_resnet(net: ResNet | RegNet, who: str) -> ResNet:
    """`net`, where it is a ResNet; BundleError says that `who` runs no other family."""
    if isinstance(net, ResNet):
        return net
    raise BundleError(
        f"{who} takes networks of the family 'resnet', this one is a '{net.family}': "
        "the reference engine runs it"
    )


DEPTHS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
REGNET_STAGES = {
    "regnet_y_400mf": tuple(
        RegNetStage(depth=depth, width=width, group_width=8)
        for depth, width in ((1, 48), (3, 104), (6, 208), (6, 440))
    ),
    "regnet_y_800mf": tuple(
        RegNetStage(depth=depth, width=width, group_width=16)
        for depth, width in ((1, 64), (3, 144), (8, 320), (2, 784))
    ),
}
