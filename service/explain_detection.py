"""What `?explain=1` adds to an answer that lists objects: the work by part, and what was skipped.

Pure functions of what the engine tells anyway.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate, pairwise

from engines.architecture import MapSize, ResNet, only_resnet
from engines.detection.architecture import (
    LEVELS,
    Detector,
    LevelRates,
    detector_macs,
    level_macs,
    pyramid_sizes,
)
from engines.detection.letterbox import inner_size
from engines.errors import EngineError
from engines.macs import static_macs
from service.executor import Model
from service.explain import Bools, active_pixels, computed_blocks, summary
from service.request import Reply
from service.schemas.detection import DenseMacs, ObjectsExplanation, PyramidLevel


def explain_objects(model: Model, reply: Reply, width: int, height: int) -> ObjectsExplanation:
    """The explanation of one picture of that size. TypeError where the model finds no objects."""
    detector, point = model.manifest.detector, reply.point
    if detector is None or reply.objects is None:
        raise TypeError("objects are explained of a model that finds them")
    net = only_resnet(model.manifest.architecture, "finding objects")
    image = MapSize(point.image_size, point.image_size)
    nothing = detector_macs(net, detector, image)
    of_backbone, of_levels = _parted(net, detector, image, reply)
    computed = computed_blocks(net, of_backbone)
    backbone = pyramid = heads = total = ratio = None
    objects = len(reply.objects.scores)
    masks = nothing.per_object * objects
    if computed.macs is not None:
        # The classifier of the architecture is not there.
        backbone = round(computed.macs) - (static_macs(net, image) - nothing.backbone)
    rates = _level_rates(net, detector, image, reply, of_levels)
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
                stride=image.height // size.height,
                rows=size.height,
                columns=size.width,
                activation=activation,
            )
            for size, activation in zip(
                pyramid_sizes(net, image), _level_activation(net, detector, reply), strict=True
            )
        ],
        map=computed.map,
        blocks=computed.blocks,
    )


def _level_activation(net: ResNet, detector: Detector, reply: Reply) -> list[float]:
    """Share of the patches of each level that were computed."""
    if not detector.num_maskers:
        return [1.0] * LEVELS
    return [round(float(share), 6) for share in reply.activation[len(net.maskers) :]]


def _parted(
    net: ResNet, detector: Detector, image: MapSize, reply: Reply
) -> tuple[Reply, list[Bools] | None]:
    """The reply with the decisions of the backbone's maskers only, and those of each level's; None
    where the engine does not tell them."""
    if reply.decisions is None or detector.level_patches is None:
        return reply, None
    patches = zip(pyramid_sizes(net, image), detector.level_patches, strict=True)
    counts = [size.patches(patch).area for size, patch in patches]
    start = len(reply.decisions) - sum(counts)
    if start < 0:
        raise EngineError(f"the engine told {len(reply.decisions)} decisions, too few for levels")
    ends = pairwise(accumulate(counts, initial=start))
    of_backbone = replace(reply, decisions=reply.decisions[:start])
    return of_backbone, [reply.decisions[first:last] for first, last in ends]


def _level_rates(
    net: ResNet, detector: Detector, image: MapSize, reply: Reply, told: list[Bools] | None
) -> list[LevelRates] | None:
    """What each level executed; None where it does not follow from what the engine tells."""
    patches, rates = detector.level_patches, []
    if patches is None:
        return [LevelRates()] * LEVELS
    shares = reply.activation[len(net.maskers) :].tolist()
    for level, (size, patch) in enumerate(zip(pyramid_sizes(net, image), patches, strict=True)):
        masker = len(net.maskers) + level
        asked = reply.point.thresholds[masker] is not None or reply.point.caps[masker] is not None
        share = shares[level]
        if told is not None:
            grid = size.patches(patch)
            units = told[level].reshape(grid.height, grid.width)
            share = float(active_pixels(units, patch, size).mean())
        elif (size.height % patch or size.width % patch) and 0.0 < share < 1.0:
            # Patches at the border are smaller: how many pixels were active is not known.
            return None
        rates.append(LevelRates(share, float(asked)))
    return rates
