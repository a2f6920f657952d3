"""The machine as a server's own answers tell it, for the simulator: what calls take while the front
works beside them, what decoding takes, and what is left of an exchange."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from service.load.client import LoadError
from service.load.records import Records
from service.load.target import Served
from service.policy.core import PLANNED, REST_S, Dial, PointCost
from service.simulation.core import Bools, Floats, Ints, Machine

_FEWEST = 10
_QUANTILES = 101
# Answers of one call leave together; those of the next come a whole call later.
_TOGETHER = 0.5


@dataclass(frozen=True)
class Told:
    """machine.overhead_s: what is planned for from engine done to the answer at the client; as in
    the service its 95 % quantile. after_s: quantiles of what that took, evenly spaced.

    decode_s: of a picture. front_s: of a request on the event loop, which has one for all.
    entry_s: of a lonely request before it waits, besides. capacity_hz: answers a second at `full`,
    all that shares the cores included.
    """

    machine: Machine
    decode_s: float
    front_s: float
    entry_s: float
    after_s: tuple[float, ...]
    capacity_hz: float


@dataclass(frozen=True)
class _Calls:
    """Calls of the engine, by their end. service_s, number (of images): (n,). first: place in the
    records of one of its images; again: whether that was looked at again, NaN where nobody tells.
    begin_s: on the client's clock, later by an answer's way.
    rested: whether the engine had done nothing for a while."""

    first: Ints
    again: Floats
    service_s: Floats
    number: Ints
    begin_s: Floats
    rested: Bools


def told_by(
    model: Served,
    runs: Mapping[str, Records],
    *,
    alone: Records,
    front_s: float,
    capacity_hz: float,
) -> Told:
    """The machine, from a run at every point that it has; runs: by the point that was pinned.

    What calls take is what they took, what the policy knows of that is the server's own table;
    larger batches are those that happened. alone: a run
    of lonely requests. LoadError where the answers do not tell, or too few came.
    """
    unknown = [name for name in runs if name not in model.accuracy]
    if unknown:
        raise LoadError(
            f"the accuracy of point '{unknown[0]}' was not measured: nothing to compare"
        )
    calls = {name: calls_of(records) for name, records in runs.items()}
    largest = 1
    while any(_steady(found, largest + 1).size >= _FEWEST for found in calls.values()):
        largest += 1
    points = [_point(model, name, found, largest) for name, found in calls.items()]
    single_s = {point.name: point.seconds[0] for point in points}
    # What a point that glances takes depends on the picture: it tells nothing of the machine.
    even = {name: found for name, found in calls.items() if name not in model.glances}
    ratios = np.concatenate([_single(found) / single_s[name] for name, found in even.items()])
    rested = np.concatenate(
        [
            found.service_s[found.rested & (found.number == 1)] / single_s[name]
            for name, found in even.items()
        ]
    )
    decode_s = np.concatenate([np.nan_to_num(found.decode_s) for found in runs.values()])
    after_s = np.concatenate([_known(around(found)[1]) for found in runs.values()])
    before_s = float(np.median(_known(around(alone)[0])))
    # By the server's own table, in whose order and proportions it decides.
    own = sorted(
        zip(_own_table(model, points), points, strict=True), key=lambda both: both[0].seconds[0]
    )
    return Told(
        Machine(
            Dial(tuple(each for each, _ in own)),
            tuple(np.quantile(ratios, np.linspace(0.0, 1.0, _QUANTILES)).tolist()),
            max(1.0, float(np.median(rested))) if rested.size >= _FEWEST else 1.0,
            planned_s(after_s),
            Dial(tuple(taken for _, taken in own)),
        ),
        decode_s=float(np.median(decode_s)),
        front_s=front_s,
        entry_s=max(0.0, before_s - front_s),
        after_s=tuple(np.quantile(after_s, np.linspace(0.0, 1.0, _QUANTILES)).tolist()),
        capacity_hz=capacity_hz,
    )


def told_again(told: Told, records: Records) -> Told:
    """The machine as it is under the load of a run: how much longer than the table's calls took,
    when requests began to wait and what answers took. `told` where the run has too few of them.
    """
    _, ratios = luck_of(records, told.machine)
    before_s, after_s = around(records)
    after_s, known = _known(after_s), ~np.isnan(before_s)
    if min(ratios.size, after_s.size) < _FEWEST:
        return told
    later_s = before_s[known] - (seen_s(told, records.at_s) - records.at_s)[known]
    steps = np.linspace(0.0, 1.0, _QUANTILES)
    return replace(
        told,
        # Calls after a rest are among them.
        machine=replace(
            told.machine,
            ratios=tuple(np.quantile(ratios, steps).tolist()),
            rested_ratio=1.0,
            overhead_s=planned_s(after_s),
        ),
        entry_s=max(0.0, told.entry_s + float(np.median(later_s))),
        after_s=tuple(np.quantile(after_s, steps).tolist()),
    )


def seen_s(told: Told, at_s: Floats) -> Floats:
    """When requests begin to wait: the event loop takes them one after another."""
    seen, free_s = np.empty(len(at_s)), -math.inf
    for place, each_s in enumerate(at_s.tolist()):
        free_s = max(free_s, each_s + told.entry_s) + told.front_s
        seen[place] = free_s
    return seen


def seen_in(told: Told, records: Records) -> tuple[Floats, Floats]:
    """The same as it was in a run, and what answers took after the engine; where none came, as
    planned and nothing."""
    before_s, after_s = around(records)
    planned = seen_s(told, records.at_s)
    seen: Floats = np.where(np.isnan(before_s), planned, records.at_s + before_s)
    return seen, np.nan_to_num(after_s)


def around(records: Records) -> tuple[Floats, Floats]:
    """Of each answer, seconds before it waited and after the engine was done; NaN where unknown.

    The client's lateness and receiving are before; what nobody tells is taken half and half.
    """
    before_s = records.sent_s - records.at_s + records.receive_s
    inside_s = records.decode_s + records.queue_s + records.service_s
    rest_s = np.maximum(records.latency_s - before_s - inside_s, 0.0)
    return before_s + rest_s / 2, rest_s / 2


def planned_s(after_s: Floats) -> float:
    """What the service would plan for answers that take so long."""
    return float(np.quantile(after_s, PLANNED)) if after_s.size else 0.0


def _known(values: Floats) -> Floats:
    found: Floats = values[~np.isnan(values)]
    return found


def luck_of(records: Records, machine: Machine) -> tuple[Floats, Floats]:
    """When the calls of a run began, ascending, and how much longer than their median they took."""
    calls = calls_of(records)
    points = {
        point.name: point.seconds
        for point in (machine.taken or machine.dial).points
        if point.worst == 1.0
    }
    usual_s = np.full((len(records.points) + 1, machine.dial.max_batch), np.nan)
    for place, name in enumerate(records.points):
        usual_s[place] = points.get(name, np.nan)
    number = np.minimum(calls.number, machine.dial.max_batch)
    ratios = calls.service_s / usual_s[records.point[calls.first], number - 1]
    kept = ~np.isnan(ratios)
    order = np.argsort(calls.begin_s[kept], kind="stable")
    return calls.begin_s[kept][order], ratios[kept][order]


def calls_of(records: Records) -> _Calls:
    """The calls behind the answers: of one are those that took equally long and came together."""
    told = np.flatnonzero(records.answered & ~np.isnan(records.service_s))
    told = told[np.argsort(records.done_s[told], kind="stable")]
    service_s, done_s = records.service_s[told], records.done_s[told]
    alike = (service_s[1:] == service_s[:-1]) & (
        np.diff(done_s) < _TOGETHER * np.minimum(service_s[1:], service_s[:-1])
    )
    starts = np.flatnonzero(np.concatenate([np.ones(min(told.size, 1), bool), ~alike]))
    number = np.diff(np.concatenate([starts, [told.size]]))
    ends_s = done_s[starts]
    begin_s = ends_s - service_s[starts]
    idle_s = np.diff(np.concatenate([[-math.inf], ends_s]))[: starts.size] - service_s[starts]
    first = told[starts]
    again = records.again[first]
    return _Calls(first, again, service_s[starts], number, begin_s, idle_s >= REST_S)


def _single(calls: _Calls) -> Floats:
    """Calls of one image in a row; or any, where it rested before nearly all of them; or shares
    of larger calls, where nearly none ran alone."""
    for found in (_steady(calls, 1), calls.service_s[calls.number == 1]):
        if found.size >= _FEWEST:
            return found
    shares: Floats = calls.service_s / calls.number
    return shares


def _steady(calls: _Calls, number: int) -> Floats:
    found: Floats = calls.service_s[(calls.number == number) & ~calls.rested]
    return found


def _own_table(model: Served, taken: Sequence[PointCost]) -> list[PointCost]:
    """The points with the proportions of the server's table, at the level of what calls took."""
    if any(point.name not in model.service_s for point in taken):
        return list(taken)
    level = float(np.median([point.seconds[0] / model.service_s[point.name] for point in taken]))
    found = []
    for point in taken:
        factor = level * model.service_s[point.name] / point.seconds[0]
        again, worst = model.glances.get(point.name, (1.0, 1.0))
        seconds = tuple(factor * each_s for each_s in point.seconds)
        found.append(replace(point, seconds=seconds, again=again, worst=worst))
    return found


