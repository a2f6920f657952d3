"""From uint8 pictures to network input."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from engines.bundle import Preprocessing
from engines.core import UInt8Array
from engines.models.inputs import normalise

pytestmark = pytest.mark.torch


def preprocessing(order: str) -> Preprocessing:
    return Preprocessing.model_validate(
        {"crop_ratio": 1.0, "channel_order": order, "mean": (10, 20, 30), "std": (1, 2, 4)}
    )


@pytest.fixture
def picture() -> UInt8Array:
    """A row of two pixels; the first is (14, 26, 50) in RGB."""
    return np.array([[[[14, 26, 50], [255, 0, 128]]]], np.uint8)


@pytest.mark.parametrize(("order", "first"), [("rgb", [4.0, 3.0, 5.0]), ("bgr", [40.0, 3.0, -4.0])])
def test_channels_are_ordered_and_then_normalised(
    picture: UInt8Array, order: str, first: list[float]
) -> None:
    x = normalise(picture, preprocessing(order))
    assert (x.dtype, x.shape) == (torch.float32, (1, 3, 1, 2))
    assert x[0, :, 0, 0].tolist() == first


def test_rows_stay_rows() -> None:
    picture = np.zeros((1, 2, 3, 3), np.uint8)
    picture[0, 1, 2] = 255
    x = normalise(picture, preprocessing("rgb"))
    assert (x[0, 0] > 0).nonzero().tolist() == [[1, 2]]


def test_memory_is_channels_last() -> None:
    x = normalise(np.zeros((2, 5, 4, 3), np.uint8), preprocessing("bgr"))
    assert x.is_contiguous(memory_format=torch.channels_last)


def test_pixels_that_may_not_be_written_do(picture: UInt8Array) -> None:
    """torch would warn of them, and warnings are errors here."""
    wanted = normalise(picture, preprocessing("rgb"))
    picture.flags.writeable = False
    assert torch.equal(normalise(picture, preprocessing("rgb")), wanted)
