"""Which form calls of one image take: layers skipped by block kernels, or by branches.

The choice is the measured table's, point by point; before there is one it is a default.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field

from engines.errors import LatencyError
from engines.manifest import Manifest
from engines.tensorrt.latency import PlanTable, plan_table_name, read_plan_table
from engines.tensorrt.plans import Form, LibraryName, Plan, PlanManifest


@dataclass(frozen=True)
class Forms:
    """A form per operating point, by its name; `otherwise` for what is no point of the bundle."""

    of_points: Mapping[str, Form] = field(default_factory=dict)
    otherwise: Form = "blocks"

    def __call__(self, point: str) -> Form:
        return self.of_points.get(point, self.otherwise)

    @property
    def branch(self) -> bool:
        """Whether any of the points takes branches."""
        return "branches" in self.of_points.values()


def default_form(library: LibraryName) -> Form:
    """The form before anything was timed.

    TensorRT: block kernels. It reads a branch's condition on the host, so every block waits for the
    GPU and no CUDA graph holds the call, and users report little gain from many branches
    (NVIDIA/TensorRT#2836, #4402, #4059). TensorRT-RTX: branches. It takes no plugins, so that in
    place of block kernels it computes everything and masks it.
    """
    return "blocks" if library == "tensorrt" else "branches"


def faster_form(table: PlanTable, point: str, again: float) -> Form | None:
    """The form whose calls of one image take less at the median; None where not both were timed,
    or neither is faster.

    again: share of images that are looked at again, where the point glances.
    """
    taken: dict[Form, float] = {}
    for call in table.calls:
        if call.point == point and call.images == 1:
            once_s = statistics.median(call.seconds)
            both_s = once_s if call.again is None else statistics.median(call.again)
            taken[call.form] = once_s + again * (both_s - once_s)
    if len(taken) < 2 or taken["blocks"] == taken["branches"]:
        return None
    return min(taken, key=taken.__getitem__)


def chosen_forms(plan: PlanManifest, bundle: Manifest, table: PlanTable | None) -> Forms:
    """The forms of all points of a bundle in a plan of it. table: what was timed of that plan on
    the device that runs it, if anything was: where that is no call of branches, they were wrong."""
    wrong = table is not None and all(call.form == "blocks" for call in table.calls)
    if plan.branches is None or wrong:
        return Forms()
    default = default_form(plan.library)
    found = {record.point.name: default for record in bundle.points}
    if table is not None:
        for record in bundle.points:
            form = faster_form(table, record.point.name, record.again or 0.0)
            found[record.point.name] = form or default
    return Forms(found, default)


def timed_of(plan: Plan, device: str) -> PlanTable | None:
    """The table in a plan's folder of what it took on that device; None where there is none of this
    plan that can be read: whoever predicts by it says what is wrong with it."""
    path = plan.path / plan_table_name(device)
    if not path.is_file():
        return None
    try:
        table = read_plan_table(path)
    except LatencyError:
        return None
    fits = (table.programs, table.device) == (plan.manifest.programs, device)
    return table if fits else None
