"""What a bundle says about itself: preprocessing, architecture, points, scales. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from engines.architecture import Architecture, RegNet, ResNet
from engines.core import FrozenModel, OperatingPoint
from engines.detection.architecture import STRIDE, Detector
from engines.detection.scores import DetectionScores
from engines.errors import BundleError, InvalidInput

Task = Literal["classification", "detection", "segmentation"]

PRECISIONS = ("fp32", "bf16", "int8")
"""Of the native engine."""

SERVED_PRECISIONS = (*PRECISIONS, "fp16")
"""Of all engines."""

MOST_POINTS = 64

Rate = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]


class Preprocessing(FrozenModel):
    """From picture to network input.

    The centre square of `crop_ratio` x the short side is scaled to the point's image size; where
    objects are to be found, the whole picture in a grey square (`engines.detection.letterbox`).
    Then, per channel in `channel_order`, (value - mean) / std with values 0 to 255.
    """

    crop_ratio: Annotated[float, Field(gt=0.0, le=1.0)]
    channel_order: Literal["rgb", "bgr"]
    mean: tuple[float, float, float]
    std: tuple[Positive, Positive, Positive]


class Accuracy(FrozenModel):
    """Share of right answers on `images` pictures of `split`, with a 95 % Wilson interval.

    Where objects are to be found: AP50 of masks, else of boxes, with a bootstrap over pictures.
    """

    value: Rate
    low: Rate
    high: Rate
    images: Annotated[int, Field(ge=1)]
    split: str


class PointRecord(FrozenModel):
    """An operating point and what was measured of it on the weights that ship.

    agreement: share of images on which it answers as `full` does. log_loss: mean natural-log loss
    of the right class, on the images of `accuracy`. activation: mean activation rate per masker.
    macs: mean multiply-accumulates per image; macs_ratio: over those of `full`. macs_bound: what no
    image exceeds (see `engines.caps`). again: share of images that a point which glances looked at
    again; None for others. detection: average precision, where objects are to be found; there is no
    agreement then, and no loss. Bundles of older versions lack losses and bounds.
    """

    point: OperatingPoint
    accuracy: Accuracy | None = None
    agreement: Rate | None = None
    log_loss: Annotated[float, Field(ge=0)] | None = None
    activation: tuple[Rate, ...]
    macs: Annotated[float, Field(gt=0)]
    macs_ratio: Annotated[float, Field(gt=0)]
    macs_bound: Annotated[float, Field(gt=0)] | None = None
    again: Rate | None = None
    detection: DetectionScores | None = None

    @model_validator(mode="after")
    def _glances(self) -> Self:
        if (self.point.glance is None) != (self.again is None):
            raise ValueError(
                f"point '{self.point.name}': a glance and the share looked at again go together"
            )
        return self


class DialCandidate(FrozenModel):
    """A point that could have been shipped, as it was measured, and what became of it.

    budget: of the multiply-accumulates at its image size, None where nothing is skipped.
    latency_ratio, macs_ratio: over those of `full`. log_loss: None of a detector, whose accuracy
    decides alone. dominated_by: a shipped point that is at most as slow and not worse; `full` is
    shipped all the same.
    """

    name: str
    image_size: Annotated[int, Field(ge=1)]
    budget: Rate | None
    latency_ms: Positive
    latency_ratio: Positive
    log_loss: Annotated[float, Field(ge=0)] | None
    accuracy: Rate
    macs_ratio: Positive
    kept: bool
    dominated_by: str | None = None


class Dial(FrozenModel):
    """Why the bundle has the points that it has: its candidates, measured on one machine.

    device: its slug (`engines.latency.identity`). Latencies are medians of `repeats` runs of one
    image, uint8 tensor to answer. noise_ratio: how far medians of the even and of the odd
    runs differ (A/A), the median over candidates. tolerance_ratio: the difference in latency up to
    which two candidates counted as equally fast, least_gain_ratio: the same as a share of the
    latency of `full`. candidates: `full` first.
    """

    device: str
    precision: Literal["fp32", "bf16", "int8"]
    threads: Annotated[int, Field(ge=1)]
    repeats: Annotated[int, Field(ge=1)]
    noise_ratio: Annotated[float, Field(ge=0)]
    tolerance_ratio: Annotated[float, Field(ge=0)]
    least_gain_ratio: Annotated[float, Field(ge=0)] = 0.0
    candidates: Annotated[tuple[DialCandidate, ...], Field(min_length=1, max_length=MOST_POINTS)]


class BlockScales(FrozenModel):
    """Scales of a block's activations: value = quantum * scale.

    inner1, inner2: after the first and second convolution and ReLU, 0 to 255. shortcut: of a
    projection, symmetric, value = (quantum - 128) * shortcut; None without one.
    """

    inner1: Positive
    inner2: Positive
    shortcut: Positive | None = None


class DetectorScales(FrozenModel):
    """Scales of what stands on a detector's backbone.

    sums, per level the laterals with the coarser levels added, and pyramid, of all levels, have a
    sign: value = (quantum - 128) * scale. The others follow a ReLU, 0 to 255: classes and boxes,
    per layer of either tower; masks, per layer of the mask head, its transposed convolution last,
    none where objects get no mask.
    """

    sums: tuple[Positive, Positive, Positive, Positive]
    pyramid: Positive
    classes: Annotated[tuple[Positive, ...], Field(min_length=1)]
    boxes: Annotated[tuple[Positive, ...], Field(min_length=1)]
    masks: tuple[Positive, ...] = ()


class Calibration(FrozenModel):
    """Where int8 scales come from and how near int8 stays to the float form.

    images, split: the pictures whose activations were looked at. method: how ranges were clipped
    (`max`, `percentile`, `mse`). agreement: per point, share of the images of its accuracy on which
    int8 answers as the float form does; where objects are to be found, share of the objects of both
    forms that the other finds too (see `engines.detection.agreement`).
    """

    images: Annotated[int, Field(ge=1)]
    split: str
    method: str
    agreement: tuple[Rate, ...]


class Quantisation(FrozenModel):
    """What int8 arithmetic needs beside the weights. Activations are 8 bits, one scale a tensor.

    stem: the stem's output, after ReLU. trunk: one scale per stage, so that skipped pixels keep
    their bytes. blocks: in execution order. features: what enters the classifier, None where there
    is a detector, whose scales are then given. points: those of the manifest, calibrated and
    measured in int8.
    """

    stem: Positive
    trunk: Annotated[tuple[Positive, ...], Field(min_length=1)]
    blocks: Annotated[tuple[BlockScales, ...], Field(min_length=1)]
    features: Positive | None = None
    detector: DetectorScales | None = None
    points: tuple[PointRecord, ...]
    calibration: Calibration


class WeightsFile(FrozenModel):
    """The weights' storage type (arithmetic is the engine's choice) and hash."""

    dtype: Literal["fp16", "fp32"]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Provenance(FrozenModel):
    """How the weights came about: training configuration, data, notices that must travel along."""

    config: dict[str, Any]
    notices: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _finite(self) -> Self:
        # JSON has no such numbers: written, they would silently become null.
        for path, value in _numbers(self.config, "config"):
            if not math.isfinite(value):
                raise ValueError(f"{path} is {value}, which JSON cannot hold")
        return self


class Manifest(FrozenModel):
    """Everything about a bundle but its weights. The first point is `full`: nothing skipped.

    Where objects are to be found, `architecture` is the backbone, whose classifier is left out, and
    `detector` what stands on it; `segmentation` is detection with a mask for each object.
    """

    schema_version: Literal[1] = 1
    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-z0-9][a-z0-9_.-]*$")]
    task: Task = "classification"
    labels: Annotated[tuple[str, ...], Field(min_length=1)]
    preprocessing: Preprocessing
    architecture: Architecture
    detector: Detector | None = None
    points: Annotated[tuple[PointRecord, ...], Field(min_length=1, max_length=MOST_POINTS)]
    weights: WeightsFile
    quantisation: Quantisation | None = None
    dial: Dial | None = None
    provenance: Provenance
    versions: dict[str, str]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.labels) != self.architecture.num_classes:
            raise ValueError(
                f"{len(self.labels)} labels for {self.architecture.num_classes} classes"
            )
        of_levels = 0 if self.detector is None else self.detector.num_maskers
        _check_points(self.points, len(self.architecture.maskers) + of_levels)
        _check_detector(self)
        if self.quantisation is not None:
            _check_quantisation(self.quantisation, self.architecture, self.detector, self.points)
        if self.dial is not None:
            _check_dial(self.dial, self.points)
        return self

    @property
    def full(self) -> PointRecord:
        """The point that skips nothing at the largest image size."""
        return self.points[0]

    def point(self, name: str) -> PointRecord:
        """The point of that name; InvalidInput lists the names there are."""
        for record in self.points:
            if record.point.name == name:
                return record
        known = ", ".join(record.point.name for record in self.points)
        raise InvalidInput(f"'{self.name}' has no operating point '{name}'; it has: {known}")

    def at(self, precision: str) -> Manifest:
        """This manifest with the points that were calibrated and measured in that precision.

        Raises InvalidInput for an unknown precision, BundleError when there are no int8 scales.
        """
        if precision not in SERVED_PRECISIONS:
            raise InvalidInput(
                f"unknown precision '{precision}'; there are: {', '.join(SERVED_PRECISIONS)}"
            )
        if precision != "int8":
            return self
        if self.quantisation is None:
            raise BundleError(
                f"the bundle '{self.name}' has no int8 scales; make one that has with: "
                "laud export SOURCE -o NAME.laud --int8 --calibrate DIR"
            )
        return self.model_copy(update={"points": self.quantisation.points})


def _check_detector(manifest: Manifest) -> None:
    detector = manifest.detector
    if (detector is None) != (manifest.task == "classification"):
        raise ValueError(
            f"task '{manifest.task}' {'needs a' if detector is None else 'takes no'} detector"
        )
    if detector is None:
        return
    if detector.masks != (manifest.task == "segmentation"):
        raise ValueError(f"task '{manifest.task}' contradicts a detector with masks or without")
    if not isinstance(manifest.architecture, ResNet):
        raise ValueError("a detector stands on a backbone of family 'resnet'")
    for record in manifest.points:
        if record.point.image_size % STRIDE or record.point.glance is not None:
            raise ValueError(
                f"point '{record.point.name}': a detector's image sizes are multiples of {STRIDE}, "
                "and it does not glance"
            )


def _check_points(points: Sequence[PointRecord], maskers: int) -> None:
    names = [record.point.name for record in points]
    if len(set(names)) != len(names):
        raise ValueError(f"operating points have equal names: {', '.join(sorted(names))}")
    if not names or names[0] != "full" or not points[0].point.skips_nothing:
        raise ValueError("the first operating point must be 'full' and skip nothing")
    for record in points:
        for what in (record.point.thresholds, record.activation):
            if len(what) != maskers:
                raise ValueError(
                    f"point '{record.point.name}' has {len(what)} entries for {maskers} maskers"
                )


def _check_quantisation(
    scales: Quantisation,
    net: ResNet | RegNet,
    detector: Detector | None,
    points: Sequence[PointRecord],
) -> None:
    if not isinstance(net, ResNet):
        raise ValueError(f"int8 arithmetic is defined for family 'resnet', not for '{net.family}'")
    if net.official_layout or not net.folded:
        raise ValueError("quantisation needs a network with folded batch norm, in our own layout")
    if len(scales.trunk) != len(net.stages):
        raise ValueError(f"{len(scales.trunk)} trunk scales for {len(net.stages)} stages")
    if len(scales.blocks) != len(net.blocks):
        raise ValueError(f"scales of {len(scales.blocks)} blocks for {len(net.blocks)} blocks")
    for block, found in zip(net.blocks, scales.blocks, strict=True):
        if block.projection != (found.shortcut is not None):
            raise ValueError(
                f"{block.name} {'needs a' if block.projection else 'takes no'} shortcut scale"
            )
    _check_heads(scales, detector)
    _check_points(scales.points, len(net.maskers) + (detector.num_maskers if detector else 0))
    wanted, given = (
        ", ".join(f"{record.point.name} at {record.point.image_size} px" for record in of)
        for of in (points, scales.points)
    )
    if wanted != given:
        raise ValueError(f"int8 points are {given} instead of {wanted}")
    if len(scales.calibration.agreement) != len(points):
        raise ValueError(
            f"calibration has {len(scales.calibration.agreement)} agreements for "
            f"{len(points)} points"
        )


def _check_heads(scales: Quantisation, detector: Detector | None) -> None:
    found = scales.detector
    if (scales.features is None) != (detector is not None):
        raise ValueError(
            "int8 needs a scale of what enters the classifier, and a detector has no such"
        )
    if (found is None) != (detector is None):
        raise ValueError("a detector has its own int8 scales, and others have none of them")
    if found is None or detector is None:
        return
    masks = detector.mask_convs + 1 if detector.masks else 0
    for name, count in (
        ("classes", detector.head_convs), ("boxes", detector.head_convs), ("masks", masks)
    ):  # fmt: skip
        if len(getattr(found, name)) != count:
            raise ValueError(f"{len(getattr(found, name))} scales of {name} for {count} layers")


def _check_dial(dial: Dial, points: Sequence[PointRecord]) -> None:
    known = [candidate.name for candidate in dial.candidates]
    kept = [candidate.name for candidate in dial.candidates if candidate.kept]
    shipped = [record.point.name for record in points]
    if len(set(known)) != len(known):
        raise ValueError(f"the dial's candidates have equal names: {', '.join(sorted(known))}")
    if kept != shipped:
        raise ValueError(f"the dial keeps {', '.join(kept)}, the points are {', '.join(shipped)}")
    for candidate in dial.candidates:
        if candidate.dominated_by is not None and candidate.dominated_by not in kept:
            raise ValueError(
                f"'{candidate.name}' is dominated by '{candidate.dominated_by}', which the dial "
                "does not keep"
            )


def _numbers(value: object, path: str) -> Iterator[tuple[str, float]]:
    """Floats in nested dictionaries and lists, each with where it stands."""
    if isinstance(value, float):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _numbers(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from _numbers(item, f"{path}.{i}")
