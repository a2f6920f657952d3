"""What a request asks for: a deadline, and within it the best answer or a given one."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from engines.core import FrozenModel
from service.errors import BadRequest, known_names

DEFAULT_CLASS = "default"
CUSTOM_CLASS = "custom"
LEAST_SLO_MS = 0.001
MOST_SLO_MS = 600_000.0
"""Ten minutes: nobody waits longer for an image, and arithmetic with it stays exact."""

MAX_CLASSES = 16
"""Each is a label of several histograms."""

DEFAULT_SLACK = 3.0
"""Without configuration, an answer may take so many times what `full` takes on an idle machine."""

SLO_HEADER = "x-slo-ms"
CLASS_HEADER = "x-slo-class"
ACCURACY_HEADER = "x-min-accuracy"
INFEASIBLE_HEADER = "x-on-infeasible"
POINT_HEADER = "x-operating-point"
HEADERS = frozenset({SLO_HEADER, CLASS_HEADER, ACCURACY_HEADER, INFEASIBLE_HEADER, POINT_HEADER})
_NUMBERS = frozenset({SLO_HEADER, ACCURACY_HEADER})

T = TypeVar("T")

SloName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
OnInfeasible = Literal["degrade", "reject"]

_DECIMAL = re.compile(r"[+-]?(\d{1,20}(\.\d{0,20})?|\.\d{1,20})([eE][+-]?\d{1,3})?", re.ASCII)
_MAX_QUOTE = 60
_MAX_BITS = 128


class SloClass(FrozenModel):
    """A named latency objective. slo_ms: from the first byte in to the last byte out.

    min_accuracy: no point below it is used. on_infeasible: what to do where no allowed point is
    fast enough: answer late at the fastest (`degrade`), or refuse at once (`reject`).
    """

    slo_ms: Annotated[float, Field(ge=LEAST_SLO_MS, le=MOST_SLO_MS, strict=True)]
    min_accuracy: Annotated[float, Field(ge=0.0, le=1.0, strict=True)] | None = None
    on_infeasible: OnInfeasible = "degrade"


@dataclass(frozen=True, slots=True)
class Objective:
    """The objective of one request, all sources merged.

    slo_s: seconds from the first byte. slo_class: a metric label: a configured name, `default`, or
    `custom` for a free number. pinned: the operating point that was asked for.
    """

    slo_s: float
    slo_class: str
    min_accuracy: float | None = None
    pinned: str | None = None
    on_infeasible: OnInfeasible = "degrade"


def merge_objective(
    headers: Mapping[str, str],
    parameters: Mapping[str, Any],
    classes: Mapping[str, SloClass],
    default: SloClass,
    default_name: str,
) -> Objective:
    """The objective that headers and parameters of the Open Inference Protocol ask for.

    The first of these counts: parameter `slo_ms`, parameter `timeout` (microseconds), header
    `x-slo-ms`, the class that parameter `slo_class` or header `x-slo-class` names, the default
    class. What a class says besides its time (its floor of accuracy, what to do where it is
    infeasible) holds unless it is asked otherwise, a free number of milliseconds notwithstanding.
    Everything that is given is checked, also where it is outranked. Raises BadRequest.

    headers: `items()` may repeat names, as Starlette's do.
    """
    given = _our_headers(headers)
    known = {default_name: default, **classes}
    of_class = partial(_class_name, known=known)
    slo_ms = _first(
        _read(parameters, "slo_ms", "parameter", _slo_ms),
        _read(parameters, "timeout", "parameter", _timeout_ms),
        _read(given, SLO_HEADER, "header", _slo_ms),
    )
    name = _first(
        _read(parameters, "slo_class", "parameter", of_class),
        _read(given, CLASS_HEADER, "header", of_class),
    )
    min_accuracy = _first(
        _read(parameters, "min_accuracy", "parameter", _accuracy),
        _read(given, ACCURACY_HEADER, "header", _accuracy),
    )
    on_infeasible: OnInfeasible | None = _first(
        _read(parameters, "on_infeasible", "parameter", _on_infeasible),
        _read(given, INFEASIBLE_HEADER, "header", _on_infeasible),
    )
    pinned = _first(
        _read(parameters, "operating_point", "parameter", _point),
        _read(given, POINT_HEADER, "header", _point),
    )
    name = default_name if name is None else name
    chosen = known[name]
    return Objective(
        slo_s=(chosen.slo_ms if slo_ms is None else slo_ms) / 1e3,
        slo_class=name if slo_ms is None else CUSTOM_CLASS,
        min_accuracy=chosen.min_accuracy if min_accuracy is None else min_accuracy,
        pinned=pinned,
        on_infeasible=chosen.on_infeasible if on_infeasible is None else on_infeasible,
    )


def default_class(predicted_p95_s: float) -> SloClass:
    """The class that holds where none is configured: `DEFAULT_SLACK` times what `full` takes.

    predicted_p95_s: seconds of service time of one image at `full`.
    """
    slo_ms = DEFAULT_SLACK * predicted_p95_s * 1e3
    return SloClass(slo_ms=min(max(slo_ms, LEAST_SLO_MS), MOST_SLO_MS))


def _our_headers(headers: Mapping[str, str]) -> dict[str, str | float]:
    """Those that speak of objectives, in lower case; numbers as such where they are any."""
    found: dict[str, str | float] = {}
    for name, value in headers.items():
        name = name.lower()
        if name not in HEADERS:
            continue
        if name in found:
            raise BadRequest(f"header '{name}' is there twice; send it once")
        # Blanks and tabs are HTTP's only white space; Python strips more.
        number = value.strip(" \t")
        is_number = name in _NUMBERS and _DECIMAL.fullmatch(number)
        found[name] = float(number) if is_number else value
    return found


def _first(*candidates: T | None) -> T | None:
    return next((found for found in candidates if found is not None), None)


def _read(
    values: Mapping[str, Any], name: str, kind: str, read: Callable[[Any, str], T]
) -> T | None:
    """What `read` makes of that value, which is checked even where another outranks it."""
    return read(values[name], f"{kind} '{name}'") if name in values else None


def _slo_ms(value: Any, source: str) -> float:
    if not _is_number(value) or not LEAST_SLO_MS <= value <= MOST_SLO_MS:
        raise BadRequest(
            f"{source} must be a number of milliseconds from {LEAST_SLO_MS:g} to "
            f"{MOST_SLO_MS:,.0f}, got {_shown(value)}"
        )
    return float(value)


def _timeout_ms(value: Any, source: str) -> float:
    most = MOST_SLO_MS * 1e3
    if type(value) is not int or not 1 <= value <= most:
        raise BadRequest(
            f"{source} must be a whole number of microseconds from 1 to {most:,.0f}, "
            f"got {_shown(value)}"
        )
    return value / 1e3


def _accuracy(value: Any, source: str) -> float:
    if not _is_number(value) or not 0 <= value <= 1:
        raise BadRequest(f"{source} must be a number from 0 to 1, got {_shown(value)}")
    return float(value)


def _on_infeasible(value: Any, source: str) -> OnInfeasible:
    if value == "degrade":
        return "degrade"
    if value == "reject":
        return "reject"
    raise BadRequest(f"{source} must be 'degrade' or 'reject', got {_shown(value)}")


def _class_name(value: Any, source: str, known: Collection[str]) -> str:
    if not isinstance(value, str) or value not in known:
        raise BadRequest(
            f"{source} must name an SLO class, got {_shown(value)}; there are: {known_names(known)}"
        )
    return value


def _point(value: Any, source: str) -> str:
    """Whether there is a point of that name, the model's costs know."""
    if not isinstance(value, str):
        raise BadRequest(f"{source} must be the name of an operating point, got {_shown(value)}")
    return value


def _is_number(value: Any) -> bool:
    """True and false are none, and neither is text; NaN passes no comparison."""
    return type(value) in (int, float)


def _shown(value: Any) -> str:
    """A value as error messages quote it: short, whatever it is."""
    match value:
        case str():
            return repr(value[:_MAX_QUOTE])
        case None | bool():
            return {None: "null", True: "true", False: "false"}[value]
        case float():
            return f"{value:g}"
        case int() if value.bit_length() <= _MAX_BITS:
            return str(value)
        case int():
            return f"a whole number of {value.bit_length()} bits"
        case list():
            return "a list"
        case _:
            return "an object"
