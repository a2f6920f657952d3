"""Everything that `laud evaluate` measures, in order: answers, rivals, latency, comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from engines.caps import units_of
from engines.core import Engine, OperatingPoint
from engines.evaluation.costs import spread_of
from engines.evaluation.glances import looks_of, mixed, regrouped
from engines.evaluation.plan import EvaluationPlan, Subject, subjects_of
from engines.evaluation.points import (
    Int64Array,
    LabelledImages,
    PointResult,
    Say,
    Trial,
    check_forces,
    run_trials,
)
from engines.evaluation.report import (
    Kind,
    Report,
    Row,
    Shuffled,
    answers_of,
    differences,
    timing_of,
)
from engines.evaluation.rivals import (
    Candidate,
    Comparison,
    best_as_fast,
    compared,
    fixed_mask,
    frequencies_on,
    shuffled,
    told,
)
from engines.evaluation.statistics import RESAMPLES, paired_difference
from engines.evaluation.timing import Latency, Timed, measure_latency, timing_pictures
from engines.folders import scan_folder
from engines.registry import load_engine


@dataclass(frozen=True)
class _Entry:
    """A row before its figures: what ran, on which engine and pictures, and what it answered."""

    name: str
    kind: Kind
    engine: Engine
    images: LabelledImages
    trial: Trial
    result: PointResult
    of: str | None = None


def evaluate_bundle(ref: str | Path, plan: EvaluationPlan, say: Say = lambda line: None) -> Report:
    """Measure the bundle `ref` as `plan` asks.

    Raises BundleError, ConfigError, InvalidInput or EngineError for what cannot be read, run or
    measured: as much of it as can be known is refused before anything is measured.
    """
    subjects = subjects_of(ref, plan)
    with ExitStack() as loaded:
        engines: list[Engine] = []
        for subject in subjects:
            # Latencies are compared: a baseline runs in the precision of the bundle or not at all.
            precision = engines[0].precision if engines else plan.precision
            engine = load_engine(
                subject.bundle, kind=plan.engine, threads=plan.threads, precision=precision
            )
            engines.append(loaded.enter_context(engine))
        if plan.shuffled or plan.fixed_masks:
            check_forces(engines[0])
        # Before anything is measured, since torch may be missing.
        exact = (
            loaded.enter_context(
                load_engine(subjects[0].bundle, kind="reference", threads=plan.threads)
            )
            if plan.reference
            else None
        )
        return _Evaluation(plan, subjects, engines, exact, say).report()


class _Evaluation:
    """One evaluation while it runs. The first subject is the bundle, the others are baselines."""

    def __init__(
        self,
        plan: EvaluationPlan,
        subjects: Sequence[Subject],
        engines: Sequence[Engine],
        exact: Engine | None,
        say: Say,
    ) -> None:
        self._plan, self._subjects, self._engines = plan, subjects, engines
        self._exact, self._say = exact, say
        self._labels: Int64Array = subjects[0].images.labels
        self._net = subjects[0].bundle.manifest.architecture

    def report(self) -> Report:
        plan, subject, engine = self._plan, self._subjects[0], self._engines[0]
        own = self._ran(subject, engine)
        fixed = self._fixed(own) if plan.fixed_masks else []
        shuffles = self._shuffled(own) if plan.shuffled else {}
        differs = self._differing(own)
        others = [
            entry
            for other, running in zip(self._subjects[1:], self._engines[1:], strict=True)
            for entry in self._ran(other, running)
        ]
        entries = [*own, *fixed, *others]
        latencies = self._timed(entries) if plan.latency_s is not None else {}
        rows = self._rows(entries, latencies, shuffles, differs)
        return Report(
            bundle=subject.bundle.hash,
            name=subject.bundle.manifest.name,
            engine=engine.name,
            precision=engine.precision,
            isa=getattr(engine, "isa", None),
            threads=getattr(engine, "threads", plan.threads),
            folders=tuple(str(folder) for folder in plan.folders),
            images=len(self._labels),
            seed=plan.seed,
            resamples=RESAMPLES,
            fixed_from=self._fixed_from(),
            timing=timing_of(plan.latency_s, latencies),
            rows=tuple(row for row in rows if _is_asked(row, plan)),
            comparisons=tuple(self._comparisons(entries, latencies)),
        )

    def _ran(self, subject: Subject, engine: Engine) -> list[_Entry]:
        """The points of a bundle, on all pictures."""
        points = subject.points_in(engine.precision, self._plan)
        images = LabelledImages(subject.images, subject.bundle.manifest.preprocessing.crop_ratio)
        if subject.name:
            self._say(f"running the baseline {subject.name}")
        trials = [Trial(point) for point in points]
        results = run_trials(engine, trials, images, self._say)
        if subject.name:
            results = [self._in_our_labels(result, subject) for result in results]
        return [
            _Entry(
                name=f"{subject.name}/{trial.point.name}" if subject.name else trial.point.name,
                kind=Kind.BASELINE if subject.name else _kind(trial.point),
                engine=engine,
                images=images,
                trial=trial,
                result=result,
            )
            for trial, result in zip(trials, results, strict=True)
        ]

    def _in_our_labels(self, result: PointResult, subject: Subject) -> PointResult:
        ours = self._subjects[0].bundle.manifest.labels
        numbers = np.array([ours.index(label) for label in subject.bundle.manifest.labels])
        return replace(result, predictions=numbers[result.predictions])

    def _fixed(self, own: Sequence[_Entry]) -> list[_Entry]:
        """The fixed mask of every point that skips; of one that glances, second looks at random."""
        return [*self._fixed_masks(own), *self._looked_at_random(own)]

    def _looked_at_random(self, own: Sequence[_Entry]) -> list[_Entry]:
        glancing = [entry for entry in own if entry.result.again is not None]
        return [
            replace(
                entry,
                name=f"{entry.name} (at random)",
                kind=Kind.FIXED,
                result=result,
                of=entry.name,
            )
            for entry, result in zip(glancing, self._regrouped(glancing, False), strict=True)
        ]

    def _regrouped(self, glancing: Sequence[_Entry], shuffle: bool) -> list[PointResult]:
        if not glancing:
            return []
        results = [entry.result for entry in glancing]
        engine, images = glancing[0].engine, glancing[0].images
        return regrouped(engine, results, images, self._plan.seed, self._say, shuffle=shuffle)

    def _fixed_masks(self, own: Sequence[_Entry]) -> list[_Entry]:
        skipping = [entry for entry in own if _is_masked(entry)]
        if not skipping:
            return []
        engine, images = skipping[0].engine, skipping[0].images
        self._say("fixing masks")
        if self._plan.fixed_from is None:
            frequencies = [told(entry.result).mean(axis=0) for entry in skipping]
        else:
            found = scan_folder(self._plan.fixed_from, min_classes=1)
            # Their classes are not looked at, and may be more than the network knows.
            unlabelled = replace(found, labels=np.zeros_like(found.labels))
            others = LabelledImages(unlabelled, images.crop_ratio)
            frequencies = frequencies_on(
                engine, [entry.trial.point for entry in skipping], others, self._say
            )
        trials = [
            fixed_mask(engine, entry.trial.point, often, self._counts(entry), _mean_macs(entry))
            for entry, often in zip(skipping, frequencies, strict=True)
        ]
        results = run_trials(engine, trials, images, self._say)
        return [
            replace(
                entry,
                name=f"{entry.name} (fixed mask)",
                kind=Kind.FIXED,
                trial=trial,
                result=result,
                of=entry.name,
            )
            for entry, trial, result in zip(skipping, trials, results, strict=True)
        ]

    def _shuffled(self, own: Sequence[_Entry]) -> dict[str, Shuffled]:
        """By point that skips, what it answers under the masks of other images."""
        masked = [entry for entry in own if _is_masked(entry)]
        glancing = [entry for entry in own if entry.result.again is not None]
        skipping, seed = [*masked, *glancing], self._plan.seed
        if not skipping:
            return {}
        self._say("shuffling masks")
        trials = [shuffled(entry.result, self._counts(entry), seed) for entry in masked]
        results = [
            *run_trials(skipping[0].engine, trials, skipping[0].images, self._say),
            *self._regrouped(glancing, True),
        ]
        return {
            entry.name: Shuffled(
                accuracy=result.right(self._labels) / len(self._labels),
                log_loss=float(result.losses.mean()),
                rise=paired_difference(result.losses, entry.result.losses, seed=seed),
            )
            for entry, result in zip(skipping, results, strict=True)
        }

    def _differing(self, own: Sequence[_Entry]) -> dict[str, dict[str, float]]:
        if self._exact is None:
            return {}
        self._say("running the reference")
        trials = [entry.trial for entry in own]
        against = run_trials(self._exact, trials, own[0].images, self._say)
        found = differences([entry.result for entry in own], against)
        return {entry.name: differs for entry, differs in zip(own, found, strict=True)}

    def _timed(self, entries: Sequence[_Entry]) -> dict[str, Latency]:
        sizes = sorted({entry.trial.point.image_size for entry in entries})
        # Networks may crop differently.
        pictures = {
            ratio: timing_pictures(LabelledImages(self._subjects[0].images, ratio), sizes)
            for ratio in {entry.images.crop_ratio for entry in entries}
        }
        contenders = {
            name: Timed(
                entry.engine,
                replace(entry.trial, point=point),
                pictures[entry.images.crop_ratio][point.image_size],
            )
            for entry in entries
            for name, point in _looks(entry).items()
        }
        found = measure_latency(contenders, self._plan.latency_s or 0.0, self._say)
        return {entry.name: _latency(entry, found) for entry in entries}

    def _rows(
        self,
        entries: Sequence[_Entry],
        latencies: dict[str, Latency],
        shuffles: dict[str, Shuffled],
        differs: dict[str, dict[str, float]],
    ) -> list[Row]:
        full = entries[0]
        manifest = self._subjects[0].bundle.manifest.at(full.engine.precision)
        recorded = {record.point.name: record.macs_ratio for record in manifest.points}
        return [
            Row(
                name=entry.name,
                kind=entry.kind,
                of=entry.of,
                answers=answers_of(entry.result, full.result, self._labels),
                difference=paired_difference(
                    entry.result.losses, full.result.losses, seed=self._plan.seed
                ),
                latency=latencies.get(entry.name),
                latency_ratio=(
                    latencies[entry.name].mean_ms / latencies[full.name].mean_ms
                    if latencies
                    else None
                ),
                again=None if entry.result.again is None else float(entry.result.again.mean()),
                macs_ratio_recorded=recorded.get(entry.name),
                spread=(
                    spread_of(entry.result, full.result, self._net)
                    if entry.kind is Kind.DIAL
                    else None
                ),
                shuffled=shuffles.get(entry.name),
                differs=differs.get(entry.name, {}),
            )
            for entry in entries
        ]

    def _comparisons(
        self, entries: Sequence[_Entry], latencies: dict[str, Latency]
    ) -> list[Comparison]:
        candidates = {
            entry.name: Candidate(
                entry.name,
                latencies[entry.name].mean_ms if latencies else _mean_macs(entry),
                entry.result.losses,
            )
            for entry in entries
        }
        by_kind = {
            kind: [candidates[entry.name] for entry in entries if entry.kind is kind]
            for kind in Kind
        }
        free = [*by_kind[Kind.FULL], *by_kind[Kind.SIZE], *by_kind[Kind.FIXED]]
        own_mask = {entry.of: candidates[entry.name] for entry in entries if entry.of}
        noise = median(each.noise for each in latencies.values()) if latencies else 0.0
        found: list[Comparison] = []
        for point in by_kind[Kind.DIAL]:
            rivals = {"free rival": best_as_fast(point, free, noise)}
            if point.name in own_mask:
                rivals["fixed mask"] = own_mask[point.name]
            if by_kind[Kind.BASELINE]:
                rivals["baseline"] = best_as_fast(point, by_kind[Kind.BASELINE], noise)
            found += [
                compared(point, rival, against, self._plan.seed)
                for against, rival in rivals.items()
            ]
        return found

    def _counts(self, entry: _Entry) -> list[int]:
        return [int(count) for count in units_of(self._net, entry.trial.point.image_size)]

    def _fixed_from(self) -> str | None:
        if not self._plan.fixed_masks:
            return None
        return str(self._plan.fixed_from) if self._plan.fixed_from else "the evaluated pictures"


def _kind(point: OperatingPoint) -> Kind:
    if not point.skips_nothing:
        return Kind.DIAL
    return Kind.FULL if point.name == "full" else Kind.SIZE


def _is_masked(entry: _Entry) -> bool:
    return entry.kind is Kind.DIAL and entry.trial.point.glance is None


def _looks(entry: _Entry) -> dict[str, OperatingPoint]:
    """What is timed for it, by names that no other entry has."""
    looks = looks_of(entry.trial.point)
    return {f"{entry.name}: {name}": point for name, point in looks.items()}


def _latency(entry: _Entry, found: Mapping[str, Latency]) -> Latency:
    looks = [found[name] for name in _looks(entry)]
    if entry.result.again is None:
        return looks[0]
    return mixed(looks[0], looks[1], float(entry.result.again.mean()))


def _mean_macs(entry: _Entry) -> float:
    return float(entry.result.macs.mean())


def _is_asked(row: Row, plan: EvaluationPlan) -> bool:
    """`full` is always measured, but shown only where it was asked for."""
    return row.kind is not Kind.FULL or plan.points is None or row.name in plan.points
