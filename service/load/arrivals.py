"""When requests come and what they ask: arrival processes, deadline mixes, recorded traffic.

Standard library and numpy only: the simulator offers the same load as `laud load`. A process is a
function of a random generator that yields ascending seconds without end; `within` and `first` cut
it. Processes as in AlpaServe (OSDI'23) and SuperServe (NSDI'25).
"""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.errors import InvalidInput

Process = Callable[[np.random.Generator], Iterator[float]]
Seconds = npt.NDArray[np.float64]

MOST_HZ = 1e6
MOST_CV2 = 1e3
# Recorded traffic is held in memory; an hour of a thousand a second is more than one machine takes.
MOST_RECORDED = 5_000_000
_DRAWN_AT_ONCE = 1024


def deterministic(rate_hz: float) -> Process:
    """Evenly spaced, the first at 0."""
    _check_rate("rate", rate_hz)
    return lambda rng: (k / rate_hz for k in count())


def gamma(rate_hz: float, cv2: float = 1.0) -> Process:
    """Independent Gamma gaps whose squared coefficient of variation is `cv2`.

    1 is Poisson, larger is burstier, 0 is even.
    """
    _check_rate("rate", rate_hz)
    _check_cv2(cv2)
    if cv2 == 0.0:
        return deterministic(rate_hz)
    return lambda rng: (at / rate_hz for at in _unit_gamma(rng, cv2))


def bursty(base_hz: float, burst_hz: float, cv2: float) -> Process:
    """Even arrivals at `base_hz`, and Gamma ones at `burst_hz` among them (SuperServe)."""
    base, bursts = deterministic(base_hz), gamma(burst_hz, cv2)
    return lambda rng: heapq.merge(base(rng), bursts(rng))


def within(process: Process, rng: np.random.Generator, duration_s: float) -> Seconds:
    """The arrivals before `duration_s`."""
    if not 0 < duration_s < math.inf:
        raise InvalidInput(f"the duration must be positive and finite, got {duration_s}")
    return np.fromiter(takewhile(lambda at: at < duration_s, process(rng)), np.float64)


def first(process: Process, rng: np.random.Generator, number: int) -> Seconds:
    """The first `number` arrivals."""
    if number < 1:
        raise InvalidInput(f"at least one arrival is needed, got {number}")
    return np.fromiter(islice(process(rng), number), np.float64)


@dataclass(frozen=True, slots=True)
class Mix:
    """Latency budgets and how often each is asked for; the shares sum to 1. Seconds."""

    shares: tuple[float, ...]
    slos_s: tuple[float, ...]

    def draw(self, rng: np.random.Generator, number: int) -> Seconds:
        """A budget for each of `number` requests, independent of one another."""
        return rng.choice(np.array(self.slos_s), size=number, p=np.array(self.shares))


def parse_mix(text: str) -> Mix:
    """A mix as `percent:milliseconds` with commas: `70:100,20:50,10:25`. InvalidInput if wrong."""
    example = "write percent:milliseconds with commas, such as 70:100,20:50,10:25"
    shares: list[float] = []
    slos_s: list[float] = []
    for part in text.split(","):
        share, colon, slo_ms = part.partition(":")
        try:
            numbers = (float(share), float(slo_ms))
        except ValueError:
            colon = ""
        if not colon or not all(0 < number < math.inf for number in numbers):
            raise InvalidInput(f"'{part.strip()}' is no part of a deadline mix; {example}")
        shares.append(numbers[0] / 100)
        slos_s.append(numbers[1] / 1e3)
    total = math.fsum(shares)
    if abs(total - 1) > 1e-6:
        raise InvalidInput(f"the shares of '{text}' sum to {total:.4%}, not to 100 %; {example}")
    return Mix(tuple(share / total for share in shares), tuple(slos_s))


@dataclass(frozen=True, slots=True)
class Recorded:
    """One request of recorded traffic: seconds from the beginning, and what else the file says.

    slo_s: None is whatever the server's default is. image: as written, None is any.
    """

    at_s: float
    slo_s: float | None = None
    image: str | None = None


def read_recorded(path: Path) -> tuple[Recorded, ...]:
    """Recorded traffic by ascending time; InvalidInput names the line that is wrong.

    Either one JSON object a line, `{"at_s": 0.25, "slo_ms": 50, "image": "a.jpg"}`, of which only
    `at_s` must be there, or what perf_analyzer calls --request-intervals: microseconds between
    requests, one number a line. OSError where it cannot be read.
    """
    found: list[Recorded] = []
    at_s = 0.0
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            line = line.strip()
            if not line:
                continue
            if len(found) == MOST_RECORDED:
                raise InvalidInput(f"{path} has more than {MOST_RECORDED:,} requests")
            try:
                if line.startswith("{"):
                    found.append(_recorded(json.loads(line)))
                else:
                    at_s += _number("interval", float(line), least=0.0) / 1e6
                    found.append(Recorded(at_s))
            except ValueError as error:
                raise InvalidInput(
                    f"{path}, line {number}: {error}; expected "
                    '{"at_s": 0.25, "slo_ms": 50, "image": "a.jpg"} or microseconds since the '
                    "request before"
                ) from None
    if not found:
        raise InvalidInput(f"{path} has no requests")
    return tuple(sorted(found, key=lambda one: one.at_s))


def replay(times: Sequence[float]) -> Process:
    """Exactly those arrivals, in seconds, for whoever wants a process; it does end."""
    ordered = sorted(times)
    return lambda rng: iter(ordered)


def _recorded(content: Any) -> Recorded:
    unknown = sorted(content.keys() - {"at_s", "slo_ms", "image"})
    if unknown:
        raise ValueError(f"unknown key '{unknown[0]}'")
    if "at_s" not in content:
        raise ValueError("'at_s' is missing")
    at_s = _number("at_s", content["at_s"], least=0.0)
    slo_ms, image = content.get("slo_ms"), content.get("image")
    if slo_ms is not None and _number("slo_ms", slo_ms, least=0.0) == 0.0:
        raise ValueError("slo_ms must be above 0")
    if image is not None and not isinstance(image, str):
        raise ValueError(f"image must be a name, got {image!r}")
    return Recorded(at_s, None if slo_ms is None else slo_ms / 1e3, image)


def _number(name: str, value: Any, *, least: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} must be a number, got {value!r}")
    if not least <= value < math.inf:
        raise ValueError(f"{name} must be {least:g} or more and finite, got {value}")
    return float(value)


def _unit_gamma(rng: np.random.Generator, cv2: float) -> Iterator[float]:
    """Arrivals of Gamma gaps with mean 1."""
    at = 0.0
    while True:
        for gap in rng.gamma(1 / cv2, cv2, _DRAWN_AT_ONCE).tolist():
            at += gap
            yield at


def _check_rate(name: str, value: float) -> None:
    if not 0 < value <= MOST_HZ:
        raise InvalidInput(f"the {name} must be above 0 and at most {MOST_HZ:,.0f}, got {value}")


def _check_cv2(value: float) -> None:
    if not 0 <= value <= MOST_CV2:
        raise InvalidInput(f"CV^2 must be 0 to {MOST_CV2:g}, got {value}")
