"""What `?explain=1` adds to an answer that lists objects: the work by part, and what was skipped.

Pure functions of what the engine tells anyway.
"""

from __future__ import annotations

from engines.architecture import MapSize, only_resnet
from engines.detection.architecture import detector_macs, pyramid_sizes
from engines.detection.letterbox import inner_size
from engines.macs import static_macs
from service.executor import Model
from service.explain import computed_blocks, summary
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
    computed = computed_blocks(net, reply)
    backbone = total = ratio = None
    objects = len(reply.objects.scores)
    masks = nothing.per_object * objects
    if computed.macs is not None:
        # The classifier of the architecture is not there.
        backbone = round(computed.macs) - (static_macs(net, image) - nothing.backbone)
        dense = backbone + nothing.pyramid + nothing.heads
        ratio, total = round(dense / nothing.dense, 4), dense + masks
    inner = inner_size(width, height, point.image_size)
    padding = 1.0 - inner[0] * inner[1] / point.image_size**2
    return ObjectsExplanation(
        summary=f"{summary(point, ratio)}; {padding:.1%} of the square is padding",
        skips_nothing=point.skips_nothing,
        image_size=point.image_size,
        picture=inner,
        padding_ratio=round(padding, 4),
        objects=objects,
        macs=DenseMacs(
            backbone=backbone,
            pyramid=nothing.pyramid,
            heads=nothing.heads,
            masks=masks,
            total=total,
        ),
        macs_ratio=ratio,
        levels=[
            PyramidLevel(stride=image.height // size.height, rows=size.height, columns=size.width)
            for size in pyramid_sizes(net, image)
        ],
        map=computed.map,
        blocks=computed.blocks,
    )
