"""Pictures as people have them, through the routes that find objects: any side, depth, turn."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from engines.core import UInt8Array
from engines.detection.rle import mask_of_rle
from tests.service.conftest import Serving
from tests.service.detectors import BrightEngine, CrowdEngine, detector, encoded, scene

pytestmark = pytest.mark.anyio

DETECT, SEGMENT = "/v1/detect", "/v1/segment"
SIZES = [(256, 256), (320, 256), (360, 360), (696, 520), (603, 1272), (1388, 1040)]
MOST = 375


@pytest.fixture
async def client(serving: Serving) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(detector(BrightEngine())) as running:
        yield running.client


async def ask(client: httpx.AsyncClient, body: bytes, url: str = SEGMENT) -> dict[str, Any]:
    answer = await client.post(url, content=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def outlines(width: int, height: int) -> list[int]:
    """Where the bright part of `scene` lies."""
    return [width // 8, height // 8, width // 2, height // 4]


@pytest.mark.parametrize(("width", "height"), SIZES)
async def test_boxes_and_masks_are_in_the_pixels_of_the_picture(
    client: httpx.AsyncClient, width: int, height: int
) -> None:
    answer = await ask(client, encoded(scene(width, height)))
    assert (answer["width"], answer["height"]) == (width, height)
    (found,) = answer["objects"]
    near = 1.5 * max(width, height, 512) / 512
    assert np.abs(np.array(found["box"]) - outlines(width, height)).max() <= near
    assert found["mask"]["size"] == [height, width]
    mask = mask_of_rle((height, width), found["mask"]["counts"])
    assert mask.sum() == found["area"]
    truth = np.asarray(scene(width, height))[:, :, 0] > 128
    assert (mask & truth).sum() / (mask | truth).sum() > 0.9


async def test_a_picture_without_objects_has_none(client: httpx.AsyncClient) -> None:
    dark = encoded(Image.new("RGB", (300, 260)))
    for url in (DETECT, SEGMENT, f"{SEGMENT}?masks=polygon", f"{SEGMENT}?explain=1&min_score=0"):
        assert (await ask(client, dark, url))["objects"] == []
    drawn = await client.post(f"{SEGMENT}?overlay=1", content=dark)
    assert Image.open(io.BytesIO(drawn.content)).getextrema() == ((0, 0),) * 3


@pytest.mark.parametrize("query", ["", "?masks=polygon"])
async def test_hundreds_of_objects_are_all_answered(serving: Serving, query: str) -> None:
    """As many as a picture of the nuclei set holds."""
    picture = encoded(scene(1388, 1388))
    async with serving(detector(CrowdEngine(MOST))) as running:
        objects = (await ask(running.client, picture, f"{SEGMENT}{query}"))["objects"]
        assert len(objects) == MOST
        scores = [found["score"] for found in objects]
        assert scores == sorted(scores, reverse=True)
        assert all(found["mask"] and found["area"] > 0 for found in objects)
        drawn = await running.client.post(f"{SEGMENT}?overlay=1", content=picture)
        assert Image.open(io.BytesIO(drawn.content)).size == (1388, 1388)
        few = await ask(running.client, picture, f"{DETECT}?top=100")
        assert len(few["objects"]) == 100


async def test_what_is_found_in_the_padding_is_not_there(serving: Serving) -> None:
    async with serving(detector(CrowdEngine(MOST))) as running:
        for width, height in ((1388, 1040), (1040, 1388)):
            objects = (await ask(running.client, encoded(scene(width, height))))["objects"]
            boxes = np.array([found["box"] for found in objects])
            assert len(boxes) == pytest.approx(0.75 * MOST, rel=0.1)
            assert (boxes >= 0).all()
            assert (boxes <= [width, height] * 2).all()
            assert (boxes[:, :2] < boxes[:, 2:]).all()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
async def test_a_single_pixel_is_a_picture(client: httpx.AsyncClient, form: str) -> None:
    dot = encoded(Image.new("RGB", (1, 1), "white"), form)
    (found,) = (await ask(client, dot))["objects"]
    assert found["box"] == [0, 0, 1, 1]
    assert found["area"] == 1
    (outlined,) = (await ask(client, dot, f"{SEGMENT}?masks=polygon"))["objects"]
    assert outlined["mask"] == [[0, 0, 1, 0, 1, 1, 0, 1]]
    drawn = await client.post(f"{SEGMENT}?overlay=1", content=dot)
    assert Image.open(io.BytesIO(drawn.content)).size == (1, 1)


@pytest.mark.parametrize(("width", "height"), [(3000, 1), (1, 3000), (2000, 3)])
async def test_lines_are_pictures(client: httpx.AsyncClient, width: int, height: int) -> None:
    """The short side is a pixel of the network's input, or less."""
    (found,) = (await ask(client, encoded(Image.new("RGB", (width, height), "white"))))["objects"]
    assert found["box"] == [0, 0, width, height]
    assert found["mask"]["size"] == [height, width]


def _palette(picture: Image.Image) -> Image.Image:
    return picture.quantize(4)


