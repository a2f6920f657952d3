"""Answers of our own routes. Ratios are 0 to 1; times are milliseconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, NotRequired

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from engines.bundle import Accuracy, PointRecord
from service.contract import Terms, milliseconds
from service.costs import ModelCosts
from service.model import Model
from service.objectives import Objective, OnInfeasible, SloClass
from service.request import Prediction, Reply


class Wire(BaseModel):
    """Base of all answers: immutable, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ClassifyQuery(BaseModel):
    """The query of `POST /v1/classify`; what else is in it is ignored."""

    model_config = ConfigDict(frozen=True)

    model: Annotated[str | None, Field(description="May be left out when one is served.")] = None
    top: Annotated[int, Field(ge=1, le=1000, description="How many labels to answer.")] = 5
    explain: Annotated[
        bool, Field(description="Also tell which parts of the image each block computed.")
    ] = False


class Label(TypedDict):
    """One class and its probability."""

    label: str
    probability: float


class ObjectiveTerms(TypedDict):
    """What the request asked for, all sources merged."""

    slo_ms: Annotated[float, Field(description="Due so long after the first byte.")]
    slo_class: Annotated[str, Field(description="A class, or `custom` for a time of its own.")]
    min_accuracy: float | None
    operating_point: Annotated[str | None, Field(description="The one that was pinned, if any.")]
    on_infeasible: OnInfeasible


class Predicted(TypedDict):
    """What was predicted when the point was chosen; p95 is what was planned with.

    service: of the batch, dispatch to engine done. completion: first byte in to last byte out.
    """

    service_p50_ms: float
    service_p95_ms: float
    completion_p50_ms: float
    completion_p95_ms: float


class Measured(TypedDict):
    """What it then took. completion: to the moment that this answer was written."""

    service_ms: float
    completion_ms: float


class ExplainedMasker(Wire):
    """What one masker decided about this image.

    granularity: patch edge in pixels of the block's map, or channels per group; null: the whole
    map. evaluated: false where the point does not ask this masker, and all is computed. active,
    total: units, null where the engine does not tell. rows: of a spatial masker, the grid of
    patches, top row first, `1` computed and `0` skipped.
    """

    kind: Literal["spatial", "channel"]
    granularity: int | None
    evaluated: bool
    activation: float
    active: int | None
    total: int | None
    rows: list[str] | None


class ExplainedBlock(Wire):
    """One block. macs_ratio: multiply-accumulates executed, over those of skipping nothing."""

    name: str
    paradigm: str
    macs_ratio: float | None
    maskers: list[ExplainedMasker]


class SkipMap(Wire):
    """Per patch, top row first, how many of the spatial `maskers` had it computed.

    On the finest of their grids. Like all grids it covers what the network saw: the centre square,
    `crop_ratio` of the picture's short side.
    """

    maskers: int
    counts: list[list[int]]


class Explanation(Wire):
    """What was computed of this image, and where. `map` is null without spatial maskers.

    looked_again: whether a point that glances computed it at its own size; null where the point
    does not glance. image_size: what the answer was computed at; maskers and map are those of that
    size. macs_ratio, of blocks too: both looks, over skipping nothing at the point's own size.
    """

    summary: str
    skips_nothing: bool
    looked_again: bool | None = None
    image_size: int
    crop_ratio: float
    macs_ratio: float | None
    map: SkipMap | None
    blocks: list[ExplainedBlock]


class AnswerTerms(TypedDict):
    """What every answer tells of its objective, of what it took and of what gave it."""

    outcome: Annotated[Literal["met", "late"], Field(description="In time or not.")]
    slack_ms: Annotated[float, Field(description="Left until the deadline; negative when late.")]
    objective: ObjectiveTerms
    predicted: Predicted
    measured: Measured
    milliseconds: Annotated[
        dict[str, float],
        Field(
            description="Per phase: `receive` (the body), `queue`, `decode`, the engine's phases "
            "(of the whole batch), and `total` since the first byte."
        ),
    ]
    bundle: str
    engine: str
    precision: str
    request_id: str


class Classification(AnswerTerms):
    """The answer of `POST /v1/classify`, most probable label first."""

    model: str
    labels: list[Label]
    point: Annotated[str, Field(description="The operating point that was used.")]
    reason: Annotated[
        str,
        Field(
            description="Why that point: `best` (the most accurate that was allowed), `deadline` "
            "(its own deadline forbade better), `load` (other requests did), `pinned`, `late` "
            "(too late for any point: the fastest)."
        ),
    ]
    accuracy: Annotated[
        float | None,
        Field(
            description="Expected of that point, measured on pictures that were not trained on; "
            "null where not measured."
        ),
    ]
    looked_again: Annotated[
        bool | None,
        Field(
            description="Whether a first answer from a smaller copy of the image was not sure "
            "enough, and the image itself was computed; null where the point does not glance."
        ),
    ]
    explain: NotRequired[
        Annotated[
            Explanation, Field(description="With `?explain=1` only: what was computed where.")
        ]
    ]


