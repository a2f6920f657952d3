"""What `?explain=1` adds to an answer that lists objects: the work by part, and what was skipped.

Pure functions of what the engine tells anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from engines.architecture import MapSize, ResNet, only_resnet
from engines.detection.architecture import (
    LEVELS,
    Detector,
    LevelRates,
    detector_macs,
    level_macs,
    level_units_of,
    pyramid_sizes,
)
from engines.detection.letterbox import inner_size
from engines.errors import EngineError
from engines.macs import static_macs
from service.explain import (
    Bools,
    Computed,
    Grid,
    Kept,
    active_pixels,
    computed_blocks,
    kept_of,
    map_of,
    rows_of,
    summary,
)
from service.model import Model
from service.request import Reply
from service.schemas.detection import DenseMacs, ObjectsExplanation, PyramidLevel
from service.schemas.v1 import ExplainedMasker


@dataclass(frozen=True, slots=True)
class _Level:
    """A level of the pyramid and what its masker decided. patch: None without a masker. activation:
    share of its patches. grid: None where the engine does not tell it."""

    size: MapSize
    patch: int | None
    evaluated: bool
    activation: float
    grid: Grid | None


def explain_objects(model: Model, reply: Reply, width: int, height: int) -> ObjectsExplanation:
    """The explanation of one picture of that size. TypeError where the model finds no objects."""
    net, detector = _network(model)
    if reply.objects is None:
        raise TypeError("objects are explained of a model that finds them")
    point = reply.point
    image = MapSize(point.image_size, point.image_size)
    nothing = detector_macs(net, detector, image)
    of_backbone, levels = _parted(net, detector, image, reply)
    computed = computed_blocks(net, of_backbone)
    backbone = pyramid = heads = total = ratio = None
    objects = len(reply.objects.scores)
    masks = nothing.per_object * objects
    if computed.macs is not None:
        # The classifier of the architecture is not there.
        backbone = round(computed.macs) - (static_macs(net, image) - nothing.backbone)
    rates = _level_rates(levels)
    if rates is not None:
        pyramid, heads = map(round, level_macs(net, detector, image, rates))
    if backbone is not None and pyramid is not None and heads is not None:
        total = backbone + pyramid + heads + masks
    elif reply.macs is not None:
        total = round(reply.macs)
        if pyramid is not None and heads is not None:
            backbone = total - pyramid - heads - masks
    if total is not None:
        ratio = round((total - masks) / nothing.dense, 4)
    inner = inner_size(width, height, point.image_size)
    padding = 1.0 - inner[0] * inner[1] / point.image_size**2
    return ObjectsExplanation(
        summary=f"{summary(point, ratio)}; {padding:.1%} of the square is padding",
        skips_nothing=point.skips_nothing,
        image_size=point.image_size,
        picture=inner,
        padding_ratio=round(padding, 4),
        objects=objects,
        macs=DenseMacs(backbone=backbone, pyramid=pyramid, heads=heads, masks=masks, total=total),
        macs_ratio=ratio,
        levels=[
            PyramidLevel(
                stride=image.height // level.size.height,
                rows=level.size.height,
                columns=level.size.width,
                activation=round(level.activation, 6),
                masker=_masker(level),
            )
            for level in levels
        ],
        map=map_of(_grids(computed, levels)),
        blocks=computed.blocks,
    )


def kept_in(model: Model, reply: Reply) -> Kept | None:
    """How many maskers of backbone and levels kept each patch of the square that the network saw;
    None where the engine does not tell, or none masks space. TypeError as `explain_objects`."""
    net, detector = _network(model)
    image = MapSize(reply.point.image_size, reply.point.image_size)
    of_backbone, levels = _parted(net, detector, image, reply)
    return kept_of(_grids(computed_blocks(net, of_backbone), levels))


def _network(model: Model) -> tuple[ResNet, Detector]:
    detector = model.manifest.detector
    if detector is None:
        raise TypeError("objects are explained of a model that finds them")
    return only_resnet(model.manifest.architecture, "finding objects"), detector


def _grids(computed: Computed, levels: Sequence[_Level]) -> list[Grid]:
    return [*computed.grids, *(level.grid for level in levels if level.grid is not None)]


def _parted(
    net: ResNet, detector: Detector, image: MapSize, reply: Reply
) -> tuple[Reply, list[_Level]]:
    """The reply with the decisions of the backbone's maskers only, and what those of the levels
    decided."""
    sizes, patches = pyramid_sizes(net, image), detector.level_patches
    if patches is None:
        return reply, [_Level(size, None, False, 1.0, None) for size in sizes]
    told: list[Bools | None] = [None] * LEVELS
    if reply.decisions is not None:
        counts = level_units_of(net, detector, image)
        start = len(reply.decisions) - sum(counts)
        if start < 0:
            raise EngineError(
                f"the engine told {len(reply.decisions)} decisions, too few for levels"
            )
        ends = pairwise(accumulate(counts, initial=start))
        told = [reply.decisions[first:last] for first, last in ends]
        reply = replace(reply, decisions=reply.decisions[:start])
    shares = reply.activation[len(net.maskers) :].tolist()
    levels: list[_Level] = []
    for i, (size, patch, units) in enumerate(zip(sizes, patches, told, strict=True)):
        masker = len(net.maskers) + i
        asked = reply.point.thresholds[masker] is not None or reply.point.caps[masker] is not None
        grid = None
        if units is not None:
            shape = size.patches(patch)
            grid = Grid(units.reshape(shape.height, shape.width), size, patch)
        levels.append(_Level(size, patch, asked, shares[i], grid))
    return reply, levels


def _level_rates(levels: Sequence[_Level]) -> list[LevelRates] | None:
    """What each level executed; None where it does not follow from what the engine tells."""
    rates: list[LevelRates] = []
    for level in levels:
        size, patch, share = level.size, level.patch, level.activation
        if level.grid is not None:
            share = float(active_pixels(level.grid.active, patch, size).mean())
        elif patch and (size.height % patch or size.width % patch) and 0.0 < share < 1.0:
            # Patches at the border are smaller: how many pixels were active is not known.
            return None
        rates.append(LevelRates(share, float(level.evaluated)))
    return rates


def _masker(level: _Level) -> ExplainedMasker | None:
    if level.patch is None:
        return None
    active = None if level.grid is None else level.grid.active
    return ExplainedMasker(
        kind="spatial",
        granularity=level.patch,
        evaluated=level.evaluated,
        activation=round(level.activation, 6),
        active=None if active is None else int(active.sum()),
        total=None if active is None else active.size,
        rows=None if active is None else rows_of(active),
    )
