"""Answers of the routes that find objects. Boxes are in pixels of the upright picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, NotRequired

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from engines.detection.architecture import MOST_DETECTIONS
from engines.detection.polygons import Polygon, polygons_of
from engines.detection.rle import coco_rle
from engines.detection.scenes import Detections
from service.contract import Terms, milliseconds
from service.model import Model
from service.request import Reply
from service.schemas.v1 import (
    AnswerTerms,
    ExplainedBlock,
    ExplainedMasker,
    Measured,
    SkipMap,
    Wire,
    objective_terms,
    predicted_terms,
)


class Limits(BaseModel):
    """Which of the objects that were found are answered."""

    model_config = ConfigDict(frozen=True)

    min_score: Annotated[
        float, Field(ge=0, le=1, description="Answer no object that is less sure.")
    ] = 0.5
    top: Annotated[
        int, Field(ge=1, le=MOST_DETECTIONS, description="How many objects to answer at most.")
    ] = MOST_DETECTIONS


class DetectQuery(Limits):
    """The query of `POST /v1/detect`; what else is in it is ignored."""

    model: Annotated[str | None, Field(description="May be left out when one is served.")] = None
    overlay: Annotated[
        bool,
        Field(description="Answer a JPEG of the picture with the objects drawn, instead of JSON."),
    ] = False
    explain: Annotated[
        bool,
        Field(
            description="Also tell what was computed, part by part; with `overlay` tint what was "
            "skipped blue, the bluer the more maskers skipped it."
        ),
    ] = False


class SegmentQuery(DetectQuery):
    """The query of `POST /v1/segment`."""

    masks: Annotated[
        Literal["rle", "polygon"],
        Field(
            description="`rle`: COCO's run lengths. `polygon`: COCO's polygons, exact to the pixel."
        ),
    ] = "rle"


class Rle(TypedDict):
    """A mask of the whole picture as COCO's run lengths. size: height and width."""

    size: list[int]
    counts: str


class Object(TypedDict):
    """One object that was found. box: left, top, right and bottom. area: pixels of its mask."""

    label: str
    score: float
    box: list[float]
    mask: NotRequired[
        Annotated[
            Rle | list[Polygon],
            Field(
                description="Of `/v1/segment`. Polygons are flat lists x0, y0, x1, y1, ... of "
                "corners of pixels, and the mask is their union: parts have one each, and a hole "
                "cuts its part in two that share a side."
            ),
        ]
    ]
    area: NotRequired[int]


class DenseMacs(Wire):
    """Multiply-accumulates of an image by part; null where the engine does not tell what was
    skipped of it. masks: of the mask head, for every object that was found."""

    backbone: int | None
    pyramid: int | None
    heads: int | None
    masks: int
    total: int | None


class PyramidLevel(Wire):
    """A level of the pyramid, at each of whose rows x columns places an object is looked for.

    stride: pixels of the network's input from one place to the next. activation: share of its
    patches that were computed; 1 where nothing is skipped. masker: null where the level has none.
    """

    stride: int
    rows: int
    columns: int
    activation: float
    masker: ExplainedMasker | None


class ObjectsExplanation(Wire):
    """What was computed of this picture, and where.

    image_size: of the square that the network saw. picture: width and height of the picture in its
    upper left corner; the rest, `padding_ratio` of it, is grey. objects: how many were found,
    before `min_score` and `top`. macs_ratio: without the mask head, over skipping nothing; null
    where the engine does not tell. map, blocks: as of `/v1/classify`, the blocks of the backbone;
    the map covers the square and counts the levels' maskers too; null without spatial maskers.
    """

    summary: str
    skips_nothing: bool
    image_size: int
    picture: tuple[int, int]
    padding_ratio: float
    objects: int
    macs: DenseMacs
    macs_ratio: float | None
    levels: list[PyramidLevel]
    map: SkipMap | None
    blocks: list[ExplainedBlock]


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
    explain: NotRequired[
        Annotated[ObjectsExplanation, Field(description="With `?explain=1` only.")]
    ]


def described(
    found: Detections, labels: Sequence[str], width: int, height: int, *, polygons: bool = False
) -> list[Object]:
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
            if polygons:
                entry["mask"] = polygons_of(mask)
            else:
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
    explanation: ObjectsExplanation | None = None,
) -> Objects:
    """The whole answer; size: width and height of the picture."""
    answer = Objects(
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
    if explanation is not None:
        answer["explain"] = explanation
    return answer
