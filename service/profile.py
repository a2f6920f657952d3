"""What calls of a model take on this machine: from a latency table, or measured at the start.

A table (`laud measure`, of a plan `laud verify`) is taken where one was named, or lies beside the
bundle and is of this machine. Else every point is run with its maskers forced to the activation
rates that the bundle records, because a made-up picture activates anything; engines that cannot be
forced are measured on the packaged pictures as they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import structlog

from engines.bundle import Bundle, bundle_path
from engines.errors import EngineError, InvalidInput, LatencyError
from engines.latency.identity import this_device
from engines.latency.predictor import MeasuredPredictor
from engines.latency.tables import LatencyTable, read_table, table_name
from engines.tensorrt.latency import (
    PlanPredictor,
    PlanTable,
    check_plan_table,
    is_plan_table,
    plan_tables_in,
    read_plan_table,
)
from engines.tensorrt.plans import ENGINE
from service.errors import SettingsError
from service.profile_calls import Call, calls_of, forcing, rounds

if TYPE_CHECKING:
    from service.model import Model
    from service.settings import Settings

BUDGET_S = 0.8
"""Seconds that measuring a model may take: about ten calls of everything for the demo."""

DEFAULT_RATIOS: tuple[float, ...] = (0.9, 0.95, 1.0, 1.0, 1.05, 1.1, 1.25)
"""Seconds of calls over their median where nobody measured them: a few stragglers."""

_log = structlog.get_logger("laud")

_FEWEST = 5
# On a busy machine so many rounds are taken all the same, and so much longer.
_ENOUGH, _PATIENCE = 4, 3
# An engine that did not get this share of its threads' time was disturbed throughout.
_LEAST_CPU = 0.7
_MOST_UNLIKE, _MOST_UNLIKE_BUSY = 3.0, 1.15
_RESTS, _REST_S = 5, 0.012
_MOST_RESTED = 2.5
_QUANTILES = 41
_LEAST_S = 1e-9


@dataclass(frozen=True)
class Profile(Mapping[str, tuple[float, ...]]):
    """Median seconds of calls of 1, 2, ... images, per point; expected ones where it glances.

    worst: of points that glance, seconds where every image is looked at again over those. ratios:
    quantiles, evenly spaced, of measured over those medians. rested_ratio: how much longer a call
    takes after a rest. source: where it comes from, for people.
    """

    seconds: Mapping[str, tuple[float, ...]]
    worst: Mapping[str, float] = field(default_factory=dict)
    ratios: tuple[float, ...] = DEFAULT_RATIOS
    rested_ratio: float = 1.0
    source: str = "given"

    def __getitem__(self, point: str) -> tuple[float, ...]:
        return self.seconds[point]

    def __iter__(self) -> Iterator[str]:
        return iter(self.seconds)

    def __len__(self) -> int:
        return len(self.seconds)


class Tables:
    """Latency tables that may be used: `named` ones, which must fit a model that is served, and
    `found` ones, which are used where they do."""

    def __init__(self, named: Sequence[Path] = (), found: Sequence[Path] = ()) -> None:
        """Raises SettingsError for a named file that cannot be read."""
        self._named = {path: _read_named(path) for path in named}
        self._found = tuple(found)
        self._used: set[Path] = set()

    @classmethod
    def of(cls, settings: Settings) -> Tables:
        """Those of the configuration, and of this machine in the bundles' folders."""
        try:
            name: str | None = table_name(this_device())
        except EngineError:  # the native engine is not there, nor what its tables are of
            name = None
        folders = [bundle_path(ref) for ref in settings.bundles]
        found = [folder / name for folder in folders if name and (folder / name).is_file()]
        # Plans of packaged bundles lie in the current folder.
        return cls(settings.latency_tables, [*found, *plan_tables_in([*folders, Path()])])

    def profile(self, model: Model, max_batch: int) -> Profile | None:
        """What the first table of this model says; None where there is none.

        Raises SettingsError where a named one cannot be used, with the reason.
        """
        for path, table in self._named.items():
            if table.bundle == model.hash:
                self._used.add(path)
                try:
                    return _tabulated(table, path, model, max_batch)
                except (LatencyError, InvalidInput) as error:
                    raise SettingsError(f"'latency_tables': '{path}': {error}") from None
        for path in self._found:
            try:
                table = _read(path)
                of_plan = isinstance(table, PlanTable)
                if table.bundle != model.hash or of_plan != (model.engine.name == ENGINE):
                    continue
                profile = _tabulated(table, path, model, max_batch)
            except (LatencyError, InvalidInput) as error:
                _log.warning(
                    "latency table ignored", model=model.name, table=str(path), reason=str(error)
                )
                continue
            return profile
        return None

    def require_used(self) -> None:
        """Raise SettingsError for a named table of a bundle that is not served; called once every
        model has its profile."""
        for path, table in self._named.items():
            if path not in self._used:
                raise SettingsError(
                    f"'latency_tables': '{path}' is of bundle {table.name} ({table.bundle[:12]}), "
                    "which is not served; measure what is with: laud measure BUNDLE"
                )


