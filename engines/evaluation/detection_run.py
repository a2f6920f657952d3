"""Everything that `laud evaluate` measures of a detector, in order: answers, rivals, latency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from engines.bundle import Bundle, Manifest, read_bundle
from engines.core import Engine, OperatingPoint, static_point
from engines.detection.architecture import macs_per_object
from engines.detection.read import read_folder
from engines.detection.scenes import Scene
from engines.detection.scores import check_scoring
from engines.errors import BundleError
from engines.evaluation.detection import (
    DetectionPlan,
    DetectionReport,
    DetectionResult,
    check_labels,
    judge,
    square,
)
from engines.evaluation.detection_rivals import (
    ShuffledMasks,
    detector_units,
    frequencies_in,
    shuffled_masks,
)
from engines.evaluation.points import Say, Trial, check_forces
from engines.evaluation.report import Kind, timing_of
from engines.evaluation.rivals import fixed_mask, shuffled, told
from engines.evaluation.timing import Latency, Timed, measure_latency
from engines.registry import load_engine

MOST_TIMED = 20
"""Pictures that latency is measured on, evenly from all of them: calls take long."""


def evaluate_detector(
    ref: str | Path,
    folder: Path,
    plan: DetectionPlan | None = None,
    say: Say = lambda line: None,
) -> DetectionReport:
    """Measure the points of a bundle on the annotated pictures of a split.

    Raises BundleError, ConfigError or InvalidInput with the reason.
    """
    plan = plan or DetectionPlan()
    check_scoring()
    bundle = read_bundle(ref)
    manifest = bundle.manifest
    if manifest.detector is None:
        raise BundleError(f"'{bundle.path}' finds no objects: its task is {manifest.task}")
    for name in plan.points or ():
        manifest.point(name)
    scenes = read_folder(folder)
    check_labels(scenes, manifest.labels)
    others = scenes if plan.fixed_from is None else read_folder(plan.fixed_from)
    with load_engine(
        bundle, kind=plan.engine, threads=plan.threads, precision=plan.precision
    ) as engine:
        if plan.shuffled or plan.fixed_masks:
            check_forces(engine)
        # Thresholds hold for the precision that they were calibrated in.
        at = manifest.at(engine.precision)
        trials = {point.name: Trial(point) for point in _chosen(at, plan)}
        run = _Run(engine, bundle, scenes.scenes, plan.seed, say)
        results = [run.judged(trial) for trial in trials.values()]
        shuffles = run.shuffles(results) if plan.shuffled else {}
        if plan.fixed_masks:
            fixed = run.fixed(results, None if plan.fixed_from is None else others.scenes)
            trials |= {result.name: trial for result, trial in fixed}
            results = _beside(results, [result for result, _ in fixed])
        latencies = {}
        if plan.latency_s is not None:
            latencies = run.latencies(trials, plan.latency_s)
        return DetectionReport(
            bundle=bundle,
            plan=plan,
            folder=folder,
            precision=engine.precision,
            isa=getattr(engine, "isa", None),
            threads=getattr(engine, "threads", plan.threads),
            timing=timing_of(plan.latency_s, latencies),
            results=tuple(results),
            latencies=latencies,
            shuffles=shuffles,
        )


def _chosen(manifest: Manifest, plan: DetectionPlan) -> list[OperatingPoint]:
    """The points to run: those asked for, else all, and the image sizes that the dial dropped: a
    rival that skipping beat once, on the pictures that it was chosen on, must be met again. And
    sizes that were asked for, where no point has them."""
    names = plan.points or tuple(record.point.name for record in manifest.points)
    points = [manifest.point(name).point for name in names]
    dropped: list[int] = []
    if plan.points is None and manifest.dial is not None:
        candidates = manifest.dial.candidates
        dropped = [each.image_size for each in candidates if each.budget is None and not each.kept]
    there = {point.image_size for point in points if point.skips_nothing}
    maskers = len(manifest.full.point.thresholds)
    return points + [
        static_point(f"size-{size}", size, maskers)
        for size in dict.fromkeys((*dropped, *plan.sizes))
        if size not in there
    ]


class _Run:
    """One evaluation while it runs."""

    def __init__(
        self, engine: Engine, bundle: Bundle, scenes: Sequence[Scene], seed: int, say: Say
    ) -> None:
        self._engine, self._manifest, self._scenes = engine, bundle.manifest, scenes
        self._seed, self._say = seed, say
        detector = bundle.manifest.detector
        self._per_object = 0 if detector is None else macs_per_object(detector)

    def judged(self, trial: Trial) -> DetectionResult:
        return judge(
            self._engine,
            trial.point,
            self._scenes,
            self._manifest.labels,
            per_object=self._per_object,
            seed=self._seed,
            say=self._say,
            forced=trial.forced,
        )

    def shuffles(self, results: Sequence[DetectionResult]) -> dict[str, ShuffledMasks]:
        """By point that skips, what becomes of it under the masks of other pictures."""
        self._say("shuffling masks")
        found: dict[str, ShuffledMasks] = {}
        for own in results:
            if own.kind is Kind.DIAL:
                trial = shuffled(own, self._units(own), self._seed)
                found[own.name] = shuffled_masks(self.judged(trial), own)
        return found

    def fixed(
        self, results: Sequence[DetectionResult], others: Sequence[Scene] | None
    ) -> list[tuple[DetectionResult, Trial]]:
        """The fixed mask of every point that skips. others: pictures that masks are made from;
        None: the evaluated ones."""
        self._say("fixing masks")
        found: list[tuple[DetectionResult, Trial]] = []
        for own in results:
            if own.kind is not Kind.DIAL:
                continue
            if others is None:
                frequencies = told(own).mean(axis=0)
            else:
                size = own.point.image_size
                shown = (square(scene, size)[np.newaxis] for scene in others)
                frequencies = frequencies_in(self._engine, own.point, shown)
            trial = fixed_mask(
                self._engine,
                own.point,
                frequencies,
                self._units(own),
                own.dense_macs,
                per_object=self._per_object,
            )
            found.append((replace(self.judged(trial), of=own.name), trial))
        return found

    def latencies(self, trials: Mapping[str, Trial], seconds: float) -> dict[str, Latency]:
        count = len(self._scenes)
        some = np.linspace(0, count - 1, min(MOST_TIMED, count)).astype(int).tolist()
        pictures = {
            size: np.stack([square(self._scenes[i], size) for i in some])
            for size in {trial.point.image_size for trial in trials.values()}
        }
        contenders = {
            name: Timed(self._engine, trial, pictures[trial.point.image_size])
            for name, trial in trials.items()
        }
        return measure_latency(contenders, seconds, self._say)

    def _units(self, result: DetectionResult) -> list[int]:
        return detector_units(self._manifest, result.point.image_size)


def _beside(
    results: Sequence[DetectionResult], fixed: Sequence[DetectionResult]
) -> list[DetectionResult]:
    """Every fixed mask behind its point."""
    by_point = {result.of: result for result in fixed}
    return [
        each
        for own in results
        for each in (own, *([by_point[own.name]] if own.name in by_point else []))
    ]
