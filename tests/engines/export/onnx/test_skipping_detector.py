"""An exported detector whose backbone and pyramid skip, in ONNX Runtime against the reference."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from torch import Tensor

from engines.bundle import Bundle, read_bundle
from engines.core import OperatingPoint, Output, UInt8Array
from engines.detection.architecture import LEVELS, Detector
from engines.export.onnx.objects import surest
from engines.models.detection import boxes_of
from engines.models.inputs import normalise
from engines.models.masks import decide
from engines.reference.deciding import point_decision
from tests.engines.cpu.cases import pictures, point
from tests.engines.cpu.comparing import Wish, points_for
from tests.engines.cpu.comparing_objects import model_of
from tests.engines.cpu.detectors import ABROAD, DYNAMIC, LOOKING, RAGGED, SKIPPING, WIDE, bundle
from tests.engines.cpu.same_objects import assert_same_objects
from tests.engines.export.onnx.running import BundleNetwork

pytestmark = pytest.mark.torch

Array = npt.NDArray[Any]

OWN = len(SKIPPING.maskers)
MASKERS = OWN + LEVELS
BOUND = 1e-4
MARGIN = 2e-5
"""How far logits of a trained network stay from thresholds."""


def points_at(
    source: Bundle, images: UInt8Array, wishes: Sequence[Sequence[Wish]]
) -> list[OperatingPoint]:
    """One point per image, whose thresholds lie in gaps between the reference's logits."""
    return points_for(source, images, wishes, model_of(source).dense)


class Near:
    """Decides as a point does, with thresholds at which a logit is moved aside a little."""

    def __init__(self, thresholds: Sequence[float | None]) -> None:
        self.thresholds = list(thresholds)

    def __call__(self, masker: int, logits: Tensor) -> Tensor:
        threshold = self.thresholds[masker]
        if threshold is None:
            everything: Tensor = torch.ones_like(logits)
            return everything
        ends = [-math.inf, *sorted(logits[0].tolist()), math.inf]
        gaps = [
            (low + MARGIN, high - MARGIN)
            for low, high in itertools.pairwise(ends)
            if high - low >= 2 * MARGIN
        ]
        inside = [min(max(threshold, low), high) for low, high in gaps]
        chosen = min(inside, key=lambda each: abs(each - threshold))
        assert abs(chosen - threshold) < 0.01
        self.thresholds[masker] = chosen
        return decide(logits, torch.tensor([chosen]))


def assert_equal(
    source: Bundle, network: BundleNetwork, images: UInt8Array, points: list[OperatingPoint]
) -> tuple[float, int]:
    """The same units, pyramid, boxes of all places and objects; returns the share of active units
    and how many objects were found."""
    found = network.answer(images, points)
    objects = surest(found)
    model = model_of(source)
    height, width = images.shape[1:3]
    x = normalise(images, source.manifest.preprocessing)
    total, active = 0, []
    for i, each in enumerate(points):
        with torch.inference_mode():
            outputs, asked = model.dense(x[i : i + 1], point_decision(each))
            (wanted,) = model.instances.choose(outputs, height, width)
            boxes = boxes_of(outputs.distances[0], model.instances.places(outputs, height, width))
        decisions = found["decisions"][i]
        units = torch.cat([mask.units for mask in asked], 1)[0].numpy() if asked else 1.0
        np.testing.assert_array_equal(decisions, np.broadcast_to(units, decisions.shape) == 1)
        for level, features in enumerate(outputs.features):
            assert_near(found[f"features_{level}"][i], features[0].numpy())
        limits = np.array([width, height, width, height], np.float32)
        np.testing.assert_allclose(
            found["boxes"][i], np.clip(boxes.numpy(), 0, limits), rtol=0, atol=1e-3
        )
        mine = objects.images == i
        assert_same_objects(
            output(objects.boxes[mine], objects.scores[mine], objects.labels[mine]),
            output(wanted.boxes.numpy(), wanted.scores.numpy(), wanted.labels.numpy()),
        )
        total += len(wanted.scores)
        active.append(float(decisions.mean()))
    return float(np.mean(active)), total


