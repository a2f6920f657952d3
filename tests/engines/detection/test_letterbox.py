from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from engines.detection.letterbox import (
    GREY,
    decode_whole,
    inner_size,
    letterbox,
    paste,
    to_picture,
)
from engines.errors import ImageError, InvalidInput


@pytest.mark.parametrize(
    ("width", "height", "inner"),
    [(1, 1, (64, 64)), (696, 520, (64, 48)), (603, 1272, (30, 64)), (5000, 1, (64, 1))],
)
def test_the_long_side_fills_the_square(width: int, height: int, inner: tuple[int, int]) -> None:
    assert inner_size(width, height, 64) == inner


def test_the_rest_is_grey() -> None:
    square = letterbox(np.full((10, 20, 3), 200, np.uint8), 40)
    assert (square[:20] == 200).all()
    assert (square[20:] == GREY).all()


def test_a_picture_of_the_size_is_itself() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    assert (letterbox(pixels, 32) == pixels).all()


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(InvalidInput, match="must be uint8"):
        letterbox(np.zeros((0, 4, 3), np.uint8), 32)
    with pytest.raises(ImageError, match="empty"):
        decode_whole(b"", 32)


def _encoded(picture: Image.Image, form: str, **more: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, form, **more)
    return out.getvalue()


def test_every_kind_of_picture_becomes_three_channels() -> None:
    deep = Image.fromarray(np.full((8, 16), 200 << 8, np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    turned = _encoded(Image.new("RGB", (16, 8), "white"), "JPEG", exif=exif.tobytes())
    assert (decode_whole(_encoded(deep, "PNG"), 32)[:16] == 200).all()
    assert (decode_whole(_encoded(Image.new("L", (1, 1), 9), "PNG"), 32) == 9).all()
    upright = decode_whole(turned, 32)
    assert (upright[:, :16] > 250).all()
    assert (upright[:, 16:] == GREY).all()


def test_boxes_come_back_to_the_picture_and_padding_is_left_out() -> None:
    boxes = np.array([[16, 8, 32, 16], [40, 20, 64, 60], [0, 50, 9, 60]], np.float32)
    scores = np.array([0.9, 0.8, 0.7], np.float32)
    # A picture of 32 x 16, shown at twice its size in the upper half of a square of 64.
    found = to_picture(
        boxes, scores, np.zeros(3, np.int64), np.ones((3, 28, 28), np.float32),
        size=64, width=32, height=16,
    )  # fmt: skip
    assert found.boxes.tolist() == [[8, 4, 16, 8], [20, 10, 32, 16]]
    assert found.scores.tolist() == pytest.approx([0.9, 0.8])
    assert found.masks is not None
    assert [mask.box for mask in found.masks] == [(8, 4, 16, 8), (20, 10, 32, 16)]
    assert found.masks[0].area == 32


def test_a_mask_is_spread_over_its_box() -> None:
    left_half = np.zeros((28, 28), np.float32)
    left_half[:, :14] = 1
    mask = paste(left_half, (4.0, 2.0, 12.0, 6.0), 20, 10)
    assert mask.box == (4, 2, 12, 6)
    assert mask.bitmap[:, :4].all()
    assert not mask.bitmap[:, 4:].any()


def test_fractions_of_pixels_count_by_their_centre() -> None:
    mask = paste(np.ones((28, 28), np.float32), (1.6, 1.4, 4.6, 4.4), 20, 10)
    assert mask.window(0, 0, 6, 6).nonzero()[0].min() == 1
    assert mask.window(0, 0, 6, 6).nonzero()[1].min() == 2
    assert mask.area == 9


def test_a_box_within_a_pixel_is_that_pixel() -> None:
    assert paste(np.ones((28, 28), np.float32), (3.1, 3.1, 3.2, 3.2), 20, 10).area == 1
