"""What became of every request of a run, in columns: long runs stay small and cost no garbage."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

OK = 200
UNANSWERED = 0
"""Status of a request that got no answer."""

_NUMBERS = (
    "at",
    "sent",
    "done",
    "slo",
    "accuracy",
    "service",
    "receive",
    "decode",
    "queue",
    "again",
)


@dataclass(frozen=True)
class Records:
    """One entry per request that was sent, by scheduled time; seconds since the run began.

    sent_s, done_s: of an answered request, its first byte out and the answer's last byte in, else
    NaN. slo_s: budget, asked or as the server said, NaN where unknown. accuracy: expected at the
    point used, NaN where unknown. service_s, receive_s, decode_s, queue_s: as the server said,
    NaN where it did not. again: 1 where it looked at the picture again, 0 where it did not, NaN
    where it did not say. point, outcome: places in `points` and `outcomes`, -1 where the server
    said nothing.
    """

    at_s: Floats
    sent_s: Floats
    done_s: Floats
    slo_s: Floats
    accuracy: Floats
    service_s: Floats
    receive_s: Floats
    decode_s: Floats
    queue_s: Floats
    again: Floats
    status: Ints
    point: Ints
    outcome: Ints
    points: tuple[str, ...]
    outcomes: tuple[str, ...]

    @property
    def latency_s(self) -> Floats:
        """From the scheduled time: what a client that waits for nobody sees."""
        return self.done_s - self.at_s

    @property
    def answered(self) -> npt.NDArray[np.bool_]:
        """With a result, whenever it came."""
        return np.equal(self.status, OK)

    @property
    def met(self) -> npt.NDArray[np.bool_]:
        """With a result in time, by our clock; by the server's where the budget is unknown."""
        late = self.outcomes.index("late") if "late" in self.outcomes else len(self.outcomes)
        unknown = np.isnan(self.slo_s)
        # A comparison with NaN is false: no answer, or no budget.
        in_time = np.less_equal(self.latency_s, self.slo_s)
        met: npt.NDArray[np.bool_] = self.answered & (in_time | (unknown & (self.outcome != late)))
        return met


class Ledger:
    """Where a run writes its requests down, in the order in which they end."""

    def __init__(self) -> None:
        self._floats = {name: array("d") for name in _NUMBERS}
        self._ints = {name: array("q") for name in ("status", "point", "outcome")}
        self._names: dict[str, dict[str, int]] = {"point": {}, "outcome": {}}

    def __len__(self) -> int:
        return len(self._floats["at"])

    def add(
        self,
        *,
        at_s: float,
        sent_s: float = math.nan,
        done_s: float = math.nan,
        status: int = UNANSWERED,
        slo_s: float | None = None,
        point: str | None = None,
        accuracy: float | None = None,
        outcome: str | None = None,
        service_s: float | None = None,
        receive_s: float | None = None,
        decode_s: float | None = None,
        queue_s: float | None = None,
        looked_again: bool | None = None,
    ) -> None:
        """One request that ended, or was given up."""
        floats, ints = self._floats, self._ints
        floats["at"].append(at_s)
        floats["sent"].append(sent_s)
        floats["done"].append(done_s)
        floats["slo"].append(math.nan if slo_s is None else slo_s)
        floats["accuracy"].append(math.nan if accuracy is None else accuracy)
        floats["service"].append(math.nan if service_s is None else service_s)
        floats["receive"].append(math.nan if receive_s is None else receive_s)
        floats["decode"].append(math.nan if decode_s is None else decode_s)
        floats["queue"].append(math.nan if queue_s is None else queue_s)
        floats["again"].append(math.nan if looked_again is None else float(looked_again))
        ints["status"].append(status)
        ints["point"].append(self._place("point", point))
        ints["outcome"].append(self._place("outcome", outcome))

    def records(self) -> Records:
        """All of them, by scheduled time."""
        floats = {name: np.array(column, np.float64) for name, column in self._floats.items()}
        ints = {name: np.array(column, np.int64) for name, column in self._ints.items()}
        order = np.argsort(floats["at"], kind="stable")
        return Records(
            at_s=floats["at"][order],
            sent_s=floats["sent"][order],
            done_s=floats["done"][order],
            slo_s=floats["slo"][order],
            accuracy=floats["accuracy"][order],
            service_s=floats["service"][order],
            receive_s=floats["receive"][order],
            decode_s=floats["decode"][order],
            queue_s=floats["queue"][order],
            again=floats["again"][order],
            status=ints["status"][order],
            point=ints["point"][order],
            outcome=ints["outcome"][order],
            points=tuple(self._names["point"]),
            outcomes=tuple(self._names["outcome"]),
        )

    def _place(self, kind: str, name: str | None) -> int:
        names = self._names[kind]
        return -1 if name is None else names.setdefault(name, len(names))
