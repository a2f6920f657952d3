"""The one way from encoded bytes to network input: uint8 HWC RGB of the asked size. No torch.

Training's evaluation, calibration and the service all call this file, so that a picture means the
same pixels everywhere. It keeps no state and changes none of Pillow's, so any thread may call it.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import simplejpeg  # type: ignore[import-untyped]
from PIL import Image, UnidentifiedImageError

from engines.core import MAX_IMAGE_SIZE, UInt8Array
from engines.errors import ImageError, ImageTooLarge, InvalidInput, UnsupportedImage

MAX_PIXELS = 40_000_000

_ACCEPTED = "JPEG, PNG and WebP images are accepted"
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_OTHERS = {
    b"GIF8": "a GIF image",
    b"BM": "a BMP image",
    b"II*\0": "a TIFF image",
    b"MM\0*": "a TIFF image",
    b"\0\0\0\x0cjP": "a JPEG 2000 image",
    b"\xff\x0a": "a JPEG XL image",
    b"\0\0\0\x0cJXL": "a JPEG XL image",
    b"%PDF": "a PDF document",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "gzip data",
}
_HEIF_BRANDS = {b"avif": "an AVIF image", b"avis": "an AVIF image"}

_EXIF_MARK = b"Exif\0\0"
_ORIENTATION_TAG, _SHORT = 0x0112, 3
# Turns a picture upright, by EXIF orientation; pixels are (H, W, 3).
_UPRIGHT: dict[int, Callable[[UInt8Array], UInt8Array]] = {
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x[::-1].swapaxes(0, 1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x[:, ::-1].swapaxes(0, 1),
}

_LYING = (5, 6, 7, 8)

_START_OF_SCAN, _END_OF_IMAGE, _APP1 = 0xDA, 0xD9, 0xE1
_SCAN = bytes((0xFF, _START_OF_SCAN))
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
# A colour profile takes 255 at most. Bounds the walk over a file made of nothing but segments.
_MAX_SEGMENTS = 4096
_MAX_JPEG_SIDE = 65_535
# Cameras and encoders write about ten. Each costs a pass over the picture, however few its bytes.
_MAX_SCANS = 100


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What a file's header says: JPEG, PNG or WEBP, and its size in pixels before EXIF turning."""

    format: str
    width: int
    height: int

    @property
    def _name(self) -> str:
        return "WebP" if self.format == "WEBP" else self.format


