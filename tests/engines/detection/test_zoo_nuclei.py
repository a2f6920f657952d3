"""What ships as `zoo:nuclei` finds what looks like nuclei, and computes where they are."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from engines.bundle import Bundle, read_bundle
from engines.core import OperatingPoint, Output, UInt8Array, static_point
from engines.cpu.detector import CpuDetector
from engines.detection.architecture import macs_per_object

SIZE = 256
CENTRES = [(50, 60), (60, 190), (130, 120), (190, 50), (200, 200)]
RADIUS = 14


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return read_bundle("zoo:nuclei")


@pytest.fixture(scope="module")
def engine(bundle: Bundle) -> Iterator[CpuDetector]:
    with CpuDetector(bundle, threads=1) as found:
        yield found


def picture(centres: list[tuple[int, int]]) -> UInt8Array:
    """Fluorescent discs with soft edges on a dark, noisy ground."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    light = np.zeros((SIZE, SIZE))
    for y, x in centres:
        distance = np.hypot(rows - y, columns - x)
        light = np.maximum(light, 1.0 / (1.0 + np.exp((distance - RADIUS) / 1.5)))
    noise = np.random.default_rng(0).normal(0.0, 3.0, light.shape)
    grey = np.clip(12.0 + 140.0 * light + noise, 0, 255).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)[np.newaxis]


def small(bundle: Bundle) -> OperatingPoint:
    """The picture as it is, nothing skipped: whether such a point ships is the choice of a dial."""
    return static_point("small", SIZE, len(bundle.manifest.full.point.thresholds))


def sure(output: Output) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Boxes (D, 4) of at least even odds."""
    kept = output.arrays["scores"][0] >= 0.5
    return np.asarray(output.arrays["boxes"][0][kept], np.float32)


def test_every_disc_is_found_once(bundle: Bundle, engine: CpuDetector) -> None:
    boxes = sure(engine.infer(picture(CENTRES), [small(bundle)]))
    centres = (boxes[:, [1, 0]] + boxes[:, [3, 2]]) / 2
    assert len(boxes) == len(CENTRES)
    for wanted in CENTRES:
        assert np.hypot(*(centres - wanted).T).min() < 3
    sides = boxes[:, 2:] - boxes[:, :2]
    assert sides == pytest.approx(np.full_like(sides, 2 * RADIUS), rel=0.3)


def test_masks_are_those_of_discs(bundle: Bundle, engine: CpuDetector) -> None:
    output = engine.infer(picture(CENTRES), [small(bundle)])
    masks = output.arrays["masks"][0][output.arrays["scores"][0] >= 0.5]
    # A disc fills pi / 4 of its box.
    assert (masks > 0.5).mean(axis=(1, 2)) == pytest.approx(np.pi / 4, abs=0.12)


def test_where_nothing_is_little_is_computed(bundle: Bundle, engine: CpuDetector) -> None:
    detector = bundle.manifest.detector
    assert detector is not None
    each_mask = macs_per_object(detector)
    for record in bundle.manifest.points:
        if record.point.skips_nothing:
            continue
        size = record.point.image_size
        times = -(-size // SIZE)
        few, many = (
            np.ascontiguousarray(np.tile(picture(centres), (1, times, times, 1))[:, :size, :size])
            for centres in ([], CENTRES)
        )
        points = [record.point]
        empty, full = engine.infer(few, points), engine.infer(many, points)
        assert len(sure(empty)) == 0
        assert len(sure(full)) >= len(CENTRES)
        assert empty.activation.mean() < full.activation.mean()
        # Without the mask head, whose cost is the objects' own.
        dense = [each.macs[0] - each_mask * each.arrays["counts"][0] for each in (empty, full)]
        assert dense[0] < 0.9 * dense[1]
