"""What `laud bench engine` was asked to measure of a detector, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engines.architecture import ResNet, only_resnet
from engines.bench.timing import FEWEST_REPEATS
from engines.bundle import Bundle, read_bundle
from engines.core import MAX_IMAGE_SIZE, OperatingPoint
from engines.detection.architecture import STRIDE, Detector
from engines.errors import BundleError, InvalidInput
from engines.manifest import PRECISIONS

SHARE = 0.25
"""Of the pictures that count as mostly empty, unless another is asked."""


@dataclass(frozen=True)
class DetectorPlan:
    """What to measure, as asked; see `laud bench engine --help`.

    images: a split of annotated pictures. point: None means the cheapest that skips. against,
    against_size: the detector that OpenVINO runs, and our engine with nothing skipped, and its
    image size; None: the same. emptiest: share of the pictures, those with the least foreground,
    which are measured once more on their own.
    """

    arch: str
    images: Path | None = None
    precision: str = "fp32"
    point: str | None = None
    threads: int = 1
    repeats: int = 24
    cache: Path | None = None
    against: str | None = None
    against_size: int | None = None
    emptiest: float = SHARE

    def __post_init__(self) -> None:
        """Raises InvalidInput for what cannot be measured, whatever the detector."""
        if self.images is None:
            raise InvalidInput(
                "what a detector skips depends on what is in the picture: name annotated ones with "
                "--images DIR"
            )
        if self.precision not in PRECISIONS:
            raise InvalidInput(
                f"--precision must be one of {', '.join(PRECISIONS)}, got '{self.precision}'"
            )
        for option, value, least in (
            ("threads", self.threads, 1),
            ("repeats", self.repeats, FEWEST_REPEATS),
        ):
            if value < least:
                raise InvalidInput(f"--{option} must be at least {least}, got {value}")
        if not 0.0 < self.emptiest <= 1.0:
            raise InvalidInput(f"--emptiest must be above 0 and at most 1, got {self.emptiest}")
        size = self.against_size
        if size is not None and (not 1 <= size <= MAX_IMAGE_SIZE or size % STRIDE):
            raise InvalidInput(
                f"--against-size must be a multiple of {STRIDE}, at most {MAX_IMAGE_SIZE} pixels, "
                f"got {size}"
            )


@dataclass(frozen=True)
class Subjects:
    """A detector at a point, and the one that is its static rival on both engines."""

    bundle: Bundle
    point: OperatingPoint
    static: Bundle
    static_size: int


def check_options(arch: str, given: Mapping[str, object]) -> None:
    """Raise InvalidInput for options of classifiers; None where they were left out."""
    wrong = [f"--{name}" for name, value in given.items() if value is not None]
    if wrong:
        raise InvalidInput(
            f"'{arch}' finds objects and is measured with its own masks, one picture a call: leave "
            f"out {', '.join(wrong)}"
        )


def subjects(plan: DetectorPlan) -> Subjects:
    """Read the detectors. Raises BundleError or InvalidInput with the reason."""
    bundle = read_bundle(plan.arch)
    parts_of(bundle)
    manifest = bundle.manifest.at(plan.precision)
    if plan.point is not None:
        record = manifest.point(plan.point)
    else:
        dynamic = [each for each in manifest.points if not each.point.skips_nothing]
        record = min(dynamic or [manifest.full], key=lambda each: each.macs)
    static = bundle if plan.against is None else read_bundle(plan.against)
    parts_of(static)
    if static.manifest.labels != manifest.labels:
        raise InvalidInput(
            f"--against {plan.against} has other labels: {', '.join(static.manifest.labels)}"
        )
    return Subjects(bundle, record.point, static, plan.against_size or record.point.image_size)


def parts_of(bundle: Bundle) -> tuple[ResNet, Detector]:
    """Backbone and detector; BundleError where the bundle has none that is measured."""
    manifest = bundle.manifest
    if manifest.detector is None:
        raise BundleError(f"'{bundle.path}' finds no objects: its task is {manifest.task}")
    return only_resnet(manifest.architecture, "the benchmark"), manifest.detector
