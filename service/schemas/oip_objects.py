"""The Open Inference Protocol v2 for models that find objects: what may be asked, and the answer.

Tensors are rectangular and pictures hold any number of objects: an image's row is filled from its
left, the surest object first, `counts` tells how far, and the rest is 0, label -1, mask "".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from pydantic import ValidationError

from engines.detection.rle import coco_rle
from engines.detection.scenes import Detections
from service.errors import BadRequest
from service.schemas.detection import Limits
from service.schemas.oip import (
    BOXES,
    COUNTS,
    EXPLANATION,
    LABELS,
    MASKS,
    POINT,
    SCORES,
    WantedOutput,
    shown,
)
from service.schemas.oip_answer import Tensor, texts

NO_LABEL = -1


def limits_of(parameters: Mapping[str, Any]) -> Limits:
    """Which objects the parameters `min_score` and `top` ask for. Raises BadRequest."""
    asked = {name: parameters[name] for name in Limits.model_fields if name in parameters}
    try:
        return Limits.model_validate(asked, strict=True)
    except ValidationError as error:
        fault = error.errors()[0]
        name = str(fault["loc"][0])
        raise BadRequest(f"parameter '{name}': {fault['msg']}, got {shown(asked[name])}") from None


def mask_texts(found: Detections, width: int, height: int) -> list[str]:
    """The masks of a picture of that size as COCO's run lengths, JSON each."""
    return [orjson.dumps(coco_rle(mask, width, height)).decode() for mask in found.masks or ()]


@dataclass(frozen=True, slots=True, eq=False)
class FoundObjects:
    """What was found in the N images of a request, in their order.

    found: in the pixels of each picture as it was sent, turned upright. masks: per image, one text
    an object; nothing where the output was not asked for. points, explanations: as of labels.
    """

    found: Sequence[Detections]
    masks: Sequence[Sequence[str]]
    points: Sequence[str]
    explanations: Sequence[str] = ()

    def tensor(self, output: WantedOutput) -> Tensor:
        """See `service.schemas.oip_answer.Answers`; D is the largest count of the request."""
        shape = (len(self.found), max(map(len, self.found)))
        if output.name == COUNTS:
            return "INT32", np.array([len(each) for each in self.found])
        if output.name == BOXES:
            boxes = [each.boxes for each in self.found]
            return "FP32", _filled(np.zeros((*shape, 4), np.float32), boxes)
        if output.name == SCORES:
            scores = [each.scores for each in self.found]
            return "FP32", _filled(np.zeros(shape, np.float32), scores)
        if output.name == LABELS:
            return "INT32", _filled(np.full(shape, NO_LABEL), [each.labels for each in self.found])
        if output.name == MASKS:
            return "BYTES", _filled(np.full(shape, "", object), self.masks)
        return "BYTES", texts({POINT: self.points, EXPLANATION: self.explanations}[output.name])


def _filled(tensor: npt.NDArray[Any], rows: Sequence[Any]) -> npt.NDArray[Any]:
    """The tensor (N, D, ...) with each row's values from its left."""
    for into, values in zip(tensor, rows, strict=True):
        into[: len(values)] = values
    return tensor