def profile_points(
    model: Model,
    max_batch: int,
    budget_s: float = BUDGET_S,
    tables: Tables | None = None,
    *,
    clock: Callable[[], float] = time.perf_counter,
    cpu_clock: Callable[[], float] = time.process_time,
    sleep: Callable[[float], None] = time.sleep,
) -> Profile:
    """Seconds of one call of 1..max_batch images at every point, as the service calls the engine.

    Takes about `budget_s`, at least one call of everything; the model must be warmed up. Of
    larger batches the largest is measured; what lies between is interpolated. Raises SettingsError
    where a named table cannot be used, and what the engine raises.
    """
    profile = None if tables is None else tables.profile(model, max_batch)
    if profile is None:
        profile = _measured(model, max_batch, budget_s, clock, cpu_clock, sleep)
    _log.info("calls profiled", model=model.name, source=profile.source)
    return profile


def _read(path: Path) -> LatencyTable | PlanTable:
    return read_plan_table(path) if is_plan_table(path) else read_table(path)


def _read_named(path: Path) -> LatencyTable | PlanTable:
    try:
        return _read(path)
    except LatencyError as error:
        raise SettingsError(f"'latency_tables': {error}") from None


def _of_plan(table: PlanTable, path: Path, model: Model, max_batch: int) -> Profile:
    # Not loaded where only a CPU serves.
    from engines.tensorrt.running import PlanEngine

    engine = model.engine
    check_plan_table(table, engine)
    if not isinstance(engine, PlanEngine):
        raise LatencyError("the engine does not say which form its calls take")
    predictor = PlanPredictor(table, engine.forms)
    seconds: dict[str, tuple[float, ...]] = {}
    worst: dict[str, float] = {}
    for record in model.manifest.points:
        name = record.point.name
        once_s, again_s = (
            tuple(predictor.predict(name, batch=n + 1, again=share) for n in range(max_batch))
            for share in (0.0, 1.0)
        )
        seconds[name] = once_s
        if record.again is not None:
            seconds[name], worst[name] = expected_of(once_s, again_s, record.again)
    return Profile(seconds, worst, predictor.ratios(_QUANTILES), source=str(path))


def _tabulated(
    table: LatencyTable | PlanTable, path: Path, model: Model, max_batch: int
) -> Profile:
    if isinstance(table, PlanTable):
        return _of_plan(table, path, model, max_batch)
    engine = model.engine
    threads = getattr(engine, "threads", None)
    if engine.name != table.engine or not isinstance(threads, int):
        raise LatencyError(f"it is of the {table.engine} engine, not of the {engine.name} engine")
    # The folder serves messages only; nothing is read from it.
    bundle = Bundle(path.parent, model.manifest, model.hash, {})
    predictor = MeasuredPredictor(
        table, bundle, device=this_device(), precision=engine.precision, threads=threads
    )
    if predictor.noisy:
        raise LatencyError("it was taken while something else ran; measure on a quiet machine")
    seconds: dict[str, tuple[float, ...]] = {}
    worst: dict[str, float] = {}
    for record in model.manifest.points:
        name = record.point.name
        looks = [predictor.looks(name, batch=n) for n in range(1, max_batch + 1)]
        seconds[name] = tuple(first_s + second_s for first_s, second_s in looks)
        if record.again is not None:
            firsts_s = [first_s for first_s, _ in looks]
            seconds[name], worst[name] = expected_of(firsts_s, seconds[name], record.again)
    return Profile(
        seconds=seconds,
        worst=worst,
        ratios=predictor.ratios,
        source=str(path),
    )


