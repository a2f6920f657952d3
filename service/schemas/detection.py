"""Answers of the routes that find objects. Boxes are in pixels of the upright picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NotRequired

from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from engines.detection.architecture import MOST_DETECTIONS
from engines.detection.rle import coco_rle
from engines.detection.scenes import Detections
from service.contract import Terms, milliseconds
from service.executor import Model
from service.request import Reply
from service.schemas.v1 import AnswerTerms, Measured, objective_terms, predicted_terms


class DetectQuery(BaseModel):
    """The query of `POST /v1/detect` and `/v1/segment`; what else is in it is ignored."""

    model: Annotated[str | None, Field(description="May be left out when one is served.")] = None
    min_score: Annotated[
        float, Field(ge=0, le=1, description="Answer no object that is less sure.")
    ] = 0.5
    top: Annotated[
        int, Field(ge=1, le=MOST_DETECTIONS, description="How many objects to answer at most.")
    ] = MOST_DETECTIONS
    overlay: Annotated[
        bool,
        Field(description="Answer a JPEG of the picture with the objects drawn, instead of JSON."),
    ] = False


class Rle(TypedDict):
    """A mask of the whole picture as COCO's run lengths. size: height and width."""

    size: list[int]
    counts: str


class Object(TypedDict):
    """One object that was found. box: left, top, right and bottom. area: pixels of its mask."""

    label: str
    score: float
    box: list[float]
    mask: NotRequired[Annotated[Rle, Field(description="Of `/v1/segment`.")]]
    area: NotRequired[int]


class Objects(AnswerTerms):
    """The answer, surest object first. width, height: of the picture as it is seen, upright."""

    model: str
    width: int
    height: int
    objects: list[Object]
    point: Annotated[str, Field(description="The operating point that was used.")]
    reason: Annotated[str, Field(description="Why that point: see `/v1/classify`.")]
    accuracy: Annotated[
        float | None,
        Field(
            description="Average precision at IoU .5 (of masks, where the model has them) that is "
            "expected of that point, measured on pictures that were not trained on."
        ),
    ]


def described(found: Detections, labels: Sequence[str], width: int, height: int) -> list[Object]:
    """Objects as answers tell them. Not for the event loop where there are hundreds of masks."""
    objects: list[Object] = []
    for i, (score, box) in enumerate(zip(found.scores.tolist(), found.boxes.tolist(), strict=True)):
        entry = Object(
            label=labels[int(found.labels[i])],
            score=round(score, 4),
            box=[round(side, 2) for side in box],
        )
        if found.masks is not None:
            mask = found.masks[i]
            runs = coco_rle(mask, width, height)
            entry["mask"] = Rle(size=runs["size"], counts=runs["counts"])
            entry["area"] = mask.area
        objects.append(entry)
    return objects


def objects_answer(
    model: Model,
    reply: Reply,
    terms: Terms,
    size: tuple[int, int],
    objects: list[Object],
    request_id: str,
) -> Objects:
    """The whole answer; size: width and height of the picture."""
    return Objects(
        model=model.name,
        width=size[0],
        height=size[1],
        objects=objects,
        point=reply.point.name,
        reason=reply.reason,
        accuracy=terms.accuracy,
        outcome=terms.outcome,
        slack_ms=milliseconds(terms.slack_s),
        objective=objective_terms(terms.objective),
        predicted=predicted_terms(terms.predicted),
        measured=Measured(
            service_ms=milliseconds(terms.service_s),
            completion_ms=milliseconds(terms.phases_s["total"]),
        ),
        milliseconds={phase: milliseconds(value) for phase, value in terms.phases_s.items()},
        bundle=model.hash,
        engine=model.engine.name,
        precision=model.engine.precision,
        request_id=request_id,
    )
