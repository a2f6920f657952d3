"""Structured logs on stderr: one line a request, one format for our lines and the libraries'."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any, TextIO

import orjson
import structlog

from service.costs import ModelCosts
from service.model import Model
from service.objectives import Objective, SloClass
from service.request import Exchange, Prediction

_log = structlog.get_logger("laud")

_COMPACT = (",", ":")
_MAX_PATH = 256
# Probes and scrapes come every few seconds and say nothing.
QUIET_ROUTES = frozenset({"/metrics", "/v2/health/live", "/v2/health/ready"})


def configure_logs(style: str, level: str, stream: TextIO = sys.stderr) -> None:
    """Set up structlog and the standard library's logging for the whole process.

    style: `json`, `console`, or `auto`: console where `stream` is a terminal. level: `debug` and so
    on.
    """
    if style == "auto":
        style = "console" if stream.isatty() else "json"
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderers: list[structlog.typing.Processor]
    if style == "json":
        renderers = [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(_json),
        ]
    else:
        # Plain tracebacks: the rich ones print local variables, and with them people's pictures.
        renderers = [
            structlog.dev.ConsoleRenderer(
                colors=stream.isatty(),
                sort_keys=False,
                exception_formatter=structlog.dev.plain_traceback,
            )
        ]
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    # Libraries only when something is wrong: our own lines say the rest.
    logging.basicConfig(handlers=[handler], level=max(number, logging.WARNING), force=True)


def log_dial(model: Model, costs: ModelCosts, default: str, objective: SloClass) -> None:
    """One line for every point of a model that is served, and one for its default SLO class."""
    for place, point in enumerate(costs.dial.points):
        p50_s, p95_s = costs.predict((place,))
        _log.info(
            "operating point",
            model=model.name,
            point=point.name,
            image_size=point.image_size,
            accuracy=costs.accuracy(place),
            p50_ms=round(p50_s * 1e3, 2),
            p95_ms=round(p95_s * 1e3, 2),
            chosen=place in costs.dial.free,
        )
    _log.info(
        "default objective",
        model=model.name,
        slo_class=default,
        **{**objective.model_dump(exclude_none=True), "slo_ms": round(objective.slo_ms, 2)},
    )


def _json(fields: Any, default: Callable[[Any], Any]) -> str:
    """Compact, of printable ASCII only; NaN is null, except beside what orjson does not take."""
    try:
        text = orjson.dumps(fields, default, orjson.OPT_SERIALIZE_NUMPY).decode()
    except TypeError:
        return json.dumps(fields, default=default, separators=_COMPACT)
    if text.isascii() and text.isprintable():
        return text
    return json.dumps(orjson.loads(text), separators=_COMPACT)


def log_exchange(
    exchange: Exchange, scope: Mapping[str, Any], route: str, duration_s: float
) -> None:
    """The one line of a request, `duration_s` after its first byte: all that is known of it."""
    quiet = route in QUIET_ROUTES and exchange.status < 400
    write = _log.debug if quiet else _log.error if exchange.status >= 500 else _log.info
    fields: dict[str, Any] = {
        "id": exchange.id,
        "key": exchange.key,
        "method": scope["method"],
        "path": printable_path(scope),
        "status": exchange.status,
        "outcome": exchange.outcome,
        "model": exchange.model or None,
        "point": ",".join(dict.fromkeys(exchange.points)) or None,
        "reason": exchange.reason,
        **(_objective(exchange.objective, duration_s) if exchange.objective else {}),
        "bytes": exchange.num_bytes or None,
        "ms": _milliseconds({**exchange.phases_s, "total": duration_s}),
        "predicted_ms": _predicted(exchange.predicted),
        "error": exchange.error,
    }
    write("request", **{key: value for key, value in fields.items() if value is not None})


def _objective(objective: Objective, duration_s: float) -> dict[str, Any]:
    """What was asked, and what was left of it at the end; negative when late."""
    return {
        "slo_class": objective.slo_class,
        "slo_ms": round(objective.slo_s * 1e3, 3),
        "slack_ms": round((objective.slo_s - duration_s) * 1e3, 3),
        "min_accuracy": objective.min_accuracy,
        "on_infeasible": objective.on_infeasible,
    }


def _predicted(predicted: Prediction | None) -> dict[str, float] | None:
    if predicted is None:
        return None
    return _milliseconds(
        {
            "service_p50": predicted.service_p50_s,
            "service_p95": predicted.service_p95_s,
            "completion_p50": predicted.completion_p50_s,
            "completion_p95": predicted.completion_p95_s,
        }
    )


def _milliseconds(seconds: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value * 1e3, 3) for name, value in seconds.items()}


def printable_path(scope: Mapping[str, Any]) -> str:
    """The path as it was sent, still percent-encoded: nobody breaks a log line with it."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    text = raw[:_MAX_PATH].decode("ascii", errors="backslashreplace")
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else "?" for char in text)