def output(boxes: Array, scores: Array, labels: Array) -> Output:
    """Of one image, as engines answer."""
    arrays = {"boxes": boxes[None], "scores": scores[None], "labels": labels[None]}
    nothing = np.zeros((1, 0))
    counts = np.array([len(scores)], np.int64)
    return Output({"counts": counts, **arrays}, nothing.astype(np.float32), np.zeros(1), {})


def assert_near(found: Array, wanted: Array) -> None:
    scale = 1.0 + np.abs(wanted).max(initial=0.0)
    np.testing.assert_allclose(np.asarray(found, np.float64) / scale, wanted / scale, atol=BOUND)


WISHES: dict[str, list[Wish]] = {
    "full": [Wish(None)] * MASKERS,
    "half": [Wish(0.5)] * MASKERS,
    "none": [Wish(0.0)] * MASKERS,
    "all": [Wish(1.0)] * MASKERS,
    "capped": [Wish(None, 3)] * MASKERS,
    "some": [Wish(None) if m % 2 else Wish(0.3, 5) for m in range(MASKERS)],
    "levels alone": [Wish(None)] * OWN + [Wish(0.5), Wish(0.0), Wish(1.0), Wish(None, 2)],
}


@pytest.mark.parametrize("detector", [LOOKING, RAGGED], ids=["looking", "ragged"])
def test_a_batch_that_mixes_points(detector: Detector) -> None:
    """Of every kind, on maps that patches divide or do not; maskers that look at later stages."""
    source, images = bundle(SKIPPING, detector), pictures(len(WISHES), 96)
    points = points_at(source, images, list(WISHES.values()))
    rate, objects = assert_equal(source, BundleNetwork(source), images, points)
    assert 0.3 < rate < 0.7
    assert objects > 50


@pytest.mark.parametrize("size", [32, 64, 160])
def test_other_sizes(size: int) -> None:
    """Maskers look at later stages and at earlier ones."""
    source, images = bundle(SKIPPING, ABROAD), pictures(1, size)
    points = points_at(source, images, [[Wish(0.4)] * MASKERS])
    assert_equal(source, BundleNetwork(source), images, points)


def test_only_the_pyramid_skips() -> None:
    """Its maskers are then the first and only ones."""
    source, images = bundle(WIDE, RAGGED), pictures(2, 64)
    points = points_at(source, images, [[Wish(0.5)] * LEVELS, [Wish(None, 1)] * LEVELS])
    rate, objects = assert_equal(source, BundleNetwork(source), images, points)
    assert 0 < rate < 0.6
    assert objects > 5


def test_nothing_is_found_where_nothing_is_computed() -> None:
    source, images = bundle(SKIPPING, DYNAMIC), pictures(1, 64)
    network = BundleNetwork(source)
    found = network.answer(images, [point([1e9] * MASKERS, size=64)])
    assert not found["decisions"].any()
    assert len(found["selected"]) == 0
    assert all(not found[f"features_{level}"].any() for level in range(LEVELS))


def test_half_precision_is_near() -> None:
    source, images = bundle(SKIPPING, RAGGED), pictures(2, 96)
    points = points_at(source, images, [[Wish(0.5)] * MASKERS, [Wish(None)] * MASKERS])
    single, half = (BundleNetwork(source, p).answer(images, points) for p in ("fp32", "fp16"))
    assert (single["decisions"] != half["decisions"]).mean() < 0.01
    assert half["features_0"].dtype == np.float16
    # Where a decision differs so does everything near it: of places, nearly all are as they were.
    near = np.abs(half["boxes"] - single["boxes"]).max(axis=2) < 0.5
    assert near.mean() > 0.97
    many = len(surest(single).scores)
    assert abs(len(surest(half).scores) - many) <= 0.1 * many


def test_every_point_of_the_nuclei() -> None:
    source = read_bundle("zoo:nuclei")
    network, dense = BundleNetwork(source), model_of(source).dense
    rates, found = [], 0
    for record in source.manifest.points:
        images = pictures(1, record.point.image_size)
        near = Near(record.point.thresholds)
        if not record.point.skips_nothing:
            with torch.inference_mode():
                dense(normalise(images, source.manifest.preprocessing), near)
        shifted = record.point.model_copy(update={"thresholds": tuple(near.thresholds)})
        rate, objects = assert_equal(source, network, images, [shifted])
        rates.append(rate)
        found += objects
    assert min(rates) < 0.7
    assert max(rates) == 1
    assert found > 50
