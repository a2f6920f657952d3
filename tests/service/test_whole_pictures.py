"""Pictures that are shown to a network whole: as files or as pixels, and what their masks hold."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from engines.core import Float32Array, static_point
from service.errors import BadRequest
from service.request import Prediction, Reply
from service.results import Objects
from service.schemas.detection import Limits, Object, described
from service.whole_pictures import WholePicture, in_picture, mask_bytes
from tests.service.detectors import encoded, scene

SIZE = 64


def reply_of(*boxes: tuple[float, float, float, float], mask: Float32Array | None = None) -> Reply:
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
            np.repeat((SOLID if mask is None else mask)[np.newaxis], count, axis=0),
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


SOLID = np.ones((28, 28), np.float32)
ROWS, COLUMNS = np.mgrid[:28, :28] - 13.5
DISC = (ROWS**2 + COLUMNS**2 < 13**2).astype(np.float32)
NOISE = np.random.default_rng(0).random((28, 28)).astype(np.float32)


@pytest.mark.parametrize("probabilities", [SOLID, DISC, NOISE], ids=["solid", "disc", "noise"])
@pytest.mark.parametrize("polygons", [False, True], ids=["rle", "polygons"])
@pytest.mark.parametrize(
    ("width", "height", "boxes"),
    [
        pytest.param(640, 480, [(0, 0, 64, 48)], id="all of it"),
        pytest.param(6300, 6300, [(0, 5, 64, 5.122)], id="6300x12"),
        pytest.param(6300, 6300, [(5, 0, 5.122, 64)], id="12x6300"),
        pytest.param(300, 1000, [(2, 2, 9, 40), (0, 0, 3, 3)] * 20, id="many"),
        pytest.param(7, 3, [(10, 10, 10.4, 11), (0, 0, 64, 20)], id="small"),
    ],
)
def test_room_is_made_for_masks(
    width: int,
    height: int,
    boxes: list[tuple[float, float, float, float]],
    polygons: bool,
    probabilities: Float32Array,
) -> None:
    pixels = np.broadcast_to(np.zeros(3, np.uint8), (height, width, 3))
    picture, reply = WholePicture.of_pixels(pixels), reply_of(*boxes, mask=probabilities)
    limits = Limits(min_score=0.0)

    def made() -> list[Object]:
        there = in_picture(picture, reply, limits, masks=True)
        return described(there.found, ["thing"], width, height, polygons=polygons)

    made()
    tracemalloc.start()
    found = made()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    room = mask_bytes([(picture, reply)], limits)
    assert len(found) == len(boxes)
    assert peak <= room


def test_room_is_in_proportion_to_what_is_shown() -> None:
    large = WholePicture.of_pixels(np.broadcast_to(np.zeros(3, np.uint8), (2000, 2000, 3)))
    room = mask_bytes([(large, reply_of((0, 0, 64, 64), mask=DISC))], Limits())
    assert room < 10 * 2000**2


def test_no_room_is_made_for_what_is_not_answered() -> None:
    picture, reply = picture_of(64, 64), reply_of((0, 0, 64, 64), (0, 0, 32, 32))
    asked = [(picture, reply)]
    every = mask_bytes(asked, Limits(min_score=0.0))
    assert mask_bytes(asked, Limits(min_score=0.5)) < every
    assert mask_bytes(asked, Limits(min_score=0.0, top=1)) < every
    assert mask_bytes(asked, Limits(min_score=0.95)) == 0
    assert mask_bytes([(picture, reply_of())], Limits()) == 0


def test_more_masks_than_a_second_makes_are_refused() -> None:
    """Of all pictures of an answer together."""
    large = WholePicture.of_pixels(np.broadcast_to(np.zeros(3, np.uint8), (6300, 6300, 3)))
    whole = (large, reply_of((0, 0, 64, 64)))
    assert mask_bytes([whole, whole], Limits())
    with pytest.raises(BadRequest, match="pixels, the limit is 100,000,000: ask for fewer by"):
        mask_bytes([whole, whole, whole], Limits())
    crowd = (large, reply_of(*[(0, 0, 64, 64)] * 3))
    with pytest.raises(BadRequest, match="the limit is"):
        mask_bytes([crowd], Limits(min_score=0.0))
    assert mask_bytes([crowd], Limits(min_score=0.0, top=2))
