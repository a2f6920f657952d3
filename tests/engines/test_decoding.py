"""What every accepted picture becomes, and what every damaged one is refused with."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from engines.core import UInt8Array
from engines.errors import ImageError, ImageTooLarge, InvalidInput
from engines.preprocessing import decode, preprocess, read_header

FORMATS = ("JPEG", "PNG", "WEBP")
WHITE = (255, 255, 255)

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


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG file from its raw rows, each beginning with its filter byte."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + body


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@every_format
def test_decode_gives_the_picture_as_rgb(format: str) -> None:
    picture = smooth(37, 23)
    pixels = decode(encode(picture, format))
    assert pixels.dtype == np.uint8
    assert pixels.shape == (23, 37, 3)
    difference = np.abs(pixels.astype(int) - np.asarray(picture))
    assert difference.mean() < (0.001 if format == "PNG" else 5)


@every_format
@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode_turns_the_picture_upright(format: str, orientation: int) -> None:
    data = encode(smooth(48, 32), format, exif=exif(orientation))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    np.testing.assert_array_equal(decode(data), np.asarray(upright))


def test_decode_reads_big_endian_exif() -> None:
    tags = b"Exif\0\0MM\0*" + struct.pack(">IHHHIHH", 8, 1, 0x0112, 3, 1, 3, 0)
    plain = decode(encode(smooth(48, 32), "JPEG"))
    turned = decode(encode(smooth(48, 32), "JPEG", exif=tags))
    np.testing.assert_array_equal(turned, plain[::-1, ::-1])


@pytest.mark.parametrize(
    "tags",
    [
        b"Exif\0\0",
        b"Exif\0\0II*\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01",
        exif(0).tobytes(),
        exif(9).tobytes(),
    ],
    ids=["empty", "no offset", "offset outside", "cut entry", "zero", "nine"],
)
def test_damaged_exif_counts_as_upright(tags: bytes) -> None:
    plain = encode(smooth(48, 32), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(tags) + 2) + tags
    np.testing.assert_array_equal(decode(plain[:2] + segment + plain[2:]), decode(plain))


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_decode_repeats_grey_in_three_channels(format: str) -> None:
    pixels = decode(encode(smooth(16, 16).convert("L"), format))
    assert np.ptp(pixels, axis=2).max() == 0
    assert np.ptp(pixels) > 50


def test_decode_looks_palettes_up() -> None:
    picture = smooth(16, 16).quantize(8)
    np.testing.assert_array_equal(decode(encode(picture)), np.asarray(picture.convert("RGB")))


def test_transparent_palette_entries_become_white() -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putdata([0, 1])
    pixels = decode(encode(picture, transparency=0))
    assert pixels.tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_translucent_palette_entries_mix_with_white() -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([0, 0, 0, 40, 50, 60])
    picture.putdata([0, 1])
    pixels = decode(encode(picture, transparency=bytes([51, 255])))
    assert pixels.tolist() == [[[204, 204, 204], [40, 50, 60]]]


@pytest.mark.parametrize("options", [("PNG", {}), ("WEBP", {"lossless": True})], ids=str)
def test_alpha_mixes_with_white(options: tuple[str, dict[str, Any]]) -> None:
    format, more = options
    rgba = np.array([[[0, 0, 0, 51], [200, 100, 0, 0], [1, 2, 3, 255]]], np.uint8)
    pixels = decode(encode(Image.fromarray(rgba), format, **more))
    assert pixels.tolist() == [[[204, 204, 204], [255, 255, 255], [1, 2, 3]]]


def test_alpha_of_grey_mixes_with_white() -> None:
    pixels = decode(encode(Image.fromarray(np.array([[[0, 51], [7, 255]]], np.uint8), "LA")))
    assert pixels.tolist() == [[[204] * 3, [7] * 3]]


def test_colour_key_of_a_png_becomes_white() -> None:
    data = encode(Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)))
    keyed = data[:33] + chunk(b"tRNS", struct.pack(">3H", 1, 2, 3)) + data[33:]
    assert decode(keyed).tolist() == [[list(WHITE), [4, 5, 6]]]


def test_16_bit_grey_keeps_its_high_byte() -> None:
    rows = b"\0" + struct.pack(">3H", 0x00FF, 0x1234, 0xFFFF)
    assert decode(png(3, 1, 16, 0, rows)).tolist() == [[[0] * 3, [0x12] * 3, [255] * 3]]


def test_16_bit_rgb_keeps_its_high_bytes() -> None:
    rows = b"\0" + struct.pack(">3H", 0x00FF, 0x1234, 0xFFFF)
    assert decode(png(1, 1, 16, 2, rows)).tolist() == [[[0, 0x12, 255]]]


def test_one_bit_becomes_black_and_white() -> None:
    assert decode(png(3, 1, 1, 0, b"\0\x40")).tolist() == [[[0] * 3, [255] * 3, [0] * 3]]


@pytest.mark.parametrize(
    ("cmyk", "rgb"),
    [((0, 0, 0, 0), WHITE), ((0, 255, 255, 0), (255, 0, 0)), ((0, 0, 0, 255), (0, 0, 0))],
)
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_cmyk_jpeg_has_its_colours(
    cmyk: tuple[int, ...], rgb: tuple[int, ...], subsampling: str
) -> None:
    data = encode(Image.new("CMYK", (16, 16), cmyk), "JPEG", quality=95, subsampling=subsampling)
    np.testing.assert_allclose(decode(data)[8, 8], rgb, atol=3)


def test_ycck_jpeg_has_its_colours() -> None:
    # Red is cyan 0, magenta 255, yellow 255; Adobe's files hold that triple as YCbCr, and black
    # inverted. Pillow writes all four planes inverted, and says "no transform" in its last byte.
    y, cb, cr = Image.new("RGB", (1, 1), (0, 255, 255)).convert("YCbCr").tobytes()
    planes = Image.new("CMYK", (16, 16), (255 - y, 255 - cb, 255 - cr, 0))
    data = encode(planes, "JPEG", quality=95)
    transform = data.index(b"Adobe") + 11
    assert data[transform] == 0
    ycck = data[:transform] + b"\x02" + data[transform + 1 :]
    np.testing.assert_allclose(decode(ycck)[8, 8], (255, 0, 0), atol=6)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_animation_gives_its_first_frame(format: str) -> None:
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    data = encode(first, format, save_all=True, append_images=[second], lossless=True)
    with Image.open(io.BytesIO(data)) as opened:
        assert getattr(opened, "n_frames", 1) == 2
    assert (decode(data) == (255, 0, 0)).all()


def test_stray_bytes_between_jpeg_segments_are_skipped() -> None:
    data = encode(smooth(48, 32), "JPEG")
    table = data.index(b"\xff\xdb")
    stray = data[:table] + b"abc" + data[table:]
    np.testing.assert_array_equal(decode(stray), np.asarray(Image.open(io.BytesIO(data))))


def test_progressive_jpeg_is_decoded() -> None:
    data = encode(smooth(48, 32), "JPEG", progressive=True)
    np.testing.assert_array_equal(decode(data), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize(
    ("min_short_side", "shape"),
    [(321, (640, 800)), (320, (320, 400)), (161, (320, 400)), (160, (160, 200)), (1, (80, 100))],
)
def test_jpeg_comes_at_the_smallest_scale_allowed(
    min_short_side: int, shape: tuple[int, int]
) -> None:
    data = encode(smooth(800, 640), "JPEG")
    assert decode(data, min_short_side=min_short_side).shape[:2] == shape


def test_scaled_jpeg_is_the_same_picture() -> None:
    data = encode(smooth(800, 640), "JPEG", quality=95)
    expected = Image.fromarray(decode(data)).resize((100, 80), Image.Resampling.BOX)
    difference = np.abs(decode(data, min_short_side=80).astype(int) - np.asarray(expected))
    assert difference.max() <= 4


def test_min_short_side_below_one_is_refused() -> None:
    with pytest.raises(InvalidInput, match="min_short_side"):
        decode(encode(smooth(4, 4)), min_short_side=0)


# Damaged and hostile files


@pytest.mark.parametrize(
    ("format", "reason"),
    [
        ("JPEG", "the JPEG image cannot be decoded: Premature end of JPEG file"),
        ("PNG", "the PNG image cannot be decoded: image file is truncated"),
        ("WEBP", "the WebP image is truncated: [0-9]+ of [0-9]+ bytes"),
    ],
)
def test_truncated_picture_is_refused(format: str, reason: str) -> None:
    data = encode(Image.fromarray(noise(64, 64)), format)
    with pytest.raises(ImageError, match=reason):
        decode(data[: len(data) // 2])


def test_jpeg_that_was_cut_and_closed_again_is_refused() -> None:
    data = encode(Image.fromarray(noise(64, 64)), "JPEG")
    with pytest.raises(ImageError, match="premature end"):
        decode(data[: len(data) // 2] + b"\xff\xd9")


def test_file_that_shows_the_decoder_another_size_is_refused() -> None:
    second = chunk(b"IHDR", struct.pack(">IIBBBBB", 3000, 2000, 8, 2, 0, 0, 0))
    with pytest.raises(ImageError, match="contradicts itself: 2x2 or 3000x2000"):
        decode(png(2, 2, 8, 2, b"\0", extra=second), max_pixels=4)


def test_jpeg_with_endless_scans_is_refused() -> None:
    data = encode(smooth(16, 16), "JPEG")
    scan = data[data.index(b"\xff\xda") : -2]
    with pytest.raises(ImageError, match="more than 100 scans"):
        decode(data[:-2] + scan * 100 + data[-2:])


def test_jpeg_with_endless_segments_is_refused() -> None:
    data = encode(smooth(16, 16), "JPEG")
    with pytest.raises(ImageError, match="no complete header"):
        read_header(data[:2] + b"\xff\xe0\0\x02" * 5000 + data[2:])


def test_limit_of_pillow_is_an_error_and_not_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(ImageTooLarge, match="limit of Pillow"):
            decode(encode(smooth(8, 8)))
    assert not caught


def decodes_or_is_refused(data: bytes) -> None:
    """Anything but an ImageError or a usable picture fails the test."""
    try:
        pixels = preprocess(data, 8, crop_ratio=0.875, max_pixels=100_000)
    except ImageError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.shape == (8, 8, 3)


SMALL = Image.fromarray(noise(24, 16))
VALID_FILES = (
    encode(SMALL, "JPEG", exif=exif(6)),
    encode(SMALL, "JPEG", progressive=True),
    encode(SMALL.convert("CMYK"), "JPEG"),
    encode(SMALL, "PNG", exif=exif(8)),
    encode(SMALL.quantize(16), "PNG", transparency=0),
    encode(SMALL, "WEBP", exif=exif(5)),
    encode(SMALL, "WEBP", lossless=True),
    encode(SMALL, "WEBP", save_all=True, append_images=[smooth(24, 16)]),
)
MAGICS = (
    b"",
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"RIFF\x40\0\0\0WEBPVP8 ",
    b"RIFFxxxxWEBPVP8X",
)


@settings(deadline=None)
@given(st.sampled_from(MAGICS), st.binary(max_size=200))
def test_random_bytes_are_refused(magic: bytes, rest: bytes) -> None:
    decodes_or_is_refused(magic + rest)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(VALID_FILES), st.data())
def test_flipped_bytes_are_refused_or_harmless(valid: bytes, choose: st.DataObject) -> None:
    data = bytearray(valid)
    places = st.integers(0, len(data) - 1)
    for place, value in choose.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=8)):
        data[place] = value
    decodes_or_is_refused(bytes(data))


@settings(deadline=None)
@given(st.sampled_from(VALID_FILES), st.data())
def test_truncations_are_refused_or_harmless(valid: bytes, choose: st.DataObject) -> None:
    decodes_or_is_refused(valid[: choose.draw(st.integers(0, len(valid)))])
