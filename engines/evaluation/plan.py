"""What `laud evaluate` is asked, checked before anything is loaded or measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engines.bundle import Bundle, classifier, read_bundle
from engines.core import MAX_IMAGE_SIZE, OperatingPoint, static_point
from engines.errors import InvalidInput
from engines.evaluation.pool import pool_folders
from engines.folders import ImageFolder, scan_folder
from engines.manifest import Manifest
from engines.registry import DEFAULT_ENGINE

LATENCY_S = 10.0


@dataclass(frozen=True)
class EvaluationPlan:
    """What to measure of a bundle, and beside what.

    folders: of pictures, one folder a class, taken together. points: only these and `full`; None
    means all. sizes: image sizes to add with nothing skipped. latency_s: seconds to time for, in
    all; None means not at all. fixed_from: pictures that fixed masks are made from; None means the
    evaluated ones. baselines: bundles of other networks with the same labels, such as static ones,
    run in the bundle's precision.
    reference: compare with the reference engine too. seed: of shuffles and of bootstraps.
    Raises InvalidInput for what cannot be, whatever the bundle.
    """

    folders: tuple[Path, ...]
    points: tuple[str, ...] | None = None
    sizes: tuple[int, ...] = ()
    engine: str = DEFAULT_ENGINE
    precision: str | None = None
    threads: int | None = None
    latency_s: float | None = LATENCY_S
    shuffled: bool = False
    fixed_masks: bool = False
    fixed_from: Path | None = None
    baselines: tuple[str, ...] = ()
    reference: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.folders:
            raise InvalidInput("at least one folder of pictures is needed")
        check_sizes(self.sizes)
        check_seconds(self.latency_s)
        check_fixed_from(self.fixed_from, self.fixed_masks)
        check_seed(self.seed)


@dataclass(frozen=True)
class Subject:
    """A bundle and the pictures with its label numbers. name: what its rows start with."""

    bundle: Bundle
    images: ImageFolder
    name: str = ""

    def points_in(self, precision: str, plan: EvaluationPlan) -> list[OperatingPoint]:
        """The points to run, `full` first, then sizes that it does not have already.

        These are those asked, and those that the dial dropped: a rival that skipping beat once, on
        the pictures that it was chosen on, must be met again.
        """
        manifest = self.bundle.manifest.at(precision)
        points = [manifest.point(name).point for name in names_of(manifest, plan, self)]
        have = {point.image_size for point in points if point.skips_nothing}
        maskers = len(manifest.architecture.maskers)
        others = {record.point.name for record in manifest.points if not record.point.skips_nothing}
        dropped = () if plan.points or self.name else _dialled_sizes(manifest)
        for size in dict.fromkeys((*plan.sizes, *dropped)):
            if size not in have:
                name = f"size-{size}"
                name = f"{name}-static" if name in others else name
                points.append(static_point(name, size, maskers))
        return points


def names_of(manifest: Manifest, plan: EvaluationPlan, subject: Subject) -> list[str]:
    """The bundle's points that are run; those of a baseline are not chosen by --point."""
    if plan.points is None or subject.name:
        return [record.point.name for record in manifest.points]
    return ["full", *(name for name in dict.fromkeys(plan.points) if name != "full")]


def subjects_of(ref: str | Path, plan: EvaluationPlan) -> list[Subject]:
    """The bundle `ref` and the baselines, read, with their pictures.

    Raises BundleError, ConfigError or InvalidInput where one cannot be read, has other labels, a
    point is unknown, or a folder cannot be used.
    """
    bundle = classifier(read_bundle(ref), "this evaluation")
    for name in plan.points or ():
        bundle.manifest.point(name)
    others = [classifier(read_bundle(baseline), "--baseline") for baseline in plan.baselines]
    for other in others:
        if set(other.manifest.labels) != set(bundle.manifest.labels):
            raise InvalidInput(
                f"the baseline '{other.ref}' has other labels than '{bundle.ref}': "
                f"{', '.join(other.manifest.labels)}"
            )
    if plan.fixed_from is not None:
        scan_folder(plan.fixed_from, min_classes=1)
    subjects = [Subject(bundle, pool_folders(plan.folders, bundle.manifest.labels))]
    for other in others:
        stem = other.path.name.removesuffix(".laud")
        count = sum(
            subject.name == stem or subject.name.startswith(f"{stem}#") for subject in subjects
        )
        name = f"{stem}#{count + 1}" if count else stem
        subjects.append(Subject(other, pool_folders(plan.folders, other.manifest.labels), name))
    return subjects


def check_sizes(sizes: Sequence[int]) -> None:
    """Raise InvalidInput for image sizes that cannot be, or are there twice."""
    if len(set(sizes)) < len(sizes):
        raise InvalidInput(f"every size is to be given once, got {_listed(sizes)}")
    for size in sizes:
        if not 1 <= size <= MAX_IMAGE_SIZE:
            raise InvalidInput(f"an image size is 1 to {MAX_IMAGE_SIZE} pixels, got {size}")


def _dialled_sizes(manifest: Manifest) -> tuple[int, ...]:
    """Image sizes of the dial's candidates that skip nothing, kept or dropped."""
    if manifest.dial is None:
        return ()
    return tuple(each.image_size for each in manifest.dial.candidates if each.budget is None)


def _listed(sizes: Sequence[int]) -> str:
    return ", ".join(map(str, sizes))


def check_seed(seed: int) -> None:
    """Raises InvalidInput for one that no generator takes."""
    if seed < 0:
        raise InvalidInput(f"a seed is 0 or more, got {seed}")


def check_seconds(latency_s: float | None) -> None:
    """Raise InvalidInput for a time that nothing can be measured in; None measures nothing."""
    if latency_s is not None and not 0 < latency_s < float("inf"):
        raise InvalidInput(f"seconds of timing must be above 0, got {latency_s:g}")


def check_fixed_from(fixed_from: Path | None, fixed_masks: bool) -> None:
    """Raise InvalidInput for pictures that nothing is made from."""
    if fixed_from is not None and not fixed_masks:
        raise InvalidInput("--fixed-from makes fixed masks: it goes with --fixed-masks")
