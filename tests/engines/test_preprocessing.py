"""What is told from a header, and how a picture is cropped and scaled."""

from __future__ import annotations

import io
import math
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engines import preprocessing
from engines.core import UInt8Array
from engines.errors import ImageError, ImageTooLarge, InvalidInput, UnsupportedImage
from engines.preprocessing import ImageHeader, decode, fit, preprocess, read_header

FORMATS = ("JPEG", "PNG", "WEBP")

every_format = pytest.mark.parametrize("format", FORMATS)


def encode(picture: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def smooth(width: int, height: int) -> Image.Image:
    """A colourful picture without detail that a JPEG would lose; no two corners are alike."""
    corners = np.array([[[250, 20, 20], [20, 250, 20]], [[20, 20, 250], [240, 240, 30]]], np.uint8)
    return Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR)


def noise(width: int, height: int) -> UInt8Array:
    return np.random.default_rng(7).integers(0, 256, (height, width, 3), np.uint8)


def claiming(width: int, height: int) -> bytes:
    """The first bytes of a PNG file of that size."""
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", width, height)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


# Headers


@every_format
def test_header_has_format_and_size(format: str) -> None:
    assert read_header(encode(smooth(37, 23), format)) == ImageHeader(format, 37, 23)


@pytest.mark.parametrize(
    "options",
    [{"lossless": True}, {"exif": exif(6)}, {"lossless": True, "exif": exif(6)}],
    ids=["lossless", "extended", "extended lossless"],
)
def test_header_of_every_kind_of_webp(options: dict[str, Any]) -> None:
    data = encode(smooth(37, 23), "WEBP", **options)
    assert read_header(data) == ImageHeader("WEBP", 37, 23)


def test_header_gives_the_stored_size_before_turning() -> None:
    data = encode(smooth(37, 23), "JPEG", exif=exif(6))
    assert read_header(data) == ImageHeader("JPEG", 37, 23)


@every_format
def test_header_needs_no_more_than_the_first_kilobyte(format: str) -> None:
    data = encode(Image.fromarray(noise(200, 100)), format)
    assert len(data) > 2048
    assert read_header(data[:1024]) == ImageHeader(format, 200, 100)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"hello, this is no picture", "text"),
        ("<svg>\u00e9t\u00e9</svg>".encode(), "text"),
        (encode(smooth(4, 4), "GIF"), "a GIF image"),
        (encode(smooth(4, 4), "BMP"), "a BMP image"),
        (encode(smooth(4, 4), "TIFF"), "a TIFF image"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "an AVIF image"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "an HEIF image or a video"),
        (b"%PDF-1.7 \xe2\xe3", "a PDF document"),
        (bytes(range(128, 160)), "data that begins with 80 81 82 83 84 85 86 87"),
    ],
)
def test_other_formats_are_named_in_the_refusal(data: bytes, what: str) -> None:
    with pytest.raises(UnsupportedImage) as raised:
        read_header(data)
    assert str(raised.value) == f"JPEG, PNG and WebP images are accepted, got {what}"


def test_no_bytes_are_refused_as_empty() -> None:
    with pytest.raises(ImageError, match="empty"):
        read_header(b"")


@every_format
@pytest.mark.parametrize("length", [4, 8, 11, 20, 23])
def test_truncated_header_is_refused(format: str, length: int) -> None:
    with pytest.raises(ImageError, match="truncated"):
        read_header(encode(smooth(37, 23), format)[:length])


def test_too_large_picture_is_refused_by_its_header() -> None:
    with pytest.raises(ImageTooLarge, match="20000x20000, the limit is 40,000,000 pixels"):
        read_header(claiming(20_000, 20_000))


def test_limit_is_the_largest_accepted_size() -> None:
    assert read_header(claiming(20, 10), max_pixels=200).width == 20
    with pytest.raises(ImageTooLarge):
        read_header(claiming(20, 10), max_pixels=199)


@pytest.mark.parametrize(("width", "height"), [(0, 5), (5, 0)])
def test_picture_without_pixels_is_refused(width: int, height: int) -> None:
    with pytest.raises(ImageError, match=f"no pixels \\({width}x{height}\\)"):
        read_header(claiming(width, height))


# Crop and scale


