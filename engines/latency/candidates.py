"""What a stage of a network may skip: the candidates that a design is chosen from. No costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from engines.architecture import DEPTHS, MapSize, ResNet, Stage
from engines.core import FrozenModel, Paradigm
from engines.errors import InvalidInput
from engines.latency.shapes import NetworkShape, named_shape

PATCHES = (1, 2, 4, 7, 8, 14, 28, 56)
GROUPS = (1, 2, 4, 8, 16, 32, 64)
NUM_STAGES = 4
"""Of every network that can be designed."""

_STEM_WIDTH = 64
_NUM_CLASSES = 1000
# Where a candidate has no use for a granularity, `named_shape` ignores what it is given.
_UNUSED = 1


class Candidate(FrozenModel):
    """What one stage skips. patch: pixels on a side (spatial). group: channels (channel)."""

    paradigm: Paradigm
    patch: Annotated[int, Field(ge=1)] | None = None
    group: Annotated[int, Field(ge=1)] | None = None

    @property
    def short(self) -> str:
        """`S=4`, `G=8`, `layer` or `static`."""
        if self.patch is not None:
            return f"S={self.patch}"
        return self.paradigm.value if self.group is None else f"G={self.group}"

    @property
    def label(self) -> str:
        """With the paradigm: `spatial S=4`."""
        return self.short if self.short == self.paradigm else f"{self.paradigm} {self.short}"


STATIC = Candidate(paradigm=Paradigm.STATIC)
LAYER = Candidate(paradigm=Paradigm.LAYER)


@dataclass(frozen=True, slots=True)
class SkipRates:
    """Which share of its units each paradigm leaves active. Raises InvalidInput outside 0 to 1."""

    spatial: float = 0.5
    channel: float = 0.5
    layer: float = 0.5

    def __post_init__(self) -> None:
        for name in ("spatial", "channel", "layer"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InvalidInput(
                    f"the rate of {name} skipping must be 0 to 1, got {getattr(self, name)}"
                )

    def of(self, candidate: Candidate) -> float:
        """The rate of that candidate; static computes everything."""
        if candidate.paradigm is Paradigm.STATIC:
            return 1.0
        return float(getattr(self, candidate.paradigm.value))


class StageShape(FrozenModel):
    """One stage: its blocks, inner channels, and the map behind it in pixels."""

    name: str
    depth: int
    width: int
    map_height: int
    map_width: int

    def units(self, candidate: Candidate) -> int:
        """How many decisions a block of it takes per image."""
        size = MapSize(self.map_height, self.map_width)
        if candidate.group is not None:
            return self.width // candidate.group
        return 0 if candidate.paradigm is Paradigm.STATIC else size.patches(candidate.patch).area


def stages_of(shape: NetworkShape) -> tuple[StageShape, ...]:
    """The stages of a network, in order."""
    found: list[StageShape] = []
    for name in dict.fromkeys(_stage_name(block.name) for block in shape.blocks):
        blocks = [block for block in shape.blocks if _stage_name(block.name) == name]
        found.append(
            StageShape(
                name=name,
                depth=len(blocks),
                width=blocks[-1].mid_channels,
                map_height=blocks[-1].height,
                map_width=blocks[-1].width,
            )
        )
    return tuple(found)


def stage_indices(shape: NetworkShape) -> tuple[int, ...]:
    """Per block, which stage it is in, from 0."""
    names = [_stage_name(block.name) for block in shape.blocks]
    order = list(dict.fromkeys(names))
    return tuple(order.index(name) for name in names)


def candidates(
    stage: StageShape, patches: Sequence[int] = PATCHES, groups: Sequence[int] = GROUPS
) -> tuple[Candidate, ...]:
    """Static, layer, every patch smaller than the map, every group that is a part of the width.

    A patch that covers the map, or a group of all inner channels, skips the block or nothing: that
    is layer skipping, and is not listed twice. Raises InvalidInput for a granularity below 1.
    """
    for what, values in (("patch", patches), ("group of channels", groups)):
        if min(values, default=1) < 1:
            raise InvalidInput(f"a {what} must be at least 1, got {min(values)}")
    side = max(stage.map_height, stage.map_width)
    return (
        STATIC,
        *(
            Candidate(paradigm=Paradigm.SPATIAL, patch=patch)
            for patch in sorted(set(patches))
            if patch < side
        ),
        *(
            Candidate(paradigm=Paradigm.CHANNEL, group=group)
            for group in sorted(set(groups))
            if group < stage.width and stage.width % group == 0
        ),
        LAYER,
    )


def shape_with(arch: str, choice: Sequence[Candidate], image: MapSize) -> NetworkShape:
    """A published network with one candidate per stage; InvalidInput as `named_shape`."""
    return named_shape(
        arch,
        [each.paradigm for each in choice],
        spatial_granularity=[each.patch or _UNUSED for each in choice],
        channel_granularity=[each.group or _UNUSED for each in choice],
        image=image,
    )


def network_with(arch: str, choice: Sequence[Candidate]) -> ResNet:
    """The same as a network that our engine runs; InvalidInput where it runs no such one."""
    if arch not in DEPTHS:
        raise InvalidInput(
            f"our engine runs no '{arch}'; it runs {', '.join(DEPTHS)} (plan others for a GPU)"
        )
    depths = DEPTHS[arch]
    if len(choice) != NUM_STAGES:
        raise InvalidInput(f"{arch} has {NUM_STAGES} stages, got {len(choice)} candidates")
    return ResNet(
        stem_width=_STEM_WIDTH,
        stages=tuple(
            Stage(
                depth=depth,
                width=_STEM_WIDTH * 2**s,
                paradigm=each.paradigm,
                spatial_granularity=each.patch,
                channel_granularity=each.group,
            )
            for s, (depth, each) in enumerate(zip(depths, choice, strict=True))
        ),
        num_classes=_NUM_CLASSES,
        folded=True,
    )


def _stage_name(block: str) -> str:
    return block.partition(".")[0]
