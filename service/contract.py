"""What an answer says about itself: which point and why, predicted beside measured, and the slack.

Both route families say the same: `/v1` nests it (service.schemas.v1), the Open Inference Protocol
has it flat in `parameters`, and both send it as a `Server-Timing` header
(https://www.w3.org/TR/server-timing). Pure functions; milliseconds only in what they return.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from service.model import Model
from service.objectives import Objective
from service.request import Exchange, Prediction, Reply

Outcome = Literal["met", "late"]
Scalar = str | float | int | bool

SERVER_TIMING = "server-timing"
"""Name of the header."""


@dataclass(frozen=True, slots=True)
class Terms:
    """The facts of one answer. Of several images those of the one that was due to come last.

    points, reasons: one per image, in order. accuracy: expected, mean over the images; None where
    any of them was not measured. looked_again: one per image, None where its point does not glance.
    service_s: dispatch to engine done. phases_s: `receive`, `decode`, `queue`, the engine's own
    stages, and `total`, first byte to now. slack_s: what is left until the deadline, negative when
    late.
    """

    points: tuple[str, ...]
    reasons: tuple[str, ...]
    accuracy: float | None
    objective: Objective
    outcome: Outcome
    predicted: Prediction
    service_s: float
    phases_s: Mapping[str, float]
    slack_s: float
    looked_again: tuple[bool | None, ...] = (None,)


def terms_of(replies: Sequence[Reply], exchange: Exchange, total_s: float) -> Terms:
    """The terms of an answer with these replies (at least one), `total_s` after the first byte.

    The exchange has the objective and what happened before the images were taken.
    """
    objective = exchange.objective
    if objective is None:
        raise TypeError("nothing is answered before its objective is known")
    accuracies = [reply.accuracy for reply in replies if reply.accuracy is not None]
    last = max(replies, key=lambda reply: reply.predicted.completion_p50_s)
    return Terms(
        points=tuple(reply.point.name for reply in replies),
        reasons=tuple(reply.reason for reply in replies),
        accuracy=fmean(accuracies) if len(accuracies) == len(replies) else None,
        objective=objective,
        outcome="met" if total_s <= objective.slo_s else "late",
        predicted=last.predicted,
        service_s=last.service_s,
        phases_s={**exchange.phases_s, **last.phases_s, "total": total_s},
        slack_s=objective.slo_s - total_s,
        looked_again=tuple(reply.looked_again for reply in replies),
    )


def answer_terms(model: Model, terms: Terms) -> dict[str, Scalar]:
    """The terms as `parameters` of the Open Inference Protocol: flat, and without empty values.

    `operating_point` and `reason` have one entry per image, in order, with commas between them;
    `looked_again` likewise (`true`, `false`, `null`), where any of the points glances.
    """
    objective, looked_again = terms.objective, None
    if any(again is not None for again in terms.looked_again):
        looked_again = ",".join(_SPELLED[again] for again in terms.looked_again)
    optional: dict[str, Scalar | None] = {
        "accuracy": terms.accuracy,
        "min_accuracy": objective.min_accuracy,
        "looked_again": looked_again,
    }
    return {
        "operating_point": ",".join(terms.points),
        "reason": ",".join(terms.reasons),
        "outcome": terms.outcome,
        "slo_ms": milliseconds(objective.slo_s),
        "slo_class": objective.slo_class,
        "on_infeasible": objective.on_infeasible,
        "slack_ms": milliseconds(terms.slack_s),
        **{name: value for name, value in optional.items() if value is not None},
        **{f"predicted_{name}": value for name, value in predicted_ms(terms.predicted).items()},
        "service_ms": milliseconds(terms.service_s),
        **{f"{phase}_ms": milliseconds(value) for phase, value in terms.phases_s.items()},
        "bundle": model.hash,
        "engine": model.engine.name,
        "precision": model.engine.precision,
    }


def server_timing(terms: Terms) -> str:
    """The value of the `Server-Timing` header: `dur` is milliseconds, `desc` is text.

    Phases first, in the order they happen, then what was predicted and what was left.
    """
    durations_s = {
        **terms.phases_s,
        "service": terms.service_s,
        "predicted-service-p50": terms.predicted.service_p50_s,
        "predicted-service-p95": terms.predicted.service_p95_s,
        "predicted-total-p50": terms.predicted.completion_p50_s,
        "predicted-total-p95": terms.predicted.completion_p95_s,
        "slack": terms.slack_s,
    }
    texts = {
        "point": _quotable(" ".join(dict.fromkeys(terms.points))),
        "reason": " ".join(dict.fromkeys(terms.reasons)),
        "accuracy": "unknown" if terms.accuracy is None else f"{terms.accuracy:.4f}",
        "outcome": terms.outcome,
    }
    entries = [f"{name};dur={value * 1e3:.3f}" for name, value in durations_s.items()]
    entries += [f'{name};desc="{text}"' for name, text in texts.items()]
    return ", ".join(entries)


def predicted_ms(predicted: Prediction) -> dict[str, float]:
    """A prediction in milliseconds, by the names that answers use."""
    return {
        "service_p50_ms": milliseconds(predicted.service_p50_s),
        "service_p95_ms": milliseconds(predicted.service_p95_s),
        "completion_p50_ms": milliseconds(predicted.completion_p50_s),
        "completion_p95_ms": milliseconds(predicted.completion_p95_s),
    }


def milliseconds(seconds: float) -> float:
    """Seconds as milliseconds, to the microsecond."""
    return round(seconds * 1e3, 3)


def _quotable(text: str) -> str:
    """Text for a quoted string of a header; names of points may hold letters of any script."""
    return text.encode("ascii", "replace").decode().translate(_UNQUOTED)


_SPELLED = {True: "true", False: "false", None: "null"}

_UNQUOTED = {ord('"'): "?", ord("\\"): "?"}
