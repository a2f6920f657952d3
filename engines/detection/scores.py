"""COCO's metrics, computed by faster-coco-eval: average precision of boxes and of masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from engines.core import FrozenModel
from engines.detection.rle import coco_rle
from engines.detection.scenes import Detections, InstanceMask, Scene
from engines.errors import InvalidInput

MAX_DETECTIONS = (1, 100, 500)
"""COCO's 1, 10, 100 are too few: a picture of nuclei may hold 375."""

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class DetectionScores(FrozenModel):
    """Average precision on `images` pictures with `objects` objects, mean over labels.

    ap: mean over IoU .50 to .95 in steps of .05. ap50, ap75: at IoU .50 and .75. small, medium,
    large: ap of objects of less than 32^2 pixels, of less than 96^2, and of the others; None where
    there are none. All with up to the last of `max_detections` a picture and label. Masks are None
    where there are none; what came later than `ap50` also where nobody kept it.
    """

    max_detections: tuple[int, ...] = MAX_DETECTIONS
    images: Annotated[int, Field(ge=1)]
    objects: Annotated[int, Field(ge=0)]
    box_ap: Share
    box_ap50: Share
    box_ap75: Share | None = None
    box_ap_small: Share | None = None
    box_ap_medium: Share | None = None
    box_ap_large: Share | None = None
    mask_ap: Share | None = None
    mask_ap50: Share | None = None
    mask_ap75: Share | None = None
    mask_ap_small: Share | None = None
    mask_ap_medium: Share | None = None
    mask_ap_large: Share | None = None


def check_scoring() -> None:
    """Raise ModuleNotFoundError where what scores is missing: before the work, not behind it."""
    import faster_coco_eval  # noqa: F401


def score(
    scenes: Sequence[Scene], found: Sequence[Detections], labels: Sequence[str]
) -> DetectionScores:
    """Judge what was `found` in each of `scenes`. Pictures without objects count: whatever is
    found there is wrong.

    Masks are judged where both sides have them. Raises InvalidInput for lists of different lengths
    or where no object is there to be found.
    """
    if len(scenes) != len(found) or not scenes:
        raise InvalidInput(f"{len(scenes)} pictures need as many detections, got {len(found)}")
    objects = sum(int((~scene.ignored).sum()) for scene in scenes)
    if not objects:
        raise InvalidInput("no picture has an object: average precision is not defined")
    with_masks = all(scene.masks is not None for scene in scenes) and all(
        each.masks is not None for each in found
    )
    from faster_coco_eval import COCO

    truth = COCO(_truth(scenes, labels, with_masks))
    answers = truth.loadRes(_answers(scenes, found, with_masks))
    kinds = {"box": "bbox", "mask": "segm"} if with_masks else {"box": "bbox"}
    return DetectionScores.model_validate(
        {
            "images": len(scenes),
            "objects": objects,
            **{
                f"{name}_{measure}": value
                for name, kind in kinds.items()
                for measure, value in _average_precision(truth, answers, kind).items()
            },
        }
    )


def _average_precision(truth: Any, answers: Any, kind: str) -> dict[str, float | None]:
    from faster_coco_eval import COCOeval_faster

    judge = COCOeval_faster(
        truth, answers, kind, print_function=lambda *_: None, rle_iou_max_workers=1
    )
    judge.params.maxDets = list(MAX_DETECTIONS)
    judge.evaluate()
    judge.accumulate()
    # (IoU, recall, label, size of object, most detections); -1 where a label has no object.
    precision = np.asarray(judge.eval["precision"])[..., -1]

    def mean(ious: slice, size: int) -> float | None:
        present = precision[0, 0, :, size] > -1
        return float(precision[ious][:, :, present, size].mean()) if present.any() else None

    every = slice(None)
    return {
        "ap": mean(every, 0),
        "ap50": mean(slice(0, 1), 0),
        "ap75": mean(slice(5, 6), 0),
        "ap_small": mean(every, 1),
        "ap_medium": mean(every, 2),
        "ap_large": mean(every, 3),
    }


def _truth(scenes: Sequence[Scene], labels: Sequence[str], with_masks: bool) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for image, scene in enumerate(scenes, start=1):
        for i, box in enumerate(scene.boxes.tolist()):
            mask = scene.masks[i] if scene.masks is not None and with_masks else None
            entry = {
                "id": len(annotations) + 1,
                "image_id": image,
                "category_id": int(scene.labels[i]) + 1,
                "iscrowd": int(scene.ignored[i]),
            }
            annotations.append(entry | _place(box, mask, scene))
    return {
        "info": {},
        "images": [
            {"id": image, "width": scene.width, "height": scene.height}
            for image, scene in enumerate(scenes, start=1)
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(labels, start=1)],
        "annotations": annotations,
    }


def _answers(
    scenes: Sequence[Scene], found: Sequence[Detections], with_masks: bool
) -> list[dict[str, Any]]:
    answers: list[dict[str, Any]] = []
    for image, (scene, each) in enumerate(zip(scenes, found, strict=True), start=1):
        for i, box in enumerate(each.boxes.tolist()):
            mask = each.masks[i] if each.masks is not None and with_masks else None
            entry = {
                "image_id": image,
                "category_id": int(each.labels[i]) + 1,
                "score": float(each.scores[i]),
            }
            answers.append(entry | _place(box, mask, scene))
    return answers


def _place(box: Sequence[float], mask: InstanceMask | None, scene: Scene) -> dict[str, Any]:
    left, top, right, bottom = box
    place: dict[str, Any] = {"bbox": [left, top, right - left, bottom - top]}
    place["area"] = (right - left) * (bottom - top)
    if mask is not None:
        place["segmentation"] = dict(coco_rle(mask, scene.width, scene.height))
        place["area"] = mask.area
    return place
