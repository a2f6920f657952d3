"""What turns a backbone into a detector: pyramid, dense heads, mask head. No weights, no torch.

The network is cut where the number of objects first matters. Before the cut (backbone, pyramid,
dense heads) the cost follows from the image size; behind it, from what was found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from engines.architecture import MapSize, ResNet
from engines.core import FrozenModel, OperatingPoint
from engines.errors import InvalidInput
from engines.macs import static_macs

MOST_DETECTIONS = 500
"""Of one picture; those of the nuclei set hold up to 375 objects."""

CANDIDATES_PER_LEVEL = 1000
"""Surest places of each pyramid level that compete for them."""

LEVELS = 4
STRIDES = (4, 8, 16, 32)
"""Pixels between the places of each pyramid level, the finest first."""

STRIDE = STRIDES[-1]
"""Of the coarsest pyramid level: image sizes are multiples of it."""

LEVEL_UNITS = (2, 4, 8, 16)
"""Per level, the unit of its distances in pixels. A level answers for objects whose farthest side
is 4 to 8 units away (the finest: 0 to 8, the coarsest: 4 and more)."""

MAX_WIDTH = 96

Patch = Annotated[int, Field(ge=1, le=64)]
Look = Annotated[int, Field(ge=0, lt=LEVELS)]


class Detector(FrozenModel):
    """Pyramid and heads over a ResNet of four stages, whose classifier is left out.

    width: channels of the pyramid and of the dense heads. head_convs: 3x3 convolutions in each of
    the two towers (class; box and centre). masks: whether objects get a mask. mask_convs: 3x3
    convolutions of the mask head, `width` channels each. roi_size: samples on a side that a mask,
    twice as large, is made from; more than an object has pixels in the pyramid only interpolate,
    and the head costs its square. overlap: boxes of one label that overlap
    by more (IoU) are one object. least_score: nothing below it is answered.

    level_patches: pixels on a side of the patches of each pyramid level, the finest first. A masker
    a level says which of them are computed: of the others the pyramid is zero, so are the towers,
    and nothing is found there. None: everything is computed. level_looks: the stage (0 to 3) whose
    output each of these maskers looks at; None: every level at its own. A later stage knows better
    what an object is, and is there in time; patches must consist of whole pixels of it.
    """

    width: Annotated[int, Field(ge=8, le=MAX_WIDTH, multiple_of=8)] = 64
    head_convs: Annotated[int, Field(ge=1, le=4)] = 2
    masks: bool = True
    mask_convs: Annotated[int, Field(ge=1, le=4)] = 2
    roi_size: Annotated[int, Field(ge=2, le=28)] = 14
    overlap: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    least_score: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05
    level_patches: tuple[Patch, Patch, Patch, Patch] | None = None
    level_looks: tuple[Look, Look, Look, Look] | None = None

    @model_validator(mode="after")
    def _looks_fit(self) -> Self:
        if self.level_looks is None:
            return self
        if self.level_patches is None:
            raise ValueError("level_looks needs level_patches: there is nobody to look")
        for level, (patch, look) in enumerate(
            zip(self.level_patches, self.level_looks, strict=True)
        ):
            if patch * STRIDES[level] % STRIDES[look]:
                raise ValueError(
                    f"patches of {patch * STRIDES[level]} px of level {level} are not made of the "
                    f"pixels of stage {look}, {STRIDES[look]} px wide: level_looks has to name an "
                    "earlier stage, or level_patches larger patches"
                )
        return self

    @property
    def mask_size(self) -> int:
        """Samples on a side of a mask."""
        return 2 * self.roi_size

    @property
    def num_maskers(self) -> int:
        """Those of the pyramid's levels; they come after the backbone's."""
        return 0 if self.level_patches is None else LEVELS

    @property
    def looks(self) -> tuple[int, ...]:
        """The stage that the masker of each level looks at; of one without maskers its own."""
        return self.level_looks or tuple(range(LEVELS))

    @property
    def windows(self) -> tuple[int, ...]:
        """Pixels on a side of what each masker decides by, in the map that it looks at."""
        patches = enumerate(self.level_patches or ())
        return tuple(p * STRIDES[level] // STRIDES[self.looks[level]] for level, p in patches)


@dataclass(frozen=True, slots=True)
class DetectorMacs:
    """Multiply-accumulates by part with nothing skipped. `per_object` is the mask head's, for each
    object that gets a mask; the others are of one image."""

    backbone: int
    pyramid: int
    heads: int
    per_object: int

    @property
    def dense(self) -> int:
        """All that does not depend on what is found."""
        return self.backbone + self.pyramid + self.heads

    def lines(self) -> list[str]:
        """For printing: part, millions, share of the dense ones."""
        parts = {"backbone": self.backbone, "pyramid": self.pyramid, "dense heads": self.heads}
        lines = [
            f"{name:12} {macs / 1e6:9.1f} M  {macs / self.dense:6.1%}"
            for name, macs in (*parts.items(), ("dense", self.dense))
        ]
        return [*lines, f"{'each object':12} {self.per_object / 1e6:9.1f} M"]


def check_image_size(size: int) -> None:
    """Raise InvalidInput for a size that the pyramid does not divide."""
    if size % STRIDE:
        raise InvalidInput(f"a detector's images are multiples of {STRIDE}, got {size}")


def check_points(points: Sequence[OperatingPoint]) -> None:
    """Raise InvalidInput for points that no detector runs at."""
    for point in points:
        check_image_size(point.image_size)
        if point.glance is not None:
            raise InvalidInput(f"a detector does not glance, point '{point.name}' does")


def pyramid_sizes(net: ResNet, image: MapSize) -> tuple[MapSize, ...]:
    """Map sizes of the pyramid's levels, the finest first: those of the stages' last blocks."""
    sizes = net.block_sizes(image)
    lasts = {block.stage: out for block, (_, out) in zip(net.blocks, sizes, strict=True)}
    return tuple(lasts[stage] for stage in sorted(lasts))


def stage_channels(net: ResNet) -> tuple[int, ...]:
    """Channels of the stages' outputs, the finest first."""
    channels = {block.stage: block.out_channels for block in net.blocks}
    return tuple(channels[stage] for stage in sorted(channels))