def _looks(model: Served, name: str, calls: _Calls) -> tuple[float, float]:
    """Of calls of one image at a point that glances: the share that was looked at again, which is
    the pictures', and what such a one took over the mean. (1, 1) of other points."""
    alone = calls.number == 1
    again, service_s = calls.again[alone], calls.service_s[alone]
    if name not in model.glances or not again.size or np.isnan(again).any():
        return model.glances.get(name, (1.0, 1.0))
    share = float(again.mean())
    if share in (0.0, 1.0):
        return share, 1.0
    return share, max(1.0, float(service_s[again == 1.0].mean() / service_s.mean()))


def _point(model: Served, name: str, calls: _Calls, largest: int) -> PointCost:
    again, worst = _looks(model, name, calls)
    usual = np.mean if name in model.glances else np.median
    seconds: list[float] = []
    for number in range(1, largest + 1):
        found = _single(calls) if number == 1 else _steady(calls, number)
        if found.size >= _FEWEST:
            seconds.append(float(usual(found)))
        elif number == 1:
            raise LoadError(
                f"only {found.size} answers told what a call at point '{name}' takes; take longer "
                "runs"
            )
        else:
            # Nothing is gained by what never ran.
            seconds.append(seconds[0] * number)
    return PointCost(
        name=name,
        image_size=model.sizes.get(name, model.size),
        accuracy=model.accuracy.get(name, 0.0),
        seconds=tuple(np.maximum.accumulate(seconds).tolist()),
        again=again,
        worst=worst,
    )
