"""Latency tables of plans: what whole calls took on a GPU, per point and bucket, as a file.

On a CPU blocks are measured and networks follow from them (`engines.latency`); a plan runs as one
graph, so whole calls are all that can be timed, and all that is needed.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from engines.core import Engine, FrozenModel
from engines.errors import InvalidInput, LatencyError
from engines.latency.files import read_model, write_model
from engines.tensorrt.plans import (
    ENGINE,
    Bucket,
    Form,
    LibraryName,
    Precision,
    Programs,
    Sha256,
    plans_in,
)

PLAN_TABLE_SCHEMA = 1

Seconds = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Quantiles = Annotated[tuple[Seconds, ...], Field(min_length=2)]


class CallLatency(FrozenModel):
    """Calls of one point in one bucket, in one form.

    seconds: quantiles, evenly spaced, from the least to the most; again: of calls where every image
    is looked at again, where the point glances. dense_s: the median of the dense engine, where
    there was one. calls: how many were timed.
    """

    point: str
    image_size: int
    images: int
    form: Form = "blocks"
    calls: int
    seconds: Quantiles
    again: Quantiles | None = None
    dense_s: Seconds | None = None

    @model_validator(mode="after")
    def _ascend(self) -> Self:
        for each in (self.seconds, self.again or ()):
            if any(a > b for a, b in pairwise(each)):
                raise ValueError(f"quantiles of '{self.point}' must ascend")
        return self

    @property
    def measured(self) -> tuple[tuple[float, ...], ...]:
        """The quantiles of each way that was timed."""
        return (self.seconds,) if self.again is None else (self.seconds, self.again)

    @classmethod
    def of(
        cls,
        point: str,
        bucket: Bucket,
        seconds: Sequence[float],
        again: Sequence[Sequence[float]],
        dense_s: Sequence[float],
        levels: int,
        form: Form = "blocks",
    ) -> CallLatency:
        """From what single calls took."""
        at = np.linspace(0.0, 1.0, levels)

        def quantiles(taken: Sequence[float]) -> tuple[float, ...]:
            return tuple(np.maximum(np.quantile(taken, at), 1e-9).tolist())

        return cls(
            point=point,
            image_size=bucket.image_size,
            images=bucket.images,
            form=form,
            calls=len(seconds),
            seconds=quantiles(seconds),
            again=quantiles(again[0]) if again else None,
            dense_s=statistics.median(dense_s) if dense_s else None,
        )


class PlanTable(FrozenModel):
    """All that was timed of one plan on one GPU.

    bundle, program, branches, masks: hashes of what it is of; None of what the plan has not.
    """

    schema_version: Literal[1] = 1
    bundle: Sha256
    program: Sha256
    branches: Sha256 | None = None
    masks: Sha256 | None = None
    name: str
    engine: Literal["tensorrt"] = "tensorrt"
    library: LibraryName
    library_version: str
    precision: Precision
    device: str
    version: str
    calls: Annotated[tuple[CallLatency, ...], Field(min_length=1)]

    @property
    def programs(self) -> Programs:
        """As `PlanManifest.programs`."""
        return self.program, self.branches, self.masks


class PlanPredictor:
    """Predicts calls of a plan: those of the smallest bucket that has room."""

    def __init__(self, table: PlanTable, forms: Callable[[str], Form] | None = None) -> None:
        """forms: the form that calls of one image at a point take, which holds where it was timed;
        None: block kernels."""
        timed: dict[str, dict[int, CallLatency]] = {}
        for call in sorted(table.calls, key=lambda call: call.images):
            form = "blocks" if forms is None else forms(call.point)
            buckets = timed.setdefault(call.point, {})
            if call.images not in buckets or call.form == form:
                buckets[call.images] = call
        self._calls = {point: list(buckets.values()) for point, buckets in timed.items()}

    def predict(
        self, point: str, *, batch: int = 1, quantile: float = 0.5, again: float = 0.0
    ) -> float:
        """Seconds that a call of `batch` images at a point takes, with that probability or less.

        again: share of its images that are looked at again, where it glances. A batch that is more
        than the largest bucket runs in several. Raises InvalidInput for an unknown point, batch,
        quantile or share.
        """
        calls = self._calls.get(point)
        if calls is None:
            raise InvalidInput(f"no operating point '{point}'; there are: {', '.join(self._calls)}")
        if batch < 1:
            raise InvalidInput(f"a batch has at least one image, got {batch}")
        for what, value in (("quantile", quantile), ("share", again)):
            if not 0.0 <= value <= 1.0:
                raise InvalidInput(f"a {what} is 0 to 1, got {value}")
        whole, left = divmod(batch, calls[-1].images)
        total_s = whole * _at(calls[-1], quantile, again)
        if left:
            call = next(call for call in calls if call.images >= left)
            total_s += _at(call, quantile, again)
        return total_s

    def ratios(self, levels: int) -> tuple[float, ...]:
        """Seconds of calls over their medians, quantiles evenly spaced."""
        rows = [seconds for calls in self._calls.values() for c in calls for seconds in c.measured]
        over = np.concatenate([np.asarray(row) / np.median(row) for row in rows])
        return tuple(np.quantile(over, np.linspace(0.0, 1.0, levels)).tolist())

    @property
    def points(self) -> tuple[str, ...]:
        """Those that it predicts."""
        return tuple(self._calls)


def plan_table_name(device: str) -> str:
    """`latency-<device>.json`, beside a plan's manifest."""
    return f"latency-{re.sub('[^a-z0-9]+', '-', device.lower()).strip('-')[:64]}.json"


def write_plan_table(path: Path, table: PlanTable) -> None:
    """Write in one step: a kill leaves the old file or none. OSError where that cannot be."""
    write_model(path, table)


def read_plan_table(path: Path) -> PlanTable:
    """Read a table; LatencyError that says what is wrong with it and how to get a new one."""
    return read_model(
        path,
        PlanTable,
        newest=PLAN_TABLE_SCHEMA,
        what="a latency table of a plan",
        command="laud verify PLAN",
    )


def plan_tables_in(folders: Sequence[Path]) -> list[Path]:
    """Tables of the plans that lie in those folders."""
    return [table for plan in plans_in(folders) for table in sorted(plan.glob("latency-*.json"))]


def is_plan_table(path: Path) -> bool:
    """Whether a latency table is of a plan; False too for what cannot be read."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("engine") == ENGINE


def check_plan_table(table: PlanTable, engine: Engine) -> None:
    """Raise LatencyError unless the table was taken of the plan that this engine runs, here."""
    again = "measure here with: laud verify PLAN"
    if engine.name != ENGINE:
        raise LatencyError(f"it is of the {ENGINE} engine, not of the {engine.name} engine")
    for what, of, here in (
        ("plan", table.programs, getattr(engine, "programs", None)),
        ("device", table.device, getattr(engine, "device", None)),
    ):
        if of != here:
            raise LatencyError(f"it is of another {what}; {again}")


def _at(call: CallLatency, quantile: float, again: float) -> float:
    once_s = _quantile(call.seconds, quantile)
    if call.again is None:
        return once_s
    return once_s + again * (_quantile(call.again, quantile) - once_s)


def _quantile(seconds: Sequence[float], quantile: float) -> float:
    return float(np.interp(quantile, np.linspace(0.0, 1.0, len(seconds)), seconds))