def level_units_of(net: ResNet, detector: Detector, image: MapSize) -> tuple[int, ...]:
    """How many units each of the levels' maskers decides on; empty where there are none."""
    if detector.level_patches is None:
        return ()
    sizes = zip(pyramid_sizes(net, image), detector.level_patches, strict=True)
    return tuple(size.patches(patch).area for size, patch in sizes)


@dataclass(frozen=True, slots=True)
class LevelRates:
    """What a level executes: share of its pixels, and whether its masker is asked (1, 0)."""

    pixels: Any = 1.0
    masker: Any = 0.0


def executed_dense_macs(
    net: ResNet,
    detector: Detector,
    image: MapSize,
    network: Any,
    levels: Sequence[LevelRates],
) -> Any:
    """Backbone, pyramid and dense heads at these rates; the type follows the rates'.

    network: what `executed_macs` counts, whose classifier is left out here.
    """
    last = pyramid_sizes(net, image)[-1]
    classifier = net.num_features * (last.area + net.num_classes)
    pyramid, heads = level_macs(net, detector, image, levels)
    return network - classifier + pyramid + heads


def level_macs(
    net: ResNet, detector: Detector, image: MapSize, levels: Sequence[LevelRates]
) -> tuple[Any, Any]:
    """Pyramid, the maskers of its levels included, and dense heads at these rates.

    Laterals are counted everywhere, since coarse levels feed finer ones.
    """
    width, tower = detector.width, _tower(net, detector)
    patches = detector.level_patches or (1,) * LEVELS
    pyramid: Any = 0
    heads: Any = 0
    stages = stage_channels(net)
    for size, channels, look, patch, rate in zip(
        pyramid_sizes(net, image), stages, detector.looks, patches, levels, strict=True
    ):
        masker = 2 * stages[look] * size.patches(patch).area
        smoothing = 9 * width * width * size.area
        pyramid = pyramid + channels * width * size.area
        pyramid = pyramid + smoothing * rate.pixels + masker * rate.masker
        heads = heads + tower * size.area * rate.pixels
    return pyramid, heads


def _tower(net: ResNet, detector: Detector) -> int:
    """Dense heads, a pixel: two towers, and behind them a 3x3 each for classes, four distances and
    the centre."""
    width = detector.width
    return 2 * detector.head_convs * 9 * width * width + 9 * width * (net.num_classes + 5)


def detector_macs(net: ResNet, detector: Detector, image: MapSize) -> DetectorMacs:
    """What each part takes for an image of that size."""
    classifier = net.num_features * (pyramid_sizes(net, image)[-1].area + net.num_classes)
    pyramid, heads = level_macs(net, detector, image, [LevelRates(1, 0)] * LEVELS)
    return DetectorMacs(
        backbone=static_macs(net, image) - classifier,
        pyramid=pyramid,
        heads=heads,
        per_object=macs_per_object(detector),
    )


def macs_per_object(detector: Detector) -> int:
    """What the mask head takes for one object."""
    if not detector.masks:
        return 0
    small, large = detector.roi_size**2, detector.mask_size**2
    width, half = detector.width, detector.width // 2
    convs = detector.mask_convs * 9 * width * width * small
    return convs + 4 * width * half * small + half * large