@pytest.mark.parametrize(("width", "height"), [(40, 20), (20, 40), (20, 20)])
def test_fit_is_crop_then_antialiased_resize(width: int, height: int) -> None:
    pixels = noise(width, height)
    left, top = width // 2 - 5, height // 2 - 5
    cropped = Image.fromarray(pixels).crop((left, top, left + 10, top + 10))
    expected = cropped.resize((4, 4), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(fit(pixels, 4, crop_ratio=0.5), np.asarray(expected))


def test_fit_leaves_a_picture_of_the_right_size_alone() -> None:
    pixels = noise(32, 32)
    np.testing.assert_array_equal(fit(pixels, 32, crop_ratio=1.0), pixels)


def test_fit_does_not_alias() -> None:
    checkers = np.indices((64, 64)).sum(axis=0) % 2 * 255
    pixels = np.repeat(checkers[:, :, np.newaxis], 3, axis=2).astype(np.uint8)
    inner = fit(pixels, 8, crop_ratio=1.0)[1:-1, 1:-1].astype(int)
    assert np.abs(inner - 128).max() <= 2


@pytest.mark.parametrize("width", [50, 51])
def test_fit_is_centred_to_a_fraction_of_a_pixel(width: int) -> None:
    pixels = noise(width, 37)
    turned = fit(np.ascontiguousarray(pixels[::-1, ::-1]), 16, crop_ratio=0.83)
    difference = turned[::-1, ::-1].astype(int) - fit(pixels, 16, crop_ratio=0.83)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 5000), (5000, 1), (3, 2)])
@every_format
def test_any_shape_of_picture_can_be_preprocessed(format: str, width: int, height: int) -> None:
    data = encode(Image.new("RGB", (width, height), "white"), format)
    assert (preprocess(data, 32, crop_ratio=0.875) == 255).all()


def test_smallest_crop_is_one_pixel_in_the_very_middle() -> None:
    pixels = np.zeros((1, 30_000_002, 3), np.uint8)
    pixels[0, 15_000_000:15_000_002] = 200
    assert (fit(pixels, 2, crop_ratio=1e-300) == 200).all()


@every_format
def test_preprocess_is_decode_and_fit(format: str) -> None:
    data = encode(smooth(90, 70), format, exif=exif(6))
    expected = fit(decode(data), 48, crop_ratio=0.875)
    np.testing.assert_array_equal(preprocess(data, 48, crop_ratio=0.875), expected)


@pytest.mark.parametrize("size", [40, 64, 89, 90, 112, 160, 175, 176, 300])
@pytest.mark.parametrize("crop_ratio", [0.7, 0.875, 1.0])
def test_jpeg_is_never_decoded_so_small_that_the_crop_is_enlarged(
    size: int, crop_ratio: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_sides = []

    def remember(pixels: UInt8Array, size: int, *, crop_ratio: float) -> UInt8Array:
        short_sides.append(min(pixels.shape[:2]))
        return fit(pixels, size, crop_ratio=crop_ratio)

    monkeypatch.setattr(preprocessing, "fit", remember)
    preprocess(encode(smooth(380, 357), "JPEG"), size, crop_ratio=crop_ratio)
    (short_side,) = short_sides
    scales = {math.ceil(357 / k) for k in (1, 2, 4, 8)}
    assert short_side == min({s for s in scales if s * crop_ratio >= size}, default=357)


@pytest.mark.parametrize("size", [0, -1, 4097])
def test_size_outside_the_limits_is_refused(size: int) -> None:
    with pytest.raises(InvalidInput, match=f"size must be 1 to 4096 pixels, got {size}"):
        preprocess(encode(smooth(4, 4)), size, crop_ratio=1.0)


@pytest.mark.parametrize("crop_ratio", [0.0, -0.5, 1.01, math.nan, math.inf])
def test_crop_ratio_outside_zero_to_one_is_refused(crop_ratio: float) -> None:
    with pytest.raises(InvalidInput, match="crop_ratio"):
        preprocess(encode(smooth(4, 4)), 4, crop_ratio=crop_ratio)


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)],
    ids=["float", "no channels", "no rows"],
)
def test_fit_refuses_arrays_that_are_no_picture(pixels: UInt8Array) -> None:
    with pytest.raises(InvalidInput, match=r"uint8 \(H, W, 3\)"):
        fit(pixels, 4, crop_ratio=1.0)


def test_threads_get_the_same_pixels() -> None:
    files = [encode(Image.fromarray(noise(120 + i, 90)), f) for i in range(4) for f in FORMATS]
    alone = [preprocess(data, 32, crop_ratio=0.875) for data in files]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda data: preprocess(data, 32, crop_ratio=0.875), files * 8))
    np.testing.assert_array_equal(together, alone * 8)
