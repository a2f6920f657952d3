"""Pictures that are shown to a network whole: as files or as pixels, and what their masks hold."""

from __future__ import annotations

import numpy as np
import pytest

from engines.core import static_point
from service.request import Prediction, Reply
from service.results import Objects
from service.schemas.detection import Limits
from service.whole_pictures import WholePicture, in_picture, mask_bytes
from tests.service.detectors import encoded, scene

SIZE = 64


def reply_of(*boxes: tuple[float, float, float, float]) -> Reply:
    """Objects at these places of an image of 64 pixels, ever less sure."""
    count = len(boxes)
    return Reply(
        probabilities=np.zeros(0, np.float32),
        activation=np.zeros(0, np.float32),
        point=static_point("full", SIZE, 0),
        reason="best",
        accuracy=None,
        batch_size=1,
        service_s=0.0,
        predicted=Prediction(0.0, 0.0, 0.0, 0.0),
        phases_s={},
        objects=Objects(
            np.array(boxes, np.float32).reshape(-1, 4),
            np.linspace(0.9, 0.3, count, dtype=np.float32),
            np.zeros(count, np.int64),
            np.ones((count, 28, 28), np.float32),
        ),
    )


def picture_of(width: int, height: int) -> WholePicture:
    return WholePicture.encoded(encoded(scene(width, height)), max_pixels=10**7)


def test_pixels_and_their_file_give_the_same_input() -> None:
    picture = scene(SIZE, SIZE)
    pixels = WholePicture.of_pixels(np.array(picture))
    file = picture_of(SIZE, SIZE)
    for size in (SIZE, SIZE // 2):
        one, other = (each.at(size, crop_ratio=1.0) for each in (pixels, file))
        np.testing.assert_array_equal(one, other)
    assert pixels.upright_size() == file.upright_size() == (SIZE, SIZE)
    with pytest.raises(TypeError, match="sent as pixels"):
        _ = pixels.encoded_bytes


@pytest.mark.parametrize(("width", "height"), [(64, 64), (640, 480), (300, 1000), (7, 3)])
def test_room_is_made_for_masks(width: int, height: int) -> None:
    picture = picture_of(width, height)
    reply = reply_of((0, 0, 64, 64), (3.2, 4.7, 30.1, 20), (10, 10, 10.4, 11))
    found = in_picture(picture, reply, Limits(min_score=0.0), masks=True).found
    assert found.masks is not None
    held = [mask.bitmap.nbytes for mask in found.masks]
    room = mask_bytes(picture, reply, Limits(min_score=0.0))
    assert sum(held) + 4 * max(held) <= room
    # The first box, as large as the square, is what costs; a narrow picture fills a third of it.
    assert room < 12 * max(width, height) ** 2 + 100 * (max(width, height) + 10)


def test_no_room_is_made_for_what_is_not_answered() -> None:
    picture, reply = picture_of(64, 64), reply_of((0, 0, 64, 64), (0, 0, 32, 32))
    every = mask_bytes(picture, reply, Limits(min_score=0.0))
    assert mask_bytes(picture, reply, Limits(min_score=0.5)) < every
    assert mask_bytes(picture, reply, Limits(min_score=0.0, top=1)) < every
    assert mask_bytes(picture, reply, Limits(min_score=0.95)) == 0
    assert mask_bytes(picture, reply_of(), Limits()) == 0
