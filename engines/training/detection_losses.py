"""What a detector's answers lack, in numbers to descend: classes, boxes, centres and masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engines.models.detection import DenseNetwork, LaudDetector
from engines.models.masks import Decide, Mask
from engines.training.scene_batches import Target


def detection_losses(
    model: LaudDetector,
    x: Tensor,
    targets: list[Target],
    decide: Decide | None = None,
    *,
    autocast: bool,
) -> tuple[dict[str, Tensor], list[Mask]]:
    """Losses of normalised images (N, 3, H, W), of classes, boxes, centres and masks; and what
    maskers decided."""
    height, width = x.shape[2:]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        raw, asked = model.dense(x, decide)
    outputs = raw.float()
    places = model.instances.places(outputs, height, width)
    known = [
        {"boxes": torch.from_numpy(each.boxes), "labels": torch.from_numpy(each.labels)}
        for each in targets
    ]
    answers = {
        "cls_logits": outputs.logits,
        "bbox_regression": outputs.distances,
        "bbox_ctrness": outputs.centres,
    }
    matched = [torch.from_numpy(each.places) for each in targets]
    if (active := active_places(model.dense, asked)) is not None:
        # What is not computed can learn nothing, and must not count among what does.
        matched = [each.where(on, -1) for each, on in zip(matched, active, strict=True)]
    found = model.dense.head.compute_loss(known, answers, [places] * len(targets), matched)
    losses: dict[str, Tensor] = {
        "class": found["classification"],
        "box": found["bbox_regression"],
        "centre": found["bbox_ctrness"],
    }
    if model.detector.masks:
        losses["mask"] = mask_loss(model, outputs.features, targets, height, width, autocast)
    return losses, asked


def active_places(dense: DenseNetwork, masks: list[Mask]) -> Tensor | None:
    """Which places of all levels are computed, bool (N, P); None where all are."""
    first = len(dense.net.maskers)
    of_levels = [mask.pixels for mask in masks if mask.masker >= first]
    if not of_levels:
        return None
    return torch.cat([each.flatten(1) > 0 for each in of_levels if each is not None], dim=1)


def mask_losses(
    model: LaudDetector,
    x: Tensor,
    targets: list[Target],
    decide: Decide | None = None,
    *,
    autocast: bool,
) -> dict[str, Tensor]:
    """Of masks alone, as `detection_losses`: nothing before the mask head learns from it."""
    height, width = x.shape[2:]
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        outputs, _ = model.dense(x, decide)
    return {"mask": mask_loss(model, outputs.features, targets, height, width, autocast)}


def mask_loss(
    model: LaudDetector,
    features: Sequence[Tensor],
    targets: Sequence[Target],
    height: int,
    width: int,
    autocast: bool,
) -> Tensor:
    """Mean over the samples of all masks of their cross-entropy; 0 where there is no object."""
    boxes = [torch.from_numpy(each.mask_boxes) for each in targets]
    # RoIAlign interpolates: in 16 bits its gradient would be lost in rounding.
    wide = [feature.float() for feature in features]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        logits = model.instances.mask_logits(wide, boxes, height, width)
    wanted = torch.from_numpy(np.concatenate([each.mask_pixels for each in targets])).float()
    # The sum of nothing, where no picture has an object, still has a gradient.
    total = F.binary_cross_entropy_with_logits(logits.float(), wanted, reduction="sum")
    return total / max(wanted.numel(), 1)