def read_header(data: bytes, *, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Format and size in microseconds, decoding nothing; the format is told by its first bytes.

    Raises UnsupportedImage for another format, ImageTooLarge above `max_pixels`, ImageError for no
    bytes at all or a truncated or damaged header.
    """
    if not data:
        raise ImageError(f"the image is empty (0 bytes); {_ACCEPTED}")
    if data.startswith(_JPEG):
        header = _jpeg_header(data)
    elif data.startswith(_PNG):
        header = _png_header(data)
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        header = _webp_header(data)
    elif any(magic.startswith(data[:12]) for magic in (_JPEG, _PNG)) or (
        len(data) < 12 and data.startswith(b"RIFF")
    ):
        raise _truncated("image")
    else:
        raise UnsupportedImage(f"{_ACCEPTED}, got {_guess(data)}")
    width, height = header.width, header.height
    if not width or not height:
        raise ImageError(f"the {header._name} header declares no pixels ({width}x{height})")
    if width * height > max_pixels:
        raise _too_large(header, max_pixels, "the limit")
    return header


def decode(
    data: bytes, *, min_short_side: int | None = None, max_pixels: int = MAX_PIXELS
) -> UInt8Array:
    """The upright picture as RGB, (H, W, 3), writable; what is transparent becomes white.

    Of an animation the first frame. With `min_short_side` a JPEG larger than that may come at 1/2,
    1/4 or 1/8 of its size, its short side still at least that many pixels: decoding is then faster.
    16-bit samples lose their low byte. Raises what `read_header` raises, and ImageError for a
    picture that is truncated or damaged.
    """
    if min_short_side is not None and min_short_side < 1:
        raise InvalidInput(f"min_short_side must be at least 1, got {min_short_side}")
    header = read_header(data, max_pixels=max_pixels)
    try:
        if header.format == "JPEG":
            pixels, exif = _decode_jpeg(data, header, min_short_side or _MAX_JPEG_SIDE)
        else:
            if header.format == "WEBP":
                _check_webp_length(data)
            pixels, exif = _decode_with_pillow(data, header)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"the {header._name} image has a damaged header") from error
    except Exception as error:
        # Codecs raise whatever they like on bad bytes: OSError, SyntaxError, struct.error, zlib's.
        reason = str(error) or type(error).__name__
        raise ImageError(f"the {header._name} image cannot be decoded: {reason}") from error
    turn = _UPRIGHT.get(_orientation(exif))
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


def upright_size(data: bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Width and height that `decode` gives a picture which it can decode, decoding it seldom.

    Raises what `read_header` raises, and ImageError.
    """
    header = read_header(data, max_pixels=max_pixels)
    exif: object = b""
    if header.format == "JPEG":
        exif = _jpeg_exif(data)
    elif header.format == "WEBP" or b"eXIf" in data:
        try:
            with Image.open(io.BytesIO(data), formats=[header.format]) as picture:
                if header.format == "PNG":
                    # The chunk may come last.
                    picture.load()
                exif = picture.info.get("exif", b"")
        except Exception as error:
            raise ImageError(f"the {header._name} image cannot be decoded: {error}") from error
    size = header.width, header.height
    lies = isinstance(exif, bytes) and _orientation(exif) in _LYING
    return size[::-1] if lies else size


def fit(pixels: UInt8Array, size: int, *, crop_ratio: float) -> UInt8Array:
    """The centre square of `crop_ratio` x the short side, scaled to (size, size, 3).

    Antialiased bilinear, enlarging where the square is smaller. The square keeps its fractions of
    a pixel, and is one pixel at least. Raises InvalidInput for a wrong array, size or ratio.
    """
    _check_target(size, crop_ratio)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise InvalidInput(
            f"pixels must be uint8 (H, W, 3) and not empty, got {pixels.dtype} {pixels.shape}"
        )
    height, width = pixels.shape[:2]
    side = max(crop_ratio * min(height, width), 1.0)
    top, left = (height - side) / 2, (width - side) / 2
    # Pillow keeps boxes in float32: whole pixels are cut off here, their fractions by the resize.
    y, x = int(top), int(left)
    square = pixels[y : math.ceil(top + side), x : math.ceil(left + side)]
    right = min(left - x + side, square.shape[1])
    bottom = min(top - y + side, square.shape[0])
    picture = Image.fromarray(square).resize(
        (size, size), Image.Resampling.BILINEAR, box=(left - x, top - y, right, bottom)
    )
    return np.array(picture)


def preprocess(
    data: bytes, size: int, *, crop_ratio: float, max_pixels: int = MAX_PIXELS
) -> UInt8Array:
    """Network input (size, size, 3) from an encoded picture: `decode`, then `fit`.

    A JPEG is decoded at the smallest scale whose crop need not be enlarged. Raises what they raise.
    """
    _check_target(size, crop_ratio)
    min_short_side = math.ceil(min(size / crop_ratio, _MAX_JPEG_SIDE))
    pixels = decode(data, min_short_side=min_short_side, max_pixels=max_pixels)
    return fit(pixels, size, crop_ratio=crop_ratio)


def _check_target(size: int, crop_ratio: float) -> None:
    if not 1 <= size <= MAX_IMAGE_SIZE:
        raise InvalidInput(f"size must be 1 to {MAX_IMAGE_SIZE} pixels, got {size}")
    if not 0.0 < crop_ratio <= 1.0:
        raise InvalidInput(f"crop_ratio must be above 0 and at most 1, got {crop_ratio}")


def _truncated(name: str) -> ImageError:
    return ImageError(f"the {name} ends inside its header: it is truncated")


def _too_large(header: ImageHeader, limit: int, whose: str) -> ImageTooLarge:
    return ImageTooLarge(
        f"the image is {header.width}x{header.height}, {whose} is {limit:,} pixels"
    )


def _guess(data: bytes) -> str:
    """What bytes that are none of the accepted formats may be, for the error message."""
    for magic, name in _OTHERS.items():
        if data.startswith(magic):
            return name
    if data[4:8] == b"ftyp":
        return _HEIF_BRANDS.get(data[8:12], "an HEIF image or a video")
    # The last bytes may be a cut character.
    start = data[:256].decode("utf-8", errors="ignore")
    if len(start.encode()) >= min(len(data), 256) - 3 and all(
        c.isprintable() or c.isspace() for c in start
    ):
        return "text"
    return f"data that begins with {data[:8].hex(' ')}"


def _png_header(data: bytes) -> ImageHeader:
    if len(data) < 24:
        raise _truncated("PNG image")
    if data[12:16] != b"IHDR":
        raise ImageError("the PNG image does not begin with an IHDR chunk: it is damaged")
    width, height = struct.unpack_from(">II", data, 16)
    return ImageHeader("PNG", width, height)


def _webp_header(data: bytes) -> ImageHeader:
    if len(data) < 30:
        raise _truncated("WebP image")
    kind = data[12:16]
    if kind == b"VP8X":
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
    elif kind == b"VP8L" and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise ImageError("the WebP image has a damaged header")
    return ImageHeader("WEBP", width, height)


def _check_webp_length(data: bytes) -> None:
    """Say that a file is cut off, which its decoder does not."""
    declared = int.from_bytes(data[4:8], "little") + 8
    if declared > len(data):
        raise ImageError(f"the WebP image is truncated: {len(data)} of {declared} bytes")


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, first byte, end) of the segments before the scan; stray bytes are skipped."""
    position = 2
    for _ in range(_MAX_SEGMENTS):
        position = data.find(b"\xff", position)
        if position < 0 or position + 1 >= len(data):
            return
        marker = data[position + 1]
        if marker in (0x00, 0xFF):  # a stuffed byte, or a fill byte before a marker
            position += 1
            continue
        if marker in (_START_OF_SCAN, _END_OF_IMAGE):
            return
        start = position + 2
        if marker in _WITHOUT_LENGTH:
            position = start
            continue
        end = start + int.from_bytes(data[start : start + 2], "big")
        if end < start + 2 or end > len(data):
            return
        yield marker, start + 2, end
        position = end


def _jpeg_header(data: bytes) -> ImageHeader:
    for marker, start, end in _jpeg_segments(data):
        if marker in _FRAMES and end - start >= 6:
            height, width = struct.unpack_from(">HH", data, start + 1)
            return ImageHeader("JPEG", width, height)
    raise ImageError("the JPEG image has no complete header: it is truncated or damaged")


def _jpeg_exif(data: bytes) -> bytes:
    for marker, start, end in _jpeg_segments(data):
        if marker == _APP1 and data.startswith(_EXIF_MARK, start):
            return data[start:end]
    return b""


def _orientation(exif: bytes) -> int:
    """The EXIF orientation, 1 (upright) to 8; damaged or absent EXIF data count as upright."""
    tiff = exif.removeprefix(_EXIF_MARK)
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 8:
        return 1
    (offset,) = struct.unpack_from(f"{order}I", tiff, 4)
    entries = tiff[offset + 2 :]
    (count,) = struct.unpack(f"{order}H", tiff[offset : offset + 2].ljust(2, b"\0"))
    for start in range(0, min(count * 12, len(entries) - 11), 12):
        tag, kind, _, value = struct.unpack_from(f"{order}HHIH", entries, start)
        if tag == _ORIENTATION_TAG and kind == _SHORT:
            return int(value)
    return 1


def _decode_jpeg(data: bytes, header: ImageHeader, min_short_side: int) -> tuple[UInt8Array, bytes]:
    if data.count(_SCAN) > _MAX_SCANS:
        raise ImageError(f"the JPEG image has more than {_MAX_SCANS} scans")
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
    except ValueError:  # unusual chroma sampling, stray bytes: Pillow may read it
        return _decode_with_pillow(data, header)
    _check_size(header, (width, height))
    # Only powers of two: the other eighths take longer than decoding in full.
    factor = next(
        k for k in (8, 4, 2, 1) if k == 1 or -(-min(height, width) // k) >= min_short_side
    )
    pixels: UInt8Array = simplejpeg.decode_jpeg(
        data, "RGB", min_height=-(-height // factor), min_width=-(-width // factor)
    )
    return pixels, _jpeg_exif(data)


def _decode_with_pillow(data: bytes, header: ImageHeader) -> tuple[UInt8Array, bytes]:
    # Above its own limit Pillow warns, and a warning is no error; above twice that it raises.
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and header.width * header.height > limit:
        raise _too_large(header, limit, "the limit of Pillow (Image.MAX_IMAGE_PIXELS)")
    with Image.open(io.BytesIO(data), formats=[header.format]) as picture:
        _check_size(header, picture.size)
        picture.load()
        exif = picture.info.get("exif", b"")
        return _rgb(picture), exif if isinstance(exif, bytes) else b""


def _check_size(header: ImageHeader, found: tuple[int, int]) -> None:
    """Refuse a file that shows the decoder another size than the one its limit was checked on."""
    if found != (header.width, header.height):
        raise ImageError(
            f"the {header._name} image contradicts itself: {header.width}x{header.height} or "
            f"{found[0]}x{found[1]} pixels"
        )


def _rgb(picture: Image.Image) -> UInt8Array:
    """Any mode of Pillow as (H, W, 3), transparent pixels on white."""
    if picture.mode.startswith("I;16"):
        grey = (np.asarray(picture) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, np.newaxis], 3, axis=2)
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        picture = Image.new("RGB", layer.size, "white")
        picture.paste(layer, mask=layer)
    return np.array(picture.convert("RGB"))