def _measured(
    model: Model,
    max_batch: int,
    budget_s: float,
    clock: Callable[[], float],
    cpu_clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> Profile:
    rng = np.random.default_rng(0)
    calls = calls_of(model, max_batch, rng)
    taken: list[list[float]] = [[] for _ in calls]

    def timed(which: int, turn: int) -> float:
        before_s = clock()
        calls[which].run(model.engine, turn)
        return max(clock() - before_s, _LEAST_S)

    begin_s, cpu_begin_s = clock(), cpu_clock()
    for turn, which in rounds(calls, rng, timed):
        if turn and clock() - begin_s >= budget_s * (1 if turn >= _ENOUGH else _PATIENCE):
            break
        taken[which].append(timed(which, turn))
    wanted_s = (clock() - begin_s) * getattr(model.engine, "threads", 0)
    busy = cpu_clock() - cpu_begin_s < wanted_s * _LEAST_CPU
    if busy:
        _log.warning(
            "the machine is busy: points are compared by their work; laud measure takes a table",
            model=model.name,
        )
    medians, ratios = _typical(calls, taken, _MOST_UNLIKE_BUSY if busy else _MOST_UNLIKE)
    fewest = min(map(len, taken))
    if fewest < _FEWEST:
        # So few calls of each hide how much they scatter.
        ratios = np.concatenate([ratios, DEFAULT_RATIOS * len(calls)])
    rested_ratio = 1.0
    if isinstance(model.engine, forcing()):
        fastest = int(np.argmin(medians))
        rested = []
        for turn in range(_RESTS):
            sleep(_REST_S)
            rested.append(timed(fastest, turn))
        rested_ratio = min(max(float(np.median(rested)) / medians[fastest], 1.0), _MOST_RESTED)
    seconds: dict[str, tuple[float, ...]] = {}
    worst: dict[str, float] = {}
    for record in model.manifest.points:
        name = record.point.name
        first_s, both_s = (
            _filled(
                {
                    call.count: median
                    for call, median in zip(calls, medians, strict=True)
                    if call.name == name and call.again == again
                },
                max_batch,
            )
            for again in (False, True)
        )
        seconds[name] = both_s
        if record.again is not None:
            seconds[name], worst[name] = expected_of(first_s, both_s, record.again)
    return Profile(
        seconds=seconds,
        worst=worst,
        ratios=tuple(map(float, np.quantile(ratios, np.linspace(0.0, 1.0, _QUANTILES)))),
        rested_ratio=rested_ratio,
        source=f"measured at the start, {fewest} or more calls of each",
    )


def _typical(
    calls: Sequence[Call], taken: Sequence[Sequence[float]], most_unlike: float
) -> tuple[list[float], npt.NDArray[np.float64]]:
    """Median seconds per call, and all measured over them.

    What disturbs a call only makes it longer, and falls on few of them: calls are compared by their
    lower quartiles, and all are raised alike to the medians. A call that was disturbed each time is
    brought back to `most_unlike` times what others need per multiplication: a wrong level is
    corrected later, wrong proportions are not.
    """
    lower = np.array([np.quantile(each, 0.25) for each in taken])
    work = np.array([call.macs for call in calls])
    usual = np.median(lower / work)
    lower = np.clip(lower, work * usual / most_unlike, work * usual * most_unlike)
    ratios = np.concatenate([np.array(each) / low for each, low in zip(taken, lower, strict=True)])
    level = float(np.median(ratios))
    return [float(low) * level for low in lower], ratios / level


def expected_of(
    firsts_s: Sequence[float], both_s: Sequence[float], again: float
) -> tuple[tuple[float, ...], float]:
    """Expected seconds per batch of a point that glances, and the most over them.

    firsts_s, both_s: of calls in which no image, and every image, is looked at again.
    """
    looks = [(first, max(both - first, 0.0)) for first, both in zip(firsts_s, both_s, strict=True)]
    seconds = tuple(first + again * second for first, second in looks)
    worst = max((f + s) / each for (f, s), each in zip(looks, seconds, strict=True))
    return seconds, worst


def _filled(medians: Mapping[int, float], max_batch: int) -> tuple[float, ...]:
    """Seconds of every batch up to the largest, between measured ones on a line; none of none."""
    if not medians:
        return ()
    batches = sorted(medians)
    between = np.interp(range(1, max_batch + 1), batches, [medians[n] for n in batches])
    return tuple(map(float, between))
