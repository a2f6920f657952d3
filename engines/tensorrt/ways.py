"""How far an engine's answers are from what its files mean, in every form that a plan has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.bundle import Bundle
from engines.core import OperatingPoint, UInt8Array
from engines.detection.architecture import Detector
from engines.glance import Infer
from engines.tensorrt.detector import BOXES, FEATURES, IMAGES, MASKS, SCORES, TensorRtDetector
from engines.tensorrt.engine import PROBABILITIES
from engines.tensorrt.oracle import OnnxFile, OnnxRuntime
from engines.tensorrt.plans import Bucket, Form, Plan
from engines.tensorrt.running import DECISIONS, PlanEngine

Errors = npt.NDArray[np.float64]

LOST_BY = 0.05
"""A place whose score differs by less may be a candidate on one side only: rounding decides."""

_FEW = 20
"""Candidates that an image's share of lost ones is of at least: another decision may take both of
two."""

_LEAST_SIDE = 8.0
"""Pixels: boxes that are smaller move as if they were that large."""


@dataclass(frozen=True, eq=False)
class Differences:
    """Of a batch of N, each (N,). errors: the largest of an image, infinite for what is no number,
    meant for images whose decisions are equal; moved: so are those of boxes. rough: that of what
    another decision moves a little and not from one end to the other. equal: whether all decisions
    are. differing: share of decisions that are not, in the whole batch. lost: share of candidates
    that are none on the other side, in images whose decisions are equal."""

    errors: Errors
    moved: Errors
    rough: Errors
    equal: npt.NDArray[np.bool_]
    differing: float
    lost: float


@dataclass(frozen=True)
class Way(ABC):
    """One form of a plan: how it is called, and the buckets that it has."""

    form: Form
    infer: Infer
    buckets: Sequence[Bucket]

    @abstractmethod
    def differences(self, images: UInt8Array, points: Sequence[OperatingPoint]) -> Differences:
        """Run a batch on the engine and on what its files mean."""


@dataclass(frozen=True)
class LabelsWay(Way):
    """Of a plan that labels images: errors are of probabilities."""

    oracle: OnnxRuntime

    def differences(self, images: UInt8Array, points: Sequence[OperatingPoint]) -> Differences:
        wanted = self.oracle.answer(images, points)
        found = self.infer(images, points).arrays
        errors = _finite(
            np.abs(_wide(found[PROBABILITIES]) - _wide(wanted[PROBABILITIES])).max(axis=1)
        )
        differs = found[DECISIONS] != wanted[DECISIONS]
        still = np.zeros(len(images))
        return Differences(errors, still, errors, ~differs.any(axis=1), _share(differs), lost=0.0)


@dataclass(frozen=True)
class ObjectsWay(Way):
    """Of a plan that finds objects.

    Compared are candidates (places whose score is enough for an object): scores, boxes, whose sides
    move by so much of the longer one, and masks of the objects that the engine found. What is a
    candidate on one side only, by more than a little, is lost: finding nothing is no way to be
    right. Rough errors are those of scores and the share that was lost; boxes and masks may then be
    anything but no numbers.
    """

    engine: TensorRtDetector
    oracle: OnnxRuntime
    head: OnnxFile | None
    detector: Detector

    def differences(self, images: UInt8Array, points: Sequence[OperatingPoint]) -> Differences:
        seen = self.engine.seen(images, points, self.form)
        wanted = self.oracle.answer(images, points)
        found, count = seen.places, len(images)
        here, there = (_wide(each[SCORES]) for each in (found, wanted))
        least = self.detector.least_score
        # What is no number is a candidate for nothing, and must not be overlooked for it.
        both = (here >= least) & (there >= least)
        scores = _most(np.where(both | ~np.isfinite(here), np.abs(here - there), 0.0))
        boxes = _wide(wanted[BOXES])
        sides = (boxes[..., 2:] - boxes[..., :2]).max(axis=-1, keepdims=True)
        apart = np.abs(_wide(found[BOXES]) - boxes) / np.maximum(sides, _LEAST_SIDE)
        placed = np.any(both, axis=1, keepdims=True).transpose(0, 2, 1)
        moved = _most(np.where(placed | ~np.isfinite(apart), apart, 0.0))
        masks = np.zeros(count)
        if self.head is not None and seen.masks is not None and len(seen.masks):
            given = {name: wanted[name] for name in FEATURES}
            objects = seen.objects
            made = self.head.run({**given, BOXES: objects.boxes, IMAGES: objects.images})[MASKS]
            each = _most(np.abs(_wide(seen.masks) - _wide(made)))
            np.maximum.at(masks, objects.images, each)
        differs = found[DECISIONS] != wanted[DECISIONS]
        same = ~differs.any(axis=1)
        either = (here >= least) | (there >= least)
        alone = either & ~both & (np.abs(here - there) > LOST_BY)
        lost, of = (each.sum(axis=(1, 2)) for each in (alone, either))
        rough = np.maximum(scores, lost / np.maximum(of, _FEW))
        return Differences(
            np.maximum(scores, masks),
            moved,
            np.where(np.isfinite(moved + masks), rough, np.inf),
            same,
            _share(differs),
            float(lost[same].sum() / max(1, of[same].sum())),
        )


def ways_of(bundle: Bundle, plan: Plan, engine: PlanEngine) -> list[Way]:
    """Both forms of a plan, or the only one. engine: of that plan, every form loaded. Raises
    EngineError without ONNX Runtime."""
    manifest, net = plan.manifest, bundle.manifest.architecture
    detector = bundle.manifest.detector
    forms: list[tuple[Form, Any, Sequence[Bucket]]] = [("blocks", plan.onnx, manifest.buckets)]
    if manifest.branches is not None:
        forms.append(("branches", plan.branches_onnx, manifest.branches.buckets))
    head = None if manifest.masks is None else OnnxFile(plan.masks_onnx)
    found: list[Way] = []
    for form, path, buckets in forms:
        oracle = OnnxRuntime(path, net, detector=detector)
        infer = engine.in_form(form)
        if detector is not None and isinstance(engine, TensorRtDetector):
            found.append(ObjectsWay(form, infer, buckets, engine, oracle, head, detector))
        else:
            found.append(LabelsWay(form, infer, buckets, oracle))
    return found


def _wide(array: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return np.asarray(array, np.float64)


def _most(errors: npt.NDArray[np.float64]) -> Errors:
    """The largest of each image, (N,)."""
    return _finite(errors.reshape(len(errors), -1).max(axis=1))


def _finite(errors: npt.NDArray[np.float64]) -> Errors:
    """Of NaN nothing is nearer than anything."""
    return np.where(np.isfinite(errors), errors, np.inf)


def _share(flags: npt.NDArray[np.bool_]) -> float:
    return float(flags.mean()) if flags.size else 0.0
