"""How far training images are varied, and that one generator always does the same."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from engines.core import UInt8Array
from engines.errors import InvalidInput
from engines.training.augment import Augment, augment

PLAIN = Augment(
    area=(1.0, 1.0), aspect=(1.0, 1.0), flip=False, gain=0.0, channel_gain=0.0, offset=0.0
)
CROP_ONLY = Augment(flip=False, gain=0.0, channel_gain=0.0, offset=0.0)


def noise(width: int, height: int) -> UInt8Array:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)


def solid(value: int) -> UInt8Array:
    return np.full((32, 32, 3), value, np.uint8)


def many(pixels: UInt8Array, size: int, spec: Augment, count: int = 200) -> UInt8Array:
    return np.stack([augment(pixels, size, np.random.default_rng(i), spec) for i in range(count)])


def test_without_variation_the_picture_is_only_scaled() -> None:
    pixels = noise(64, 64)
    expected = Image.fromarray(pixels).resize((24, 24), Image.Resampling.BILINEAR)
    result = augment(pixels, 24, np.random.default_rng(0), PLAIN)
    np.testing.assert_array_equal(result, np.asarray(expected))


def test_equal_generators_give_equal_images() -> None:
    pixels, spec = noise(50, 40), Augment()
    first = augment(pixels, 24, np.random.default_rng(1), spec)
    again = augment(pixels, 24, np.random.default_rng(1), spec)
    other = augment(pixels, 24, np.random.default_rng(2), spec)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_one_generator_shows_the_same_crop_at_every_size() -> None:
    ramp = np.indices((128, 128))[1].astype(np.uint8)[:, :, np.newaxis].repeat(3, axis=2)
    for seed in range(20):
        large = augment(ramp, 64, np.random.default_rng(seed), Augment())
        small = augment(ramp, 16, np.random.default_rng(seed), Augment())
        pooled = large.reshape(16, 4, 16, 4, 3).mean(axis=(1, 3))
        # The outermost pixels of either size have had fewer neighbours to be averaged with.
        np.testing.assert_allclose(small[1:-1, 1:-1], pooled[1:-1, 1:-1], atol=2)


def test_crops_cover_the_asked_areas_and_aspects() -> None:
    # Red is the column and green the row, so that a crop tells its own width and height.
    rows, columns = np.indices((240, 240)).astype(np.uint8)
    pixels = np.stack([columns, rows, rows], axis=2)
    crops = many(pixels, 48, CROP_ONLY).astype(float)
    span = np.ptp(crops, axis=(1, 2)) * 48 / 47
    areas = span[:, 0] * span[:, 1] / 240**2
    aspects = span[:, 0] / span[:, 1]
    assert 0.33 < areas.min() < 0.40
    assert 0.90 < areas.max() < 1.02
    assert 0.73 < aspects.min() < 0.80
    assert 1.25 < aspects.max() < 1.37


def test_crops_reach_every_border() -> None:
    rows, columns = np.indices((240, 240)).astype(np.uint8)
    crops = many(np.stack([columns, rows, rows], axis=2), 48, CROP_ONLY)
    assert crops.min(axis=(0, 1, 2)).max() < 10
    assert crops.max(axis=(0, 1, 2)).min() > 230


def test_every_other_image_is_mirrored() -> None:
    pixels = noise(16, 16)
    images = many(pixels, 16, Augment(**{**_fields(PLAIN), "flip": True}))
    mirrored = (images == pixels[:, ::-1]).all(axis=(1, 2, 3))
    straight = (images == pixels).all(axis=(1, 2, 3))
    assert (mirrored | straight).all()
    assert 70 < mirrored.sum() < 130


def test_flip_can_be_turned_off_without_changing_the_rest() -> None:
    pixels = noise(40, 40)
    straight = many(pixels, 16, Augment(flip=False), 20)
    either = many(pixels, 16, Augment(), 20)
    same = (either == straight).all(axis=(1, 2, 3))
    mirrored = (either[:, :, ::-1] == straight).all(axis=(1, 2, 3))
    assert (same | mirrored).all()
    assert same.any()
    assert mirrored.any()


def test_gain_scales_all_channels_alike() -> None:
    values = many(solid(100), 4, Augment(**{**_fields(PLAIN), "gain": 0.25}))
    assert np.ptp(values, axis=(1, 2, 3)).max() == 0
    assert 75 <= values.min() < 78
    assert 122 < values.max() <= 125


def test_channel_gain_scales_each_channel_for_itself() -> None:
    values = many(solid(100), 4, Augment(**{**_fields(PLAIN), "channel_gain": 0.07}))[:, 0, 0]
    assert 93 <= values.min() < 95
    assert 105 < values.max() <= 107
    correlations = np.asarray(np.corrcoef(values.T))
    assert np.abs(correlations[0, 1:]).max() < 0.3


def test_offset_is_added_to_all_channels() -> None:
    values = many(solid(100), 4, Augment(**{**_fields(PLAIN), "offset": 15.0}))
    assert np.ptp(values, axis=(1, 2, 3)).max() == 0
    assert 85 <= values.min() < 88
    assert 112 < values.max() <= 115


@pytest.mark.parametrize("value", [0, 255])
def test_values_are_clipped_and_do_not_wrap(value: int) -> None:
    values = many(solid(value), 4, Augment()).astype(int)
    assert np.abs(values - value).max() < 100
    assert (values == value).any()


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 40), st.integers(0, 2**32))
def test_any_picture_can_be_varied(width: int, height: int, size: int, seed: int) -> None:
    pixels = np.full((height, width, 3), 9, np.uint8)
    image = augment(pixels, size, np.random.default_rng(seed), CROP_ONLY)
    assert image.shape == (size, size, 3)
    assert (image == 9).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"area": (0.0, 1.0)},
        {"area": (0.5, 1.1)},
        {"area": (0.9, 0.5)},
        {"aspect": (0.0, 1.0)},
        {"aspect": (1.0, math.inf)},
        {"gain": -0.1},
        {"channel_gain": 1.5},
        {"offset": math.nan},
    ],
    ids=str,
)
def test_impossible_ranges_are_refused(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(InvalidInput, match=name):
        Augment(**wrong)


def _fields(spec: Augment) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in Augment.__slots__}