class GlanceTerms(Wire):
    """A first look that a point takes at every image.

    image_size: of the copy that it looks at. confidence: an image is looked at again, at the
    point's own size, where its most probable label has less. again: share of images that is,
    measured on pictures that were not trained on. service_once_ms, service_again_ms: what an image
    is predicted to take in the engine here and now, looked at once or again; null before the
    service is ready. What is expected lies between them as `again` says.
    """

    image_size: int
    confidence: float
    again: float
    service_once_ms: float | None
    service_again_ms: float | None


class Point(Wire):
    """An operating point as clients may pin it.

    glance: null where every image is computed at `image_size` at once. macs_ratio: mean.
    service_p50_ms, service_p95_ms: what one image is predicted to take in the engine here and now;
    null before the service is ready. chosen: whether it is ever chosen freely, which is where no
    faster point is as accurate.
    """

    name: str
    image_size: int
    glance: GlanceTerms | None
    accuracy: Accuracy | None
    agreement: float | None
    macs_ratio: float
    service_p50_ms: float | None
    service_p95_ms: float | None
    chosen: bool | None


class SloTerms(Wire):
    """A class of latency objectives, which requests name with `x-slo-class`."""

    slo_ms: float
    min_accuracy: float | None
    on_infeasible: OnInfeasible


class ServedModel(Wire):
    """A model that is served.

    default_class: the class of requests that ask for nothing; null before the service is ready.
    """

    name: str
    task: str
    labels: list[str]
    points: list[Point]
    slo_classes: dict[str, SloTerms]
    default_class: str | None
    bundle: str
    engine: str
    precision: str
    ready: bool


class Models(Wire):
    """The answer of `GET /v1/models`."""

    models: list[ServedModel]


class Fault(Wire):
    """The body of every answer that is not 200."""

    error: Annotated[str, Field(description="What was wrong, and what to do about it.")]


def classification(
    model: Model,
    reply: Reply,
    terms: Terms,
    top: int,
    request_id: str,
    explanation: Explanation | None = None,
) -> Classification:
    """The `top` most probable labels, and how they came about."""
    found, names = reply.probabilities, model.manifest.labels
    best = (-found).argsort(kind="stable")[:top].tolist()
    answer = Classification(
        model=model.name,
        labels=[Label(label=names[i], probability=round(float(found[i]), 6)) for i in best],
        point=reply.point.name,
        reason=reply.reason,
        accuracy=terms.accuracy,
        looked_again=reply.looked_again,
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


def served_model(
    model: Model,
    costs: ModelCosts | None,
    classes: Mapping[str, SloClass],
    default: tuple[str, SloClass] | None,
    *,
    ready: bool,
) -> ServedModel:
    """The public description of a model; costs and default are None until they are known."""
    known = {**classes, **({default[0]: default[1]} if default else {})}
    return ServedModel(
        name=model.name,
        task=model.manifest.task,
        labels=list(model.manifest.labels),
        points=[_point(record, costs) for record in model.manifest.points],
        slo_classes={name: _class(one) for name, one in known.items()},
        default_class=default[0] if default else None,
        bundle=model.hash,
        engine=model.engine.name,
        precision=model.engine.precision,
        ready=ready,
    )


def _class(one: SloClass) -> SloTerms:
    return SloTerms(
        slo_ms=round(one.slo_ms, 3),
        min_accuracy=one.min_accuracy,
        on_infeasible=one.on_infeasible,
    )


def objective_terms(objective: Objective) -> ObjectiveTerms:
    """What was asked, as answers tell it."""
    return ObjectiveTerms(
        slo_ms=milliseconds(objective.slo_s),
        slo_class=objective.slo_class,
        min_accuracy=objective.min_accuracy,
        operating_point=objective.pinned,
        on_infeasible=objective.on_infeasible,
    )


def predicted_terms(predicted: Prediction) -> Predicted:
    """What was predicted, as answers tell it."""
    return Predicted(
        service_p50_ms=milliseconds(predicted.service_p50_s),
        service_p95_ms=milliseconds(predicted.service_p95_s),
        completion_p50_ms=milliseconds(predicted.completion_p50_s),
        completion_p95_ms=milliseconds(predicted.completion_p95_s),
    )


def _point(record: PointRecord, costs: ModelCosts | None) -> Point:
    p50_ms = p95_ms = chosen = None
    if costs is not None:
        place = costs.index(record.point.name)
        p50_ms, p95_ms = (milliseconds(value) for value in costs.predict((place,)))
        chosen = place in costs.dial.free
    return Point(
        name=record.point.name,
        image_size=record.point.image_size,
        glance=_glance(record, costs),
        accuracy=record.accuracy,
        agreement=record.agreement,
        macs_ratio=record.macs_ratio,
        service_p50_ms=p50_ms,
        service_p95_ms=p95_ms,
        chosen=chosen,
    )


def _glance(record: PointRecord, costs: ModelCosts | None) -> GlanceTerms | None:
    glance = record.point.glance
    if glance is None or record.again is None:
        return None
    once_ms = again_ms = None
    if costs is not None:
        looks_s = costs.looks(costs.index(record.point.name))
        once_ms, again_ms = map(milliseconds, looks_s)
    return GlanceTerms(
        image_size=glance.image_size,
        confidence=glance.confidence,
        again=record.again,
        service_once_ms=once_ms,
        service_again_ms=again_ms,
    )