def _sixteen_bits(picture: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) << 8)


def _opaque(picture: Image.Image) -> Image.Image:
    picture = picture.copy()
    picture.putalpha(255)
    return picture


FORMS: dict[str, tuple[Callable[[Image.Image], Image.Image], str]] = {
    "grey": (lambda p: p.convert("L"), "PNG"),
    "grey and alpha": (lambda p: _opaque(p.convert("L")), "PNG"),
    "one bit": (lambda p: p.convert("1"), "PNG"),
    "16 bits": (_sixteen_bits, "PNG"),
    "palette": (_palette, "PNG"),
    "alpha": (_opaque, "PNG"),
    "grey JPEG": (lambda p: p.convert("L"), "JPEG"),
    "CMYK JPEG": (lambda p: p.convert("CMYK"), "JPEG"),
    "alpha WebP": (_opaque, "WEBP"),
}


@pytest.mark.parametrize(("change", "form"), FORMS.values(), ids=FORMS)
async def test_every_kind_of_pixels_shows_the_same(
    client: httpx.AsyncClient, change: Callable[[Image.Image], Image.Image], form: str
) -> None:
    changed = change(scene(640, 480))
    answer = await ask(client, encoded(changed, form))
    assert (answer["width"], answer["height"]) == (640, 480)
    (found,) = answer["objects"]
    assert np.abs(np.array(found["box"]) - outlines(640, 480)).max() <= 3
    drawn = await client.post(f"{SEGMENT}?overlay=1", content=encoded(changed, form))
    assert Image.open(io.BytesIO(drawn.content)).size == (640, 480)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("channels", [3, 4])
async def test_sixteen_bits_of_colour_lose_their_low_byte(
    client: httpx.AsyncClient, channels: int
) -> None:
    """Which Pillow does not write: the file is put together here (PNG, section 11)."""
    shown = np.asarray(scene(640, 480)).astype(np.uint16) << 8 | 0x7F
    if channels == 4:
        shown = np.dstack((shown, np.full(shown.shape[:2], 0xFFFF, np.uint16)))
    rows = shown.astype(">u2").reshape(480, -1).view(np.uint8)
    unfiltered = np.hstack((np.zeros((480, 1), np.uint8), rows)).tobytes()
    header = struct.pack(">IIBBBBB", 640, 480, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    file = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header)
    file += _chunk(b"IDAT", zlib.compress(unfiltered)) + _chunk(b"IEND", b"")
    (found,) = (await ask(client, file))["objects"]
    (plain,) = (await ask(client, encoded(scene(640, 480))))["objects"]
    assert found == plain


@pytest.mark.parametrize("palette", [False, True])
async def test_what_is_transparent_is_white(client: httpx.AsyncClient, palette: bool) -> None:
    """Here white is an object: the picture is dark, and clear in its left half."""
    clear: UInt8Array = np.zeros((100, 200, 4), np.uint8)
    clear[:, 100:, 3] = 255
    picture = Image.fromarray(clear)
    (found,) = (await ask(client, encoded(picture.quantize(8) if palette else picture)))["objects"]
    assert np.abs(np.array(found["box"]) - [0, 0, 100, 100]).max() <= 1


# Orientations of EXIF, and what a camera has done to a picture that is upright again by them.
_TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "PNG"])
@pytest.mark.parametrize("orientation", _TURNED)
async def test_turned_pictures_are_answered_upright(
    client: httpx.AsyncClient, orientation: int, form: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    lying = scene(240, 400).transpose(_TURNED[orientation])
    body = encoded(lying, form, exif=exif.tobytes())
    answer = await ask(client, body)
    assert (answer["width"], answer["height"]) == (240, 400)
    (found,) = answer["objects"]
    assert np.allclose(found["box"], outlines(240, 400), atol=2.5)
    assert found["mask"]["size"] == [400, 240]
    drawn = await client.post(f"{DETECT}?overlay=1", content=body)
    assert Image.open(io.BytesIO(drawn.content)).size == (240, 400)


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 400, "the body is empty"),
        (encoded(scene(64, 64))[:-40], 400, "PNG image"),
        (encoded(scene(64, 64), "JPEG")[:300], 400, "JPEG image"),
        (encoded(scene(64, 64), "WEBP")[:-40], 400, "WebP image is truncated"),
        (encoded(scene(64, 64), "GIF"), 415, "got a GIF image"),
        (encoded(scene(64, 64), "TIFF"), 415, "got a TIFF image"),
        (encoded(Image.new("1", (8000, 8000))), 413, "8000x8000, the limit is 40,000,000 pixels"),
    ],
    ids=["empty", "cut PNG", "cut JPEG", "cut WebP", "GIF", "TIFF", "huge"],
)
@pytest.mark.parametrize("url", [DETECT, SEGMENT, f"{SEGMENT}?overlay=1"])
async def test_what_is_no_picture_is_refused(
    client: httpx.AsyncClient, url: str, body: bytes, status: int, says: str
) -> None:
    answer = await client.post(url, content=body)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert says in answer.json()["error"]
