"""Answers of our own routes. Ratios are 0 to 1; times are milliseconds."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from engines.bundle import Accuracy, PointRecord
from service.executor import Model
from service.request import Exchange, Reply


class Wire(BaseModel):
    """Base of all answers: immutable, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Label(Wire):
    """One class and its probability."""

    label: str
    probability: float


class Classification(Wire):
    """The answer of `POST /v1/classify`, most probable label first.

    accuracy: of the point, measured on pictures that were not trained on; null where not measured.
    milliseconds: per phase; the engine's phases are those of the whole batch.
    """

    model: str
    labels: list[Label]
    point: str
    reason: str
    accuracy: float | None
    bundle: str
    engine: str
    precision: str
    milliseconds: dict[str, float]
    request_id: str


class Point(Wire):
    """An operating point as clients may pin it."""

    name: str
    image_size: int
    accuracy: Accuracy | None
    agreement: float | None
    macs_ratio: float


class ServedModel(Wire):
    """A model that is served."""

    name: str
    task: str
    labels: list[str]
    points: list[Point]
    bundle: str
    engine: str
    precision: str
    ready: bool


class Models(Wire):
    """The answer of `GET /v1/models`."""

    models: list[ServedModel]


def classification(
    model: Model, reply: Reply, exchange: Exchange, top: int, total_s: float
) -> Classification:
    """The `top` most probable labels and how they came about, `total_s` after the first byte."""
    best = (-reply.probabilities).argsort(kind="stable")[:top]
    accuracy = model.manifest.point(reply.point.name).accuracy
    return Classification(
        model=model.name,
        labels=[
            Label(
                label=model.manifest.labels[i], probability=round(float(reply.probabilities[i]), 6)
            )
            for i in best
        ],
        point=reply.point.name,
        reason=reply.reason,
        accuracy=accuracy.value if accuracy else None,
        bundle=model.hash,
        engine=model.engine.name,
        precision=model.engine.precision,
        milliseconds=milliseconds({**exchange.phases_s, "total": total_s}),
        request_id=exchange.id,
    )


def served_model(model: Model, ready: bool) -> ServedModel:
    """The public description of a model."""
    return ServedModel(
        name=model.name,
        task=model.manifest.task,
        labels=list(model.manifest.labels),
        points=[_point(record) for record in model.manifest.points],
        bundle=model.hash,
        engine=model.engine.name,
        precision=model.engine.precision,
        ready=ready,
    )


def milliseconds(phases_s: dict[str, float]) -> dict[str, float]:
    """Seconds per phase as milliseconds, to the microsecond."""
    return {phase: round(seconds * 1e3, 3) for phase, seconds in phases_s.items()}


def _point(record: PointRecord) -> Point:
    return Point(
        name=record.point.name,
        image_size=record.point.image_size,
        accuracy=record.accuracy,
        agreement=record.agreement,
        macs_ratio=record.macs_ratio,
    )
