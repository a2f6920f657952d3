"""Small copies: what they are made of, and that the fast way is the slow one to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from engines.core import UInt8Array
from engines.cpu import _native
from engines.cpu.shrinking import shrunk as fast
from engines.errors import InvalidInput
from engines.shrinking import ONE, shrunk, taps

PAIRS = [(2, 1), (3, 1), (3, 2), (8, 4), (9, 3), (17, 16), (33, 7), (112, 80), (128, 80), (160, 80)]


def noise(size: int, count: int = 2, seed: int = 0) -> UInt8Array:
    draw = np.random.default_rng(seed)
    return draw.integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize(("source", "size"), PAIRS)
def test_weights_are_whole_parts_of_pixels_that_are_there(source: int, size: int) -> None:
    first, weights = taps(source, size)
    assert weights.sum(axis=1).tolist() == [ONE] * size
    assert first.min() >= 0
    assert first.max() + weights.shape[1] <= source
    # Seen from its other end, a row is made of the same.
    middle = (first[:, None] + np.arange(weights.shape[1])) * weights
    centers = middle.sum(axis=1) / ONE + 0.5
    assert centers == pytest.approx((source - centers)[::-1], abs=0.05)


@pytest.mark.parametrize("level", [0, 1, 127, 254, 255])
@pytest.mark.parametrize(("source", "size"), PAIRS)
def test_a_plain_image_stays_plain(source: int, size: int, level: int) -> None:
    plain = np.full((1, source, source, 3), level, np.uint8)
    assert np.array_equal(shrunk(plain, size), np.full((1, size, size, 3), level, np.uint8))


def test_squares_of_pixels_become_their_means() -> None:
    image = noise(12)
    means = image.reshape(2, 4, 3, 4, 3, 3).mean(axis=(2, 4))
    assert np.abs(shrunk(image, 4) - means).max() <= 1.5


@pytest.mark.parametrize(("source", "size"), [(128, 80), (112, 80), (160, 96), (33, 7)])
def test_other_sizes_are_scaled_as_preprocessing_scales(source: int, size: int) -> None:
    image = noise(source, 1)
    wanted = np.asarray(Image.fromarray(image[0]).resize((size, size), Image.Resampling.BILINEAR))
    apart = np.abs(shrunk(image, size)[0].astype(int) - wanted)
    assert apart.max() <= 3
    assert apart.mean() < 0.5


@pytest.mark.parametrize(("source", "size"), PAIRS)
def test_native_code_does_the_same_to_the_bit(source: int, size: int) -> None:
    for image in (noise(source, 3), noise(source, 1) // 128 * 255):
        assert np.array_equal(fast(image, size), shrunk(image, size))


def test_images_do_not_depend_on_their_neighbours() -> None:
    images = noise(20, 4)
    alone = [fast(images[i : i + 1], 13)[0] for i in range(4)]
    assert np.array_equal(fast(images, 13), np.stack(alone))


@pytest.mark.parametrize("shrink", [fast, shrunk])
def test_what_gets_no_smaller_or_is_not_square_is_refused(shrink: object) -> None:
    assert callable(shrink)
    for size in (0, 8, 9):
        with pytest.raises(InvalidInput, match="1 to 7"):
            shrink(noise(8), size)
    with pytest.raises(InvalidInput, match="square"):
        shrink(noise(8)[:, :4], 2)
    with pytest.raises(InvalidInput, match="square"):
        shrink(noise(8)[0], 2)


def test_native_code_refuses_what_would_read_or_write_elsewhere() -> None:
    images, (first, weights) = noise(8), taps(8, 4)
    copies = np.empty((2, 4, 4, 3), np.uint8)
    _native.shrink(images, first, weights, copies)
    with pytest.raises(InvalidInput, match="contiguous"):
        fast(images[:, ::2, ::2], 2)
    for wrong in (copies[:1], copies[:, :3].copy(), np.empty((2, 4, 4, 4), np.uint8)):
        with pytest.raises(ValueError, match="shape"):
            _native.shrink(images, first, weights, wrong)
    with pytest.raises(ValueError, match="outside"):
        _native.shrink(images, first + np.int32(1), weights, copies)
    with pytest.raises(ValueError, match="outside"):
        _native.shrink(images, first - np.int32(1), weights, copies)
    with pytest.raises(TypeError):
        _native.shrink(images, first.astype(np.int64), weights, copies)
